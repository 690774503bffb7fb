"""No output contains passwords and signatures of addresses or of the environment."""

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from product1m.cli.app import app
from product1m.errors import PhotoError, StorageError, printable, redacted
from product1m.telemetry.logs import JsonLines, WithoutSecrets
from tests.support.worlds.photo_files import encoded, picture
from tests.support.worlds.registered_model import MlflowStore


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at http://me:pass@host:80/x?y=1 today", "at http://***@host:80/x?y=1 today"),
        ("postgresql+psycopg://u:p%40ss@db/mlflow", "postgresql+psycopg://***@db/mlflow"),
        ("https://token@host/a@2x.jpg", "https://***@host/a@2x.jpg"),
        (
            "url: /a.jpg?size=3&X-Amz-Credential=AK%2Fx&X-Amz-Signature=ab12 (Caused by",
            "url: /a.jpg?size=3&X-Amz-Credential=***&X-Amz-Signature=*** (Caused by",
        ),
        ("https://b/x?sv=1&sig=a%2Bb&se=2'", "https://b/x?sv=1&sig=***&se=2'"),
        ("https://b/x?OSSAccessKeyId=LT&Expires=9", "https://b/x?OSSAccessKeyId=***&Expires=9"),
        ("https://b/x#access_token=abc", "https://b/x#access_token=***"),
        ("https://b/x?key=abc&id=7", "https://b/x?key=***&id=7"),
        ("https://b/x?X-Api-Key=abc&id=7", "https://b/x?X-Api-Key=***&id=7"),
        ("mysql+pymysql://u:p/s?x#y@db:3306/m", "mysql+pymysql://***@db:3306/m"),
        (
            "http://[::1]:80/a@2x.jpg, http://h:80/a@2x",
            "http://[::1]:80/a@2x.jpg, http://h:80/a@2x",
        ),
        (
            "https://resize.example/?url=http%3A%2F%2Fme%3Apass%40host%2Fa%402x.jpg",
            "https://resize.example/?url=http%3A%2F%2F***%40host%2Fa%402x.jpg",
        ),
        (r'"http:\/\/me:pass@host\/x"', r'"http:\/\/***@host\/x"'),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': 'Basic ***'}"),
        ("s3://bucket/photos/a.jpg, mail me@host", "s3://bucket/photos/a.jpg, mail me@host"),
    ],
)
def test_secrets_of_addresses_are_hidden_and_the_rest_stays(text: str, expected: str) -> None:
    assert redacted(text) == expected
    assert redacted(expected) == expected


@pytest.mark.parametrize(
    ("text", "kept", "expected"),
    [
        ("gate failed\x1b[2K\rgate passed", "\n", "gate failed\\x1b[2K\\rgate passed"),
        ("1\n2  champion", "", "1\\n2  champion"),
        ("two\n\tlines", "\n\t", "two\n\tlines"),
        ("\x9b31m\u202ereversed\u2066", "", "\\x9b31m\\u202ereversed\\u2066"),
        ("玫瑰\u3000é – “x” [b]", "", "玫瑰\u3000é – “x” [b]"),
    ],
)
def test_what_others_wrote_cannot_forge_what_a_terminal_shows(
    text: str, kept: str, expected: str
) -> None:
    assert printable(text, kept) == expected
    assert printable(expected, kept) == expected


def test_secrets_of_the_environment_are_hidden_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a/secret key")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:half%2Fway@store:9000")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-hush")
    monkeypatch.setenv("PRODUCT1M_WEBHOOK", "https://hooks.example/services/T0/hook")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:two words@db/mlflow")
    text = "keys a/secret key, a%2Fsecret%20key, half/way, half%2Fway, hush-hush, halfway"
    assert redacted(text) == "keys ***, ***, ***, ***, ***, halfway"
    assert redacted("refused: /services/T0/hook") == "refused: /***"
    assert redacted("at postgresql://me:two words@db/mlflow") == "at postgresql://***@db/mlflow"


def test_errors_and_log_lines_hide_secrets() -> None:
    address = "http://me:pass@host/x?token=abc"
    assert str(PhotoError(f"no connection: {address}")) == (
        "no connection: http://***@host/x?token=***"
    )
    try:
        try:
            raise ValueError(address)
        except ValueError as cause:
            raise StorageError(address) from cause
    except StorageError as error:
        failure = (StorageError, error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "at %s", (address,), failure)
    assert WithoutSecrets().filter(record)
    for shown in (logging.Formatter().format(record), JsonLines().format(record)):
        assert "ValueError" in shown
        assert "pass@" not in shown
        assert "abc" not in shown
    assert json.loads(JsonLines().format(record))["message"] == ("at http://***@host/x?token=***")


SECRETS = ("photo-pass", "photo-signature", "store-pass", "store-key", "tracking-pass")
PHOTO = (
    "http://me:photo-pass@127.0.0.1:9/a.jpg?X-Amz-Signature=photo-signature",
    "https://me:photo-pass@127.0.0.1:9/b.jpg?token=photo-signature",
)


def write_dataset(folder: Path, addresses: tuple[str, ...]) -> None:
    """Sound lists, with photos at `addresses` in the gallery."""
    (folder / "images").mkdir(parents=True)
    for number in range(2):
        (folder / "images" / f"{number}.jpg").write_bytes(encoded(picture(number)))
    for role in ("train", "gallery", "queries"):
        images = ["images/0.jpg", "images/1.jpg", *(addresses if role == "gallery" else ())]
        rows = [
            {"id": f"{role}{place}", "caption": f"{role} {place}", "labels": ["A"], "image": image}
            | ({"split": ("dev", "test")[place]} if role == "queries" else {})
            for place, image in enumerate(images)
        ]
        (folder / f"{role}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_ingestion(dataset: Path, out: Path, *settings: str) -> str:
    """What the command prints and logs."""
    outputs = [str(out / role) for role in ("train", "gallery", "queries")]
    changed = [
        "ingestion.num_workers=1", "ingestion.download_attempts=1",
        "ingestion.max_quarantine_share=0.9", *settings,
    ]  # fmt: skip
    options = [word for setting in changed for word in ("--set", setting)]
    return CliRunner().invoke(app, ["ingestion", str(dataset), *outputs, *options]).output


def test_no_secret_stands_in_anything_that_a_step_writes(
    tmp_path: Path, store: MlflowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos that cannot be fetched, a store and a tracking server that do not answer."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:store-pass@127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "store-key")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    write_dataset(tmp_path / "data", PHOTO)
    write_dataset(tmp_path / "stored", ("s3://bucket/a.jpg",))
    local = 'ingestion.allowed_sources=["127.0.0.1", "s3://bucket"]'
    shown = run_ingestion(tmp_path / "data", tmp_path / "out", local)
    assert "gallery/quarantined" in shown
    failed = run_ingestion(tmp_path / "stored", tmp_path / "none", local)
    assert "http://***@127.0.0.1:9 cannot be reached" in failed
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:tracking-pass@127.0.0.1:9")
    lost = run_ingestion(tmp_path / "data", tmp_path / "lost", local)
    assert "http://***@127.0.0.1:9" in lost
    written = [
        path.read_bytes()
        for path in (*tmp_path.rglob("*"), *store.folder.glob("mlflow.db*"))
        if path.is_file() and path.parent.name not in ("data", "stored")
    ]
    assert len(written) > 10
    everything = b"\n".join([*written, *(text.encode() for text in (shown, failed, lost))])
    assert [secret for secret in SECRETS if secret.encode() in everything] == []
