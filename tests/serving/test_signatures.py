"""What a signature covers, whose signature counts, and the messages if it does not."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from product1m.errors import RegistryError
from product1m.registry.signing import Signer, new_key, sign_folder, signer
from product1m.serving.signatures import SIGNATURE, Trust, require_signed, verify_folder

NAMES = ("weights", ".gitignore", ".gitattributes", ".git/config", ".github/x", "deep/er/file")
"""Among them the names that model-signing leaves out by default."""


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Signer, Trust]:
    """A reviewer's key, and trust in it."""
    private, public = new_key(tmp_path / "keys")
    return Signer(private), Trust(keys=(public,))


@pytest.fixture
def folder(tmp_path: Path, keys: tuple[Signer, Trust]) -> Path:
    """A signed folder, its signature beside it."""
    root = tmp_path / "model"
    for name in NAMES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    sign_folder(root, tmp_path / SIGNATURE, keys[0])
    return root


def test_a_folder_is_verified_wherever_its_signature_is(
    folder: Path, keys: tuple[Signer, Trust]
) -> None:
    beside = folder.parent / SIGNATURE
    verify_folder(folder, beside, keys[1])
    inside = beside.rename(folder / SIGNATURE)
    verify_folder(folder, inside, keys[1])
    moved = folder.rename(folder.with_name("under another name"))
    verify_folder(moved, moved / SIGNATURE, keys[1])


@pytest.mark.parametrize("name", NAMES)
def test_no_file_is_exempt(folder: Path, keys: tuple[Signer, Trust], name: str) -> None:
    path = folder / name
    content = path.read_text()
    path.write_text(content[:-1] + "!")
    with pytest.raises(RegistryError, match=f"changed: {name}"):
        verify_folder(folder, folder.parent / SIGNATURE, keys[1])
    path.unlink()
    with pytest.raises(RegistryError, match=f"missing: {name}"):
        verify_folder(folder, folder.parent / SIGNATURE, keys[1])


@pytest.mark.parametrize("name", ["more", ".git/hooks", "__pycache__/mlflow_model.pyc"])
def test_a_file_too_many_is_named(folder: Path, keys: tuple[Signer, Trust], name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("")
    with pytest.raises(RegistryError, match=f"added: {name}"):
        verify_folder(folder, folder.parent / SIGNATURE, keys[1])


def _link(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "weights")


def _empty(folder: Path) -> None:
    (folder / "nothing").mkdir()


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize("add", [_link, _empty, _pipe])
def test_what_is_not_a_file_is_refused(
    folder: Path, keys: tuple[Signer, Trust], add: Callable[[Path], None]
) -> None:
    add(folder)
    with pytest.raises(RegistryError, match=r"link|nothing|pipe"):
        verify_folder(folder, folder.parent / SIGNATURE, keys[1])


def test_a_signature_that_exempts_files_is_refused(
    folder: Path, keys: tuple[Signer, Trust]
) -> None:
    from model_signing import hashing, signing  # as its own command signs

    config = signing.Config().use_elliptic_key_signer(private_key=keys[0].key)
    config.set_hashing_config(hashing.Config()).sign(folder, folder.parent / SIGNATURE)
    with pytest.raises(RegistryError, match=r"exempts files"):
        verify_folder(folder, folder.parent / SIGNATURE, keys[1])


def test_only_trusted_keys_count_and_two_count_while_one_is_replaced(
    folder: Path, keys: tuple[Signer, Trust], tmp_path: Path
) -> None:
    private, public = new_key(tmp_path / "new keys")
    signature = folder.parent / SIGNATURE
    with pytest.raises(RegistryError, match=r"signed with the key \w{12}; trusted here"):
        verify_folder(folder, signature, Trust(keys=(public,)))
    both = Trust(keys=(public, *keys[1].keys))
    verify_folder(folder, signature, both)
    sign_folder(folder, signature, Signer(private))
    verify_folder(folder, signature, both)
    # The statement says that it is by the old key, as a forger would write.
    forged = signature.read_text()
    sign_folder(folder, signature, keys[0])
    hint = signature.read_text().split('"hint":"')[1][:64]
    signature.write_text(forged.replace(forged.split('"hint":"')[1][:64], hint))
    with pytest.raises(RegistryError, match="not what a trusted key signed"):
        verify_folder(folder, signature, keys[1])


def test_without_signature_or_key_it_is_said_what_to_do(
    folder: Path, keys: tuple[Signer, Trust]
) -> None:
    signature = folder.parent / SIGNATURE
    with pytest.raises(RegistryError, match="set PRODUCT1M_TRUSTED_KEY to the reviewers' public"):
        require_signed(folder, signature, Trust(), "it")
    signature.write_text("{}")
    with pytest.raises(RegistryError, match=r"champion\.sig: not a signature"):
        require_signed(folder, signature, keys[1], "it")
    signature.unlink()
    with pytest.raises(RegistryError, match=r"it: it has no signature .* add --allow-unsigned"):
        require_signed(folder, signature, keys[1], "it")
    assert not require_signed(folder, signature, Trust(allow_unsigned=True), "it")


def test_keys_come_from_the_environment_or_from_where_new_key_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert Trust.from_options() == Trust()
    with pytest.raises(
        RegistryError, match=r"no key that can be read; .*`product1m registry new-key`"
    ):
        signer(None)
    private, public = new_key(tmp_path / "product1m")
    assert Trust.from_options() == Trust(keys=(public,))
    assert signer(None) == Signer(private)
    assert private.stat().st_mode & 0o777 == 0o600
    with pytest.raises(RegistryError, match="exists; a new key would make its champions untrusted"):
        new_key(tmp_path / "product1m")
    written = public.read_bytes()
    public.unlink()  # as if the process had been killed before it wrote the second file
    assert new_key(tmp_path / "product1m") == (private, public)
    assert public.read_bytes() == written
    monkeypatch.setenv("PRODUCT1M_TRUSTED_KEY", os.pathsep.join(["/a", "/b"]))
    monkeypatch.setenv("PRODUCT1M_ALLOW_UNSIGNED", "true")
    assert Trust.from_options() == Trust(keys=(Path("/a"), Path("/b")), allow_unsigned=True)


def test_a_key_with_a_password_signs_with_it(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODUCT1M_KEY_PASSWORD", "a password")
    private, public = new_key(tmp_path / "locked")
    sign_folder(folder, folder.parent / SIGNATURE, Signer(private))
    verify_folder(folder, folder.parent / SIGNATURE, Trust(keys=(public,)))
    monkeypatch.delenv("PRODUCT1M_KEY_PASSWORD")
    with pytest.raises(RegistryError, match="its password in PRODUCT1M_KEY_PASSWORD"):
        sign_folder(folder, folder.parent / SIGNATURE, Signer(private))


def _certificate(
    folder: Path, name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Write key and certificate of `name`, by itself or by its issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=bool(issuer), key_cert_sign=not issuer, crl_sign=not issuer,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=not issuer, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    made = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made, key


def test_a_certificate_counts_if_a_trusted_root_issued_it(
    folder: Path, keys: tuple[Signer, Trust], tmp_path: Path
) -> None:
    root = _certificate(tmp_path, "root", None)
    _certificate(tmp_path, "ann", root)
    _certificate(tmp_path, "stranger", None)
    signature = folder.parent / SIGNATURE
    by = Signer(tmp_path / "ann.key", tmp_path / "ann.pem", (tmp_path / "root.pem",))
    sign_folder(folder, signature, by)
    verify_folder(folder, signature, Trust(roots=(tmp_path / "root.pem",)))
    with pytest.raises(RegistryError, match=r"unable to get|self-signed"):
        verify_folder(folder, signature, Trust(roots=(tmp_path / "stranger.pem",)))
    with pytest.raises(RegistryError, match="with a certificate; set PRODUCT1M_TRUSTED_ROOT"):
        verify_folder(folder, signature, keys[1])
    (folder / "weights").write_text("other")
    with pytest.raises(RegistryError, match="changed: weights"):
        verify_folder(folder, signature, Trust(roots=(tmp_path / "root.pem",)))
    wrong = Signer(tmp_path / "root.key", tmp_path / "ann.pem", (tmp_path / "root.pem",))
    with pytest.raises(RegistryError, match="does not match the public key"):
        sign_folder(folder, signature, wrong)
