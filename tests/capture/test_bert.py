import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from product1m.capture.bert import load_bert
from product1m.capture.blocks import Packing
from product1m.capture.network import build_capture, network_sizes
from product1m.capture.streams import TextStream
from product1m.capture.tokens import SPECIAL, bert_tokenizer
from product1m.config import CapturePretrainingConfig
from product1m.errors import ConfigError
from product1m.steps.capture_pretraining import parameter_groups
from product1m.training.optimizer import make_optimizer

VOCABULARY = [*SPECIAL, "水", "乳", "霜", "cream", "##y", "red", "[unused1]"]
CONFIG = CapturePretrainingConfig(
    max_tokens=8,
    hidden_dim=16,
    text_layers=2,
    visual_layers=0,
    cross_layers=0,
    joint_layers=0,
    text_heads=2,
    text_ffn_dim=24,
    cross_dim=8,
    projection_dim=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of three layers with random weights, as a hub would hold it."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=20,
        initializer_range=0.5,
    )
    path = tmp_path_factory.mktemp("bert")
    BertModel(sizes).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(VOCABULARY), "utf-8")
    (path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}'
    )
    return path


def _stream(**changes: Any) -> TextStream:
    config = CONFIG.model_copy(update=changes)
    return build_capture(network_sizes(config), set(), len(VOCABULARY), 4).text.eval()


def test_the_text_stream_computes_what_the_berts_first_layers_compute(folder: Path) -> None:
    from transformers import BertModel

    stream = _stream()
    load_bert(stream, str(folder))
    titles = bert_tokenizer(str(folder)).encode(["水乳霜", "creamy red 水", "霜"], 8)
    T = max(len(title) for title in titles)
    tokens = torch.zeros(3, T, dtype=torch.long)
    padding = torch.ones(3, T, dtype=torch.bool)
    for row, title in enumerate(titles):
        tokens[row, : len(title)] = torch.from_numpy(title)
        padding[row, : len(title)] = False
    bert = BertModel.from_pretrained(folder).eval()
    packing = Packing.from_padding(padding)
    with torch.no_grad():
        found = stream(stream.embedding.word(packing.pack(tokens)), packing)
        states = bert(tokens, attention_mask=(~padding).long(), output_hidden_states=True)
    torch.testing.assert_close(found, packing.pack(states.hidden_states[2]), atol=1e-5, rtol=1e-4)


def test_titles_become_the_berts_own_tokens(folder: Path) -> None:
    from transformers import BertTokenizer

    tokenizer = bert_tokenizer(str(folder))
    assert tokenizer.vocabulary_size == len(VOCABULARY)
    theirs = BertTokenizer.from_pretrained(folder)
    for title in ("水乳 Creamy", "redcream!", "霜 red"):
        assert tokenizer.encode([title], 36)[0].tolist() == theirs(title)["input_ids"]
    assert {VOCABULARY[i] for i in tokenizer.ordinary} == {"水", "乳", "霜", "cream", "##y", "red"}


def test_only_weights_from_bert_have_another_rate(folder: Path) -> None:
    capture = build_capture(network_sizes(CONFIG), set(), len(VOCABULARY), 4)
    taken = load_bert(capture.text, str(folder))
    groups = parameter_groups(capture, taken, 0.1)
    optimizer = make_optimizer(groups, learning_rate=1e-3, weight_decay=0.01)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in capture.named_parameters():
        expected = 1e-4 if name.startswith("text.") else 1e-3
        assert rates.pop(id(parameter)) == pytest.approx(expected), name
    assert not rates


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 32}, "hidden_dim is 32, the BERT at .* has 16"),
        ({"text_heads": 4}, "text_heads is 4, .* has 2"),
        ({"text_ffn_dim": 48}, "text_ffn_dim is 48, .* has 24"),
        ({"text_layers": 4}, "text_layers: 4, but .* has only 3"),
        ({"max_tokens": 21}, "max_tokens: 21, but .* has only 20"),
    ],
)
def test_a_bert_of_other_sizes_is_refused(
    folder: Path, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_bert(_stream(**changes), str(folder))


def test_a_folder_without_a_bert_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)text_model: no BERT at .*expected `scratch`"):
        load_bert(_stream(), str(tmp_path))


def changed_weights(folder: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """A copy of a BERT folder with other weights beside the same `config.json`."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return str(target)


@pytest.mark.parametrize("prefix", ["encoder.layer.1.", "embeddings.word_embeddings."])
def test_a_bert_without_a_layer_is_refused_by_the_names_of_its_weights(
    folder: Path, tmp_path: Path, prefix: str
) -> None:
    def drop(weights: dict[str, Any]) -> None:
        for name in [name for name in weights if name.startswith(prefix)]:
            del weights[name]

    text_model = changed_weights(folder, tmp_path / "bert", drop)
    with pytest.raises(ConfigError, match=rf"not complete: {re.escape(prefix)}\S+ is missing"):
        load_bert(_stream(), text_model)


def test_a_bert_of_another_vocabulary_than_its_configuration_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    def grow(weights: dict[str, Any]) -> None:
        weights["embeddings.word_embeddings.weight"] = torch.zeros(len(VOCABULARY) + 3, 16)

    text_model = changed_weights(folder, tmp_path / "bert", grow)
    size = len(VOCABULARY)
    expected = rf"word_embeddings.weight has the shape \({size + 3}, 16\), .* \({size}, 16\)"
    with pytest.raises(ConfigError, match=expected):
        load_bert(_stream(), text_model)


def test_a_bert_with_weights_that_are_not_numbers_is_refused(folder: Path, tmp_path: Path) -> None:
    def spoil(weights: dict[str, Any]) -> None:
        weights["encoder.layer.0.output.dense.bias"][3] = torch.nan

    text_model = changed_weights(folder, tmp_path / "bert", spoil)
    with pytest.raises(ConfigError, match=r"layer\.0\.output\.dense\.bias holds .* not finite"):
        load_bert(_stream(), text_model)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_bert_whose_file_is_cut_short_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(folder, tmp_path / "bert")
    path = tmp_path / "bert" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="text_model: no BERT at"):
        load_bert(_stream(), str(tmp_path / "bert"))


@pytest.mark.parametrize(
    ("size", "largest"),
    [("num_hidden_layers", 64), ("max_position_embeddings", 65_536), ("type_vocab_size", 2)],
)
def test_a_bert_of_an_absurd_size_is_refused_before_it_takes_memory(
    folder: Path, tmp_path: Path, size: str, largest: int
) -> None:
    shutil.copytree(folder, tmp_path / "bert")
    path = tmp_path / "bert/config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {size: 10**12}), "utf-8")
    with pytest.raises(ConfigError, match=rf"has {size} {10**12} .* at most {largest};"):
        load_bert(_stream(), str(tmp_path / "bert"))


def test_a_config_of_an_absurd_length_is_not_read(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bert")
    path = tmp_path / "bert/config.json"
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file of a terabyte
    for load in (bert_tokenizer, partial(load_bert, _stream())):
        with pytest.raises(ConfigError, match=rf"config.json of {1 << 40} bytes, .* {1 << 20};"):
            load(str(tmp_path / "bert"))


def test_token_numbers_stay_within_the_vocabulary(folder: Path) -> None:
    titles = bert_tokenizer(str(folder)).encode(["水乳霜 cream unknown 未知"], 36)
    assert np.concatenate(titles).max() < len(VOCABULARY)
