"""Signatures of a model's folder: who is trusted, and whether every byte is what was signed.

A signature is a file beside the folder (OpenSSF `model-signing`, offline). It covers the name and
the content of every file: no name is exempt. This module is what consumers need; `registry.signing`
has the reviewer's side.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from product1m.errors import RegistryError
from product1m.storage.disk import reason_of

SIGNATURE = "champion.sig"
"""Name of the signature among a version's files; it is not in the folder that is signed."""
KEYS, ROOTS, ALLOW = "PRODUCT1M_TRUSTED_KEY", "PRODUCT1M_TRUSTED_ROOT", "PRODUCT1M_ALLOW_UNSIGNED"
"""Environment: public keys and root certificates that are trusted, separated like paths in `PATH`,
and `true` to load without a valid signature."""
ALLOW_OPTION = "--allow-unsigned"
PUBLIC_KEY = "reviewer.pub"
"""Name of the public key in `default_folder`."""
DOWNLOADED_FROM = "registered_model_meta"
"""File with model and version that MLflow's client adds to what it downloads."""
_SIGNED_BY = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
_PREDICATE = "https://model_signing/signature/v1.0"


def default_folder() -> Path:
    """Where keys are looked for if no option or variable names them."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "product1m"


@dataclass(frozen=True)
class Trust:
    """Whose signatures are accepted."""

    keys: tuple[Path, ...] = ()
    """Public keys, PEM. Several while a key is replaced."""
    roots: tuple[Path, ...] = ()
    """Root certificates, PEM; every certificate below them that may sign is accepted."""
    allow_unsigned: bool = False
    """Load what has no valid signature too."""

    @classmethod
    def from_options(
        cls,
        allow_unsigned: bool = False,
        keys: Iterable[Path] = (),
        roots: Iterable[Path] = (),
    ) -> "Trust":
        """What options give, else the environment, else the public key in `default_folder`."""
        keys, roots = tuple(keys), tuple(roots)
        if not keys and not roots:
            keys, roots = _paths(KEYS), _paths(ROOTS)
        own = default_folder() / PUBLIC_KEY
        if not keys and not roots and os.access(own, os.R_OK):
            keys = (own,)
        allowed = os.environ.get(ALLOW, "").lower() in ("1", "true")
        return cls(keys, roots, allow_unsigned or allowed)


def _paths(name: str) -> tuple[Path, ...]:
    return tuple(
        Path(part).expanduser() for part in os.environ.get(name, "").split(os.pathsep) if part
    )


def signature_of(folder: Path) -> Path:
    """Where the signature of a folder is: among what was downloaded, else beside the folder."""
    inside = folder / SIGNATURE
    return inside if inside.exists() else folder.parent / SIGNATURE


def remove_bytecode(code: Path) -> None:
    """Remove what Python cached of a model's code when MLflow ran it, which nobody signs."""
    for cached in (code.parent / "__pycache__").glob(f"{code.stem}.*.pyc"):
        cached.unlink()
        if not any(cached.parent.iterdir()):
            cached.parent.rmdir()


def require_signed(folder: Path, signature: Path, trust: Trust, title: str) -> bool:
    """Raise RegistryError unless a trusted signature covers every byte of `folder`.

    Args:
        folder: every file in it must be signed, except `signature` if that is in it.
        signature: the signature's file.
        trust: whose signature; with `allow_unsigned` nothing is raised.
        title: what is loaded, for the message.

    Returns:
        Whether it is signed.
    """
    try:
        verify_folder(folder, signature, trust)
    except RegistryError as error:
        if trust.allow_unsigned:
            return False
        raise RegistryError(
            f"{title}: {error}; nothing was loaded. If you know what it is and want it anyway, add "
            f"{ALLOW_OPTION} or set {ALLOW}=true"
        ) from error
    return True


def verify_folder(folder: Path, signature: Path, trust: Trust) -> None:
    """Raise RegistryError that says what is wrong with a signature, or with which file."""
    if not signature.is_file():
        raise RegistryError(f"it has no signature ({signature.name}); only `promote` signs")
    if not trust.keys and not trust.roots:
        raise RegistryError(
            f"no key is trusted here; set {KEYS} to the reviewers' public key, or {ROOTS} to their "
            "root certificate (`product1m registry new-key` makes a pair)"
        )
    bundle = _read_bundle(signature)
    with _refusals("the signature or a file is not what a trusted key signed"):
        verifier = _verifier(bundle, trust)
        verifier.set_hashing_config(every_byte(ignored=_inside(signature, folder)))
        verifier.verify(folder, signature)
        _require_nothing_exempt(bundle)
    empty = [path for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())]
    if empty:
        raise RegistryError(f"{empty[0]}: an empty folder that was not signed")


def every_byte(ignored: tuple[Path, ...] = ()) -> Any:
    """How folders are hashed: file by file, no name exempt but `ignored`, no links."""
    from model_signing import hashing

    config = hashing.Config().use_file_serialization(hashing_algorithm="sha256")
    return config.set_ignored_paths(paths=ignored, ignore_git_paths=False)


def _inside(signature: Path, folder: Path) -> tuple[Path, ...]:
    """The files of a downloaded folder that are not the model's: signature, MLflow's own note."""
    inside = [signature.relative_to(folder)] if signature.is_relative_to(folder) else []
    note = folder / DOWNLOADED_FROM
    if note.is_file() and not note.is_symlink():
        inside.append(Path(DOWNLOADED_FROM))
    return tuple(inside)


def _read_bundle(signature: Path) -> dict[str, Any]:
    try:
        bundle: dict[str, Any] = json.loads(signature.read_text("utf-8"))
        bundle["verificationMaterial"].keys()
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise RegistryError(f"{signature.name}: not a signature ({reason_of(error)})") from error
    return bundle


def _verifier(bundle: dict[str, Any], trust: Trust) -> Any:
    from model_signing import verifying

    material = bundle["verificationMaterial"]
    if "publicKey" in material:
        key = _key_of(material["publicKey"].get("hint"), trust.keys)
        return verifying.Config().use_elliptic_key_verifier(public_key=key)
    if not trust.roots:
        raise RegistryError(
            f"it is signed with a certificate; set {ROOTS} to the root certificate of its issuer"
        )
    return verifying.Config().use_certificate_verifier(certificate_chain=trust.roots)


def _key_of(fingerprint: str | None, keys: tuple[Path, ...]) -> Path:
    known = {}
    for key in keys:
        known[fingerprint_of(key)] = key
    if fingerprint not in known:
        names = ", ".join(f"{path} ({name[:12]})" for name, path in known.items()) or "none"
        raise RegistryError(
            f"it is signed with the key {str(fingerprint)[:12]}; trusted here are {names}"
        )
    return known[fingerprint]


def fingerprint_of(public_key: Path) -> str:
    """SHA-256 of a public key in PEM; RegistryError if the file is not one."""
    import hashlib

    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(public_key.read_bytes())
    except (OSError, ValueError) as error:
        raise RegistryError(
            f"{public_key}: expected a public key in PEM ({reason_of(error)})"
        ) from error
    return hashlib.sha256(public_pem(key)).hexdigest()


def public_pem(key: Any) -> bytes:
    """A public key of `cryptography` as the PEM that its fingerprint is made of."""
    from cryptography.hazmat.primitives import serialization

    encoded: bytes = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _require_nothing_exempt(bundle: dict[str, Any]) -> None:
    """RegistryError unless the statement, whose signature was verified, covers whole files."""
    import base64

    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    if statement.get("predicateType") != _PREDICATE:
        raise RegistryError(
            f"the signature is a {statement.get('predicateType')}, not {_PREDICATE}"
        )
    if statement["predicate"]["serialization"] != _SIGNED_BY:
        raise RegistryError("the signature exempts files, or does not cover whole files")


@contextmanager
def _refusals(meaning: str) -> Iterator[None]:
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:  # the libraries refuse in many ways
        words = _differences(str(error)) or str(error) or type(error).__name__
        raise RegistryError(f"{meaning} ({words})") from error


def _differences(message: str) -> str:
    """Names of the files in the library's message, without its digests; empty if it is another."""
    plain = message.replace("\\'", "'")
    names_by_fault = {
        "changed": re.findall(r"Hash mismatch for '([^']+)'", plain),
        "added": re.findall(r"Extra files found in model '[^']*': ([^\"']+)", plain),
        "missing": re.findall(r"Missing files in model '[^']*': ([^\"']+)", plain),
    }
    return "; ".join(
        f"{fault}: {', '.join(names)}" for fault, names in names_by_fault.items() if names
    )
