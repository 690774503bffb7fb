#!/usr/bin/env bash
# model-signing: a plain install cannot be imported, and a folder signed by shards fails to verify.
#
# Seen with model-signing 1.1.1: its requirements leave out pyOpenSSL, so `import model_signing`
# raises ModuleNotFoundError until pyopenssl is installed too. A folder signed with
# `use_shard_serialization` is then refused by the default verifier with a TypeError, although no
# byte changed; the same folder signed by whole files is verified.
# Lesson: require pyopenssl beside it, and sign whole files.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" model-signing==1.1.1 cryptography==50.0.2
if "$folder/venv/bin/python" -c "import model_signing" 2> "$folder/error"; then
    echo "a plain install can be imported now"
    exit 1
fi
tail -n 1 "$folder/error"
"${pip[@]}" pyopenssl==26.4.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing, verifying

root = Path(sys.argv[1])
key = ec.generate_private_key(ec.SECP256R1())
(root / "key.pem").write_bytes(
    key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
)
(root / "public.pem").write_bytes(
    key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
)
(root / "model").mkdir()
(root / "model" / "weights").write_bytes(bytes(1000))
outcomes = {}
for name, by_shards in (("whole files", False), ("shards", True)):
    config = hashing.Config()
    if by_shards:
        config.use_shard_serialization()
    signature = root / f"{by_shards}.sig"
    signer = signing.Config().use_elliptic_key_signer(private_key=root / "key.pem")
    signer.set_hashing_config(config).sign(root / "model", signature)
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=root / "public.pem")
    try:
        verifier.verify(root / "model", signature)
        outcomes[name] = "verified"
    except Exception as error:
        outcomes[name] = type(error).__name__
print(outcomes)
assert outcomes == {"whole files": "verified", "shards": "TypeError"}, outcomes
PYTHON
