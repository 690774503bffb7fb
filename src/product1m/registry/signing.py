"""The reviewer's side of signatures: make a pair of keys, sign a folder."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from product1m.artifacts.atomic import whole_file
from product1m.errors import RegistryError
from product1m.serving.signatures import (
    PUBLIC_KEY,
    Trust,
    default_folder,
    every_byte,
    public_pem,
)
from product1m.storage.disk import reason_of

PRIVATE_KEY = "reviewer.key"
"""Name of the private key in `default_folder`."""
KEY, CERTIFICATE, CHAIN = "PRODUCT1M_KEY", "PRODUCT1M_CERTIFICATE", "PRODUCT1M_CHAIN"
PASSWORD = "PRODUCT1M_KEY_PASSWORD"  # noqa: S105  the name of a variable
"""Environment variables for signing: private key, certificate with chain, the key's password."""


@dataclass(frozen=True)
class Signer:
    """Who signs."""

    key: Path
    """Private key on a NIST curve, PEM."""
    certificate: Path | None = None
    """Certificate of the key, PEM; None to sign with the key alone."""
    chain: tuple[Path, ...] = ()
    """Certificates between `certificate` and the root, PEM; the root need not be among them."""


def signer(
    key: Path | None, certificate: Path | None = None, chain: tuple[Path, ...] = ()
) -> Signer:
    """Who signs, by default with the key in `default_folder`; RegistryError if there is no key."""
    path = key or default_folder() / PRIVATE_KEY
    if not os.access(path, os.R_OK):
        raise RegistryError(
            f"{path}: no key that can be read; a champion is signed, so make a pair with "
            f"`product1m registry new-key`, or name your private key with --key or {KEY}"
        )
    return Signer(path, certificate, chain)


def signer_of_environment() -> Signer:
    """Who signs, as the environment names it; otherwise the key in `default_folder`."""
    names = {name: os.environ.get(name, "") for name in (KEY, CERTIFICATE, CHAIN)}
    key, certificate = (Path(names[name]) if names[name] else None for name in (KEY, CERTIFICATE))
    chain = tuple(Path(name) for name in names[CHAIN].split() if name)
    return signer(key, certificate, chain)


def sign_folder(folder: Path, signature: Path, by: Signer) -> None:
    """Sign the name and content of every file of a folder; RegistryError if a key does not fit."""
    from model_signing import signing

    config = signing.Config().set_hashing_config(every_byte())
    try:
        if by.certificate:
            config.use_certificate_signer(
                private_key=by.key, signing_certificate=by.certificate, certificate_chain=by.chain
            )
        else:
            # The library hands the password on to a function that takes bytes.
            secret: Any = _password()
            config.use_elliptic_key_signer(private_key=by.key, password=secret)
        config.sign(folder, signature)
    except (ValueError, TypeError, OSError) as error:
        raise RegistryError(
            f"{by.key}: cannot sign ({reason_of(error, signature.parent)}); expected a private key "
            f"in PEM on the curve P-256, P-384 or P-521, its password in {PASSWORD} if it has one"
        ) from error


def new_key(folder: Path) -> tuple[Path, Path]:
    """Make a pair of keys, readable by its owner only; RegistryError if one exists.

    The public key of a private one that is alone, as a killed process or a full disk left it, is
    written without asking for another pair.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private, public = folder / PRIVATE_KEY, folder / PUBLIC_KEY
    if private.exists() and not public.exists():
        _write_public(private, public)
        return private, public
    for path in (private, public):
        if path.exists():
            raise RegistryError(
                f"{path}: exists; a new key would make its champions untrusted. To replace it, "
                "make one in another folder (--folder) and trust both until the next promotion"
            )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    password = _password()
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    with whole_file(private) as partial, open(partial, "xb", opener=_for_owner_only) as file:
        file.write(encoded)
    _write_public(private, public)
    return private, public


def _for_owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_public(private: Path, public: Path) -> None:
    with whole_file(public) as partial:
        partial.write_bytes(_public_of(private))


def trust_in(by: Signer, scratch: Path) -> Trust:
    """Trust in what `by` signs with its key, or in what the environment names for certificates."""
    if by.certificate:
        return Trust.from_options()
    public = scratch / PUBLIC_KEY
    public.write_bytes(_public_of(by.key))
    return Trust(keys=(public,))


def _public_of(private: Path) -> bytes:
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(private.read_bytes(), _password())
    except (ValueError, TypeError, OSError) as error:
        raise RegistryError(
            f"{private}: not a private key that can be used ({reason_of(error)})"
        ) from error
    return public_pem(key.public_key())


def _password() -> bytes | None:
    """The password of the private key; None if it has none."""
    return os.environ.get(PASSWORD, "").encode() or None
