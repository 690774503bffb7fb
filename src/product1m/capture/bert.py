"""Initialize the text stream from a BERT checkpoint (paper)."""

from typing import Any

import torch
from torch import Tensor, nn

from product1m.capture.blocks import PostNormBlock
from product1m.capture.streams import TextStream
from product1m.errors import ConfigError, Product1MError
from product1m.storage.opening import with_remote_fetched

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


def load_bert(stream: TextStream, text_model: str) -> list[nn.Parameter]:
    """Fill the stream with a BERT's embeddings and first layers; returns the filled parameters.

    Args:
        stream: must have the BERT's sizes.
        text_model: folder, `s3://` prefix or hub name.

    Raises:
        ConfigError: there is no BERT, weights are missing or do not have the shapes in the BERT's
            own configuration, or its sizes differ from the configured ones.
    """
    bert = _read_bert(text_model)
    _check_sizes(stream, bert.config, text_model)
    weights: dict[str, Tensor] = bert.state_dict()
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


def _read_bert(text_model: str) -> Any:
    """The BERT without its pooling layer, complete; ConfigError if it is not."""
    from transformers import BertModel

    try:
        with with_remote_fetched(text_model) as local:
            bert, report = BertModel.from_pretrained(
                local,
                add_pooling_layer=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused by name below
            )
    except Product1MError:
        raise
    except Exception as error:  # broken files can make transformers raise anything
        raise ConfigError(
            f"capture_pretraining.text_model: no BERT at {text_model!r} ({error}); expected "
            "`scratch`, a folder or s3:// prefix with a BERT, or a hub name that can be reached"
        ) from error
    faults = [f"{name} is missing" for name in sorted(report["missing_keys"])]
    faults += [
        f"{name} has the shape {tuple(theirs)}, its config.json says {tuple(ours)}"
        for name, theirs, ours in sorted(report["mismatched_keys"])
    ]
    faults += [str(message) for message in report["error_msgs"]]
    faults += [
        f"{name} holds values that are not finite"
        for name, weights in bert.state_dict().items()
        if weights.is_floating_point() and not weights.isfinite().all()
    ]
    if faults:
        raise ConfigError(
            f"capture_pretraining.text_model: the BERT at {text_model!r} is not complete: "
            f"{'; '.join(faults[:MAX_NAMED])}{' …' * (len(faults) > MAX_NAMED)} "
            f"({len(faults)} in all); these weights would be random, so fetch the model again"
        )
    return bert


def _check_sizes(stream: TextStream, bert: Any, text_model: str) -> None:
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
