"""A BERT's folder as the start of a run sees it."""

import json
from pathlib import Path
from typing import Any

import pytest

from product1m.capture.bert_files import check_bert_files, license_of
from product1m.config import CapturePretrainingConfig
from product1m.errors import ConfigError

SIZES = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "max_position_embeddings": 512,
}


def write(folder: Path, **changes: Any) -> CapturePretrainingConfig:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**SIZES, **changes}))
    for name in ("model.safetensors", "vocab.txt"):
        (folder / name).write_text("")
    return CapturePretrainingConfig(text_model=str(folder))


def test_a_folder_of_the_configured_sizes_and_a_hub_name_pass(tmp_path: Path) -> None:
    check_bert_files(write(tmp_path / "bert"))
    check_bert_files(CapturePretrainingConfig(text_model="bert-base-chinese"))
    check_bert_files(CapturePretrainingConfig(text_model="scratch"))


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlanguage: zh\nlicense: mit\n---\n# A BERT\n", "mit"),
        ("---\nlicense: other\nlicense_name: acme-1.0\n---\n", "acme-1.0"),
        ("---\nlicense: [\n---\n", "unknown"),
        ("# A BERT\nlicense: mit\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_license_is_what_the_card_in_the_folder_states(
    tmp_path: Path, card: str | None, expected: str
) -> None:
    folder = write(tmp_path / "bert").text_model
    if card is not None:
        Path(folder, "README.md").write_text(card)
    assert license_of(folder) == expected
    assert license_of("bert-base-chinese") == "Apache-2.0"
    assert license_of("somebody/some-bert") == "unknown"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 512}, "hidden_dim is 768, its hidden_size 512"),
        ({"num_attention_heads": 8}, "text_heads is 12, its num_attention_heads 8"),
        ({"num_hidden_layers": 2}, "text_layers is 4, but its num_hidden_layers only 2"),
        ({"max_position_embeddings": 16}, "max_tokens is 36, but its max_position_embeddings only"),
        ({"intermediate_size": None}, "text_ffn_dim is 3072, its intermediate_size None"),
    ],
)
def test_other_sizes_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_bert_files(write(tmp_path / "bert", **changes))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    config = write(tmp_path / "bert")
    (tmp_path / "bert" / name).unlink()
    with pytest.raises(ConfigError, match=f"text_model=.*{name}"):
        check_bert_files(config)


def test_a_folder_that_does_not_exist_or_a_damaged_configuration_is_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"it holds none of model\.safetensors"):
        check_bert_files(CapturePretrainingConfig(text_model=str(tmp_path / "nowhere")))
    config = write(tmp_path / "bert")
    for damaged in (b"{", b"[" * 100_000, b"\xff{}"):
        (tmp_path / "bert" / "config.json").write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
            check_bert_files(config)
