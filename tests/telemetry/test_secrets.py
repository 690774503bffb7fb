"""Passwords and signatures in addresses and in the environment never stand in what is written."""

import json
import logging

import pytest

from product1m.errors import PhotoError, StorageError, redacted
from product1m.telemetry.logs import JsonLines, WithoutSecrets


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
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': 'Basic ***'}"),
        ("s3://bucket/photos/a.jpg, mail me@host", "s3://bucket/photos/a.jpg, mail me@host"),
    ],
)
def test_secrets_of_addresses_are_hidden_and_the_rest_stays(text: str, expected: str) -> None:
    assert redacted(text) == expected
    assert redacted(expected) == expected


def test_secrets_of_the_environment_are_hidden_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a/secret key")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:half%2Fway@store:9000")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-hush")
    text = "keys a/secret key, a%2Fsecret%20key, half/way, half%2Fway, hush-hush, halfway"
    assert redacted(text) == "keys ***, ***, ***, ***, ***, halfway"


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
