"""Initialize the text stream from a BERT checkpoint (paper)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from product1m.capture.blocks import PostNormBlock
from product1m.capture.streams import TextStream
from product1m.capture.text_model import EXPECTED, fetched_text_model
from product1m.errors import ConfigError, Product1MError

EMBEDDINGS = {
    "word_embeddings.weight": "embedding.word.weight",
    "position_embeddings.weight": "embedding.position.weight",
    "token_type_embeddings.weight": "embedding.segment.weight",
    "LayerNorm.weight": "embedding.norm.weight",
    "LayerNorm.bias": "embedding.norm.bias",
}
LAYER = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "ffn.0",
    "output.dense": "ffn.2",
    "output.LayerNorm": "ffn_norm",
}

MAX_NAMED = 5
"""Maximum number of faulty weights that an error names (ours)."""
MAX_SIZES = {"num_hidden_layers": 64, "max_position_embeddings": 65_536, "type_vocab_size": 2}
"""Largest sizes of a BERT that is loaded: its weights would take memory without bound; the large
BERT has 24 layers and 512 positions, the text stream has 2 segments (ours)."""


def load_bert(stream: TextStream, text_model: str) -> list[nn.Parameter]:
    """Fill the stream with a BERT's embeddings and first layers; returns the filled parameters.

    Args:
        stream: must have the BERT's sizes.
        text_model: folder, `s3://` prefix or hub name.

    Raises:
        ConfigError: there is no BERT, weights are missing or do not have the shapes in the BERT's
            own configuration, or its sizes differ from the configured ones.
    """
    weights = _read_weights(stream, text_model)
    renamed = {ours: weights[f"embeddings.{theirs}"] for theirs, ours in EMBEDDINGS.items()}
    renamed["embedding.position.weight"] = renamed["embedding.position.weight"][
        : stream.embedding.position.num_embeddings
    ]
    for number in range(len(stream.layers)):
        for theirs, ours in LAYER.items():
            for kind in ("weight", "bias"):
                source = weights[f"encoder.layer.{number}.{theirs}.{kind}"]
                renamed[f"layers.{number}.{ours}.{kind}"] = source
    with torch.no_grad():
        stream.load_state_dict(renamed)
    return list(stream.parameters())


def _read_weights(stream: TextStream, text_model: str) -> dict[str, Tensor]:
    """The weights of a complete BERT of the stream's sizes; ConfigError for any other."""
    from transformers import BertConfig, BertModel

    try:
        with fetched_text_model(text_model) as local:
            config = BertConfig.from_pretrained(local)
            _check_sizes(stream, config, text_model)
            bert, report = BertModel.from_pretrained(
                local,
                config=config,
                add_pooling_layer=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused by name below
            )
    except Product1MError:
        raise
    except Exception as error:  # broken files can make transformers raise anything
        raise ConfigError(
            f"capture_pretraining.text_model: no BERT at {text_model!r} ({error}); {EXPECTED}"
        ) from error
    weights: dict[str, Tensor] = bert.state_dict()
    _check_complete(weights, report, text_model)
    return weights


def _check_complete(weights: Mapping[str, Tensor], report: Mapping[str, Any], name: str) -> None:
    """ConfigError if weights of the BERT `name` are missing, or cannot be its own."""
    faults = [f"{key} is missing" for key in sorted(report["missing_keys"])]
    faults += [
        f"{key} has the shape {tuple(theirs)}, its config.json says {tuple(ours)}"
        for key, theirs, ours in sorted(report["mismatched_keys"])
    ]
    faults += [str(message) for message in report["error_msgs"]]
    faults += [
        f"{key} holds values that are not finite"
        for key, values in weights.items()
        if values.is_floating_point() and not values.isfinite().all()
    ]
    if faults:
        raise ConfigError(
            f"capture_pretraining.text_model: the BERT at {name!r} is not complete: "
            f"{'; '.join(faults[:MAX_NAMED])}{' …' * (len(faults) > MAX_NAMED)} "
            f"({len(faults)} in all); these weights would be random, so fetch the model again"
        )


def _check_sizes(stream: TextStream, bert: Any, text_model: str) -> None:
    """ConfigError if the sizes in a BERT's `config.json` are not the stream's, or are absurd."""
    embedding = stream.embedding
    sizes: dict[str, tuple[int, int]] = {
        "hidden_dim": (embedding.word.embedding_dim, bert.hidden_size),
        "the vocabulary's size": (embedding.word.num_embeddings, bert.vocab_size),
    }
    for block in stream.layers:
        if isinstance(block, PostNormBlock):
            sizes["text_heads"] = (block.attention.num_heads, bert.num_attention_heads)
            sizes["text_ffn_dim"] = (block.ffn.width, bert.intermediate_size)
    for name, (ours, theirs) in sizes.items():
        if ours != theirs:
            raise ConfigError(
                f"capture_pretraining: {name} is {ours}, the BERT at {text_model!r} has {theirs}; "
                "set it to the BERT's"
            )
    limits = {
        "text_layers": (len(stream.layers), bert.num_hidden_layers),
        "max_tokens": (embedding.position.num_embeddings, bert.max_position_embeddings),
    }
    for name, (wanted, available) in limits.items():
        if wanted > available:
            raise ConfigError(
                f"capture_pretraining.{name}: {wanted}, but the BERT at {text_model!r} has "
                f"only {available}"
            )
    for name, largest in MAX_SIZES.items():
        if getattr(bert, name) > largest:
            raise ConfigError(
                f"capture_pretraining.text_model: the BERT at {text_model!r} has {name} "
                f"{getattr(bert, name)} in its config.json, expected at most {largest}; fetch the "
                "model again, or choose another one"
            )
