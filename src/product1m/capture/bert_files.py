"""Check a BERT's folder without loading it: does it exist, and does the configuration fit?

This needs no torch, so a run checks the folder at its start, hours before a step needs it.
"""

from typing import Any

from product1m.artifacts.pretrained import CARD, MAX_CARD_BYTES, UNKNOWN, license_in_card
from product1m.config import CapturePretrainingConfig
from product1m.data.limits import parse_json
from product1m.errors import ConfigError, NotStoredError, Product1MError, StorageError
from product1m.storage.base import Store, is_remote
from product1m.storage.opening import open_store

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
VOCABULARIES = ("tokenizer.json", "vocab.txt")
HUB_LICENSES = dict.fromkeys(("bert-base-chinese", "google-bert/bert-base-chinese"), "Apache-2.0")
"""Licenses of text models that a configuration names by their hub name."""
_EQUAL = {
    "hidden_dim": "hidden_size",
    "text_heads": "num_attention_heads",
    "text_ffn_dim": "intermediate_size",
}
_AT_MOST = {"text_layers": "num_hidden_layers", "max_tokens": "max_position_embeddings"}


def check_bert_files(config: CapturePretrainingConfig) -> None:
    """ConfigError if `text_model` is a folder or prefix without a BERT of the configured sizes.

    The step itself checks a hub name, and the weights.
    """
    store = _store(config.text_model)
    if store is None:
        return
    for names in (WEIGHTS, VOCABULARIES):
        if not any(store.find(name) for name in names):
            raise _unusable(config, f"it holds none of {', '.join(names)}")
    sizes = _sizes(store, config)
    for ours, theirs in _EQUAL.items():
        wanted, actual = getattr(config, ours), sizes.get(theirs)
        if wanted != actual:
            raise _unusable(config, f"{ours} is {wanted}, its {theirs} {actual}; set it to that")
    for ours, theirs in _AT_MOST.items():
        wanted, actual = getattr(config, ours), sizes.get(theirs)
        if not isinstance(actual, int) or wanted > actual:
            raise _unusable(config, f"{ours} is {wanted}, but its {theirs} only {actual}")


def license_of(text_model: str) -> str:
    """License that the model card in the folder of a text model states; otherwise unknown."""
    store = _store(text_model)
    if store is None:
        return HUB_LICENSES.get(text_model, UNKNOWN)
    try:
        return license_in_card(store.read(CARD, MAX_CARD_BYTES).decode("utf-8"))
    except (Product1MError, ValueError):  # it states nothing that can be read
        return UNKNOWN


def _store(text_model: str) -> Store | None:
    """Folder of the model; None for a hub name or no model."""
    if is_remote(text_model):
        return open_store(text_model)
    store = open_store(text_model)
    is_path = text_model.startswith(("/", "./", "../", "~", "file:"))
    exists = any(store.find(name) for name in ("config.json", *WEIGHTS))
    return store if is_path or exists else None


def _sizes(store: Store, config: CapturePretrainingConfig) -> dict[str, Any]:
    try:
        sizes = parse_json(store.read("config.json").decode("utf-8"))
    except NotStoredError as error:
        raise _unusable(config, "it holds no config.json") from error
    except (StorageError, ValueError) as error:
        raise _unusable(config, f"its config.json cannot be read ({error})") from error
    if not isinstance(sizes, dict):
        raise _unusable(config, "its config.json is not a JSON object")
    return sizes


def _unusable(config: CapturePretrainingConfig, reason: str) -> ConfigError:
    return ConfigError(
        f"capture_pretraining.text_model={config.text_model!r}: {reason}; expected `scratch`, a "
        "folder or s3:// prefix with a BERT and its vocabulary, or a hub name"
    )
