"""Image encoders of transformers, without their text side; no code but transformers' own is run."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from product1m.detection.encoder_recipe import unusable

LEFT_OUT = {"auto_map", "attn_implementation", "experts_implementation", "quantization_config"}
"""Settings that are ignored: they name code of a repository, or other code to compute with."""
VISION_TOWERS = {"clip": "CLIPVisionModelWithProjection", "siglip": "SiglipVisionModel"}
"""Class of the image side of models that also read text."""


class TransformersTower(nn.Module):
    """One vector for each picture: the image embedding, the pooled output, or the first token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """The vectors of normalized pictures."""
        outputs = self.model(pixel_values=pixels)
        for name in ("image_embeds", "pooler_output"):
            vectors = getattr(outputs, name, None)
            if vectors is not None:
                return vectors.flatten(1)  # type: ignore[no-any-return]
        states: Tensor = outputs.last_hidden_state
        return states[:, 0] if states.ndim == 3 else states.mean((2, 3))


def class_and_config(config: Mapping[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """The class of the image side of a model, and its configuration, from its `config.json`.

    Raises ConfigError if transformers has no such model, or if it does not encode pictures.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    kind = config["model_type"]
    values = _plain({key: value for key, value in config.items() if key != "model_type"})
    try:
        known = AutoConfig.for_model(kind, **values)
        if kind in VISION_TOWERS:
            vision = known.vision_config
            if kind == "clip":
                vision.projection_dim = known.projection_dim
            return VISION_TOWERS[kind], vision.to_dict()
        own = MODEL_MAPPING[type(known)]
        cls = own[0] if isinstance(own, (list, tuple)) else own
    except Exception as error:  # a broken configuration can make transformers raise anything
        raise unusable(name, f"transformers has no model of the type {kind!r} ({error})") from error
    if getattr(cls, "main_input_name", "") != "pixel_values" or hasattr(known, "vision_config"):
        raise unusable(name, f"the model type {kind!r} is not an image encoder")
    return str(cls.__name__), known.to_dict()


def build_transformers(architecture: str, config: dict[str, Any], name: str) -> TransformersTower:
    """The network without weights."""
    cls, own = _class_of(architecture, config, name)
    # Like `from_pretrained`, this chooses the fastest attention; the constructor does not.
    return TransformersTower(cls._from_config(own, **_options(cls)))


def load_transformers(
    architecture: str, config: dict[str, Any], weights: Path, name: str
) -> tuple[TransformersTower, list[str]]:
    """The network with a folder's weights, and what is wrong with these."""
    cls, own = _class_of(architecture, config, name)
    folder = weights if weights.is_dir() else weights.parent
    with _quiet():  # it lists the text side's weights, which are not needed
        model, report = cls.from_pretrained(
            folder,
            config=own,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused by name
            **_options(cls),
        )
    faults = [f"{key} is missing" for key in sorted(report["missing_keys"])]
    faults += [
        f"{key} has the shape {tuple(theirs)}, its config.json says {tuple(ours)}"
        for key, theirs, ours in sorted(report["mismatched_keys"])
    ]
    faults += [str(message) for message in report.get("error_msgs", ())]
    # Copied, because products of mapped weights can differ in the last bit from those of others.
    network = build_transformers(architecture, config, name)
    network.model.load_state_dict(model.state_dict())
    return network, faults


def _class_of(architecture: str, config: dict[str, Any], name: str) -> tuple[Any, Any]:
    import transformers

    cls: Any = getattr(transformers, architecture, None)
    if cls is None or not hasattr(cls, "config_class"):
        raise unusable(name, f"transformers has no model {architecture!r}")
    values = {key: value for key, value in config.items() if key != "model_type"}
    return cls, cls.config_class(**_plain(values))


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, and all within it, without what could make transformers run other code."""
    return {
        key: _plain(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in LEFT_OUT and not str(key).startswith("_")
    }


def _options(cls: Any) -> dict[str, bool]:
    """Leaves a pooling layer out where there is one: most checkpoints lack its weights."""
    has_pooling = "add_pooling_layer" in inspect.signature(cls.__init__).parameters
    return {"add_pooling_layer": False} if has_pooling else {}


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    level, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shows_progress:
            logging.enable_progress_bar()
