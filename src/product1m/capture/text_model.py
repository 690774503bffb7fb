"""Where a BERT is loaded from, checked before a library reads it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from product1m.errors import ConfigError
from product1m.storage.opening import with_remote_fetched

CONFIG = "config.json"
EXPECTED = (
    "expected `scratch`, a folder or s3:// prefix with a BERT and its vocabulary, or a hub name "
    "that can be reached"
)
"""What an error says about the setting."""
MAX_CONFIG_BYTES = 1 << 20
"""Largest `config.json` that is read; BERTs have one of about 600 bytes (ours)."""


@contextmanager
def fetched_text_model(text_model: str) -> Iterator[str]:
    """Yield a local folder or a hub name with the BERT of `capture_pretraining.text_model`.

    Raises ConfigError if the folder has no `config.json`, or one that is too large; NotStoredError
    if there is nothing below an `s3://` prefix.
    """
    with with_remote_fetched(text_model) as local:
        path = Path(local, CONFIG)
        if path.parent.is_dir() and not path.is_file():
            raise ConfigError(
                f"capture_pretraining.text_model: no BERT at {text_model!r} (it has no {CONFIG}); "
                f"{EXPECTED}"
            )
        if path.is_file() and (num_bytes := path.stat().st_size) > MAX_CONFIG_BYTES:
            raise ConfigError(
                f"capture_pretraining.text_model: {text_model!r} has a {CONFIG} of {num_bytes} "
                f"bytes, expected at most {MAX_CONFIG_BYTES}; fetch the model again"
            )
        yield local
