"""Folders with an image encoder: where they come from, and what their configuration says.

Three kinds are read, all with weights as safetensors: timm's (`config.json` with an
`architecture`), transformers' (`config.json` with a `model_type`, and a configuration of the image
processor), and OpenCLIP's with a tower of timm (`open_clip_config.json`). Code in a folder is never
run.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from product1m.artifacts.pretrained import CARD, MAX_CARD_BYTES, UNKNOWN, license_in_card
from product1m.data.limits import parse_json
from product1m.detection.encoder_recipe import (
    CONFIG,
    HUB,
    OPEN_CLIP,
    SETTING,
    TIMM,
    Recipe,
    unusable,
)
from product1m.detection.libraries import load_timm
from product1m.detection.transformers_models import class_and_config
from product1m.errors import NotStoredError, StorageError
from product1m.storage.opening import local_file, read_file, with_remote_fetched

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
WEIGHTS, OPEN_CLIP_WEIGHTS = "model.safetensors", "open_clip_model.safetensors"
FETCHED = ("*.json", "*.safetensors", CARD)
"""What is fetched from a hub: no code, no pickle."""
OPEN_CLIP_PREFIX = "visual.trunk."
MAX_CONFIG_BYTES = 1 << 20
MAX_SIZE = 65_536
"""Largest number in an encoder's configuration: a broken one could take memory without bound
(ours)."""
OPTIONS_OF_TIMM = {
    "model_name",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "scriptable",
    "exportable",
    "no_jit",
    "num_classes",
}
"""Arguments of timm's `create_model` that a configuration may not set: some load other files."""


class EncoderFolder(BaseModel):
    """A folder with an encoder, and the file with its weights if that is not its usual one."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    weights: Path | None = None


@contextmanager
def fetched_encoder(name: str) -> Iterator[EncoderFolder]:
    """Yield the folder of an encoder by the setting `feature_extraction.crop_encoder`.

    Raises ConfigError if there is none; nothing is fetched unless the setting names a hub or S3.
    """
    if name.startswith((TIMM, HUB)):
        yield EncoderFolder(folder=_from_hub(name))
        return
    try:
        if name.endswith(".safetensors"):
            with local_file(name) as path:
                if not path.is_file():
                    raise unusable(name, "there is no such file")
                yield EncoderFolder(folder=path.parent, weights=path)
            return
        with with_remote_fetched(name) as local:
            if not Path(local).is_dir():
                raise unusable(name, "there is no such folder")
            yield EncoderFolder(folder=Path(local))
    except NotStoredError as error:
        raise unusable(name, "there are no files") from error


def _from_hub(name: str) -> Path:
    """A copy of a repository's configuration, weights and card, in the hub's cache."""
    from huggingface_hub import snapshot_download

    repository, _, revision = _repository(name).partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(FETCHED)
        )
    except Exception as error:  # the client raises errors of its own, of requests and of the system
        raise StorageError(
            f"{SETTING}={name!r}: the model hub did not answer ({error}); try again, or give a "
            "folder with a copy of the model"
        ) from error
    return Path(folder)


def _repository(name: str) -> str:
    if name.startswith(HUB):
        return name.removeprefix(HUB)
    model = name.removeprefix(TIMM)
    if not load_timm().is_model_pretrained(model):
        known = load_timm().list_pretrained(f"{model.partition('.')[0]}*")[:5]
        raise unusable(name, f"timm has no such weights; similar names: {', '.join(known)}")
    return str(load_timm().get_pretrained_cfg(model).hf_hub_id or "")


def read_recipe(found: EncoderFolder, name: str, license: str = "") -> tuple[Recipe, Path, str]:
    """What the folder of the encoder `name` says.

    Returns:
        The recipe, the weights (a file, or the folder if there are several), and what the names of
        tensors begin with. `license` replaces the one in the folder.
    """
    folder = found.folder
    own_license = license or _license_of(folder)
    if (folder / OPEN_CLIP).is_file():
        recipe = _open_clip(_json(folder / OPEN_CLIP, name), name, own_license)
        return recipe, found.weights or folder / OPEN_CLIP_WEIGHTS, OPEN_CLIP_PREFIX
    if not (folder / CONFIG).is_file():
        raise unusable(name, f"it has no {CONFIG}")
    config = _json(folder / CONFIG, name)
    if "architecture" in config:
        recipe = _timm(config, name, own_license)
        return recipe, found.weights or folder / WEIGHTS, ""
    if "model_type" in config:
        return _transformers(folder, config, name, own_license), found.weights or folder, ""
    raise unusable(name, f"its {CONFIG} names neither an architecture nor a model_type")


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        values = parse_json(read_file(path, MAX_CONFIG_BYTES).decode("utf-8"))
    except (StorageError, ValueError) as error:
        raise unusable(name, f"its {path.name} cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise unusable(name, f"its {path.name} is not a JSON object")
    _require_modest(values, path.name, name)
    return values


def _require_modest(values: Any, where: str, name: str) -> None:
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key not in ("text_config", "text_cfg"):
                _require_modest(value, f"{where}: {key}", name)
    elif isinstance(values, int) and abs(values) > MAX_SIZE:
        raise unusable(name, f"{where} is {values}, expected at most {MAX_SIZE}")


def _timm(config: Mapping[str, Any], name: str, license: str) -> Recipe:
    described = config.get("pretrained_cfg", config)
    arguments = config.get("model_args", {})
    return _timm_recipe(config["architecture"], arguments, described, name, license)


def _open_clip(config: Mapping[str, Any], name: str, license: str) -> Recipe:
    """A tower that is timm's model with nothing behind it; OpenCLIP's own towers are refused."""
    tower = (config.get("model_cfg") or {}).get("vision_cfg") or {}
    if "timm_model_name" not in tower or tower.get("timm_proj", "linear") not in ("none", "", None):
        raise unusable(
            name,
            f"the tower in its {OPEN_CLIP} is not a plain model of timm; convert it with "
            "transformers",
        )
    described = dict(config.get("preprocess_cfg") or {})
    side = tower.get("image_size", 224)
    described["input_size"] = [3, *(side if isinstance(side, list) else [side, side])]
    return _timm_recipe(tower["timm_model_name"], {}, described, name, license)


def _timm_recipe(
    architecture: Any,
    arguments: Mapping[str, Any],
    described: Mapping[str, Any],
    name: str,
    license: str,
) -> Recipe:
    if not isinstance(architecture, str) or not load_timm().is_model(architecture):
        raise unusable(name, f"timm has no model {architecture!r}")
    if refused := sorted(OPTIONS_OF_TIMM & set(arguments)):
        raise unusable(name, f"its {CONFIG} sets {', '.join(refused)} of the model")
    default = load_timm().get_pretrained_cfg(architecture, allow_unregistered=True)
    side = arguments.get("img_size", described.get("input_size", default.input_size)[-2:])
    values = {
        "size_px": side if isinstance(side, (list, tuple)) else (side, side),
        "mean": described.get("mean", default.mean),
        "std": described.get("std", default.std),
    }
    own = license or str(described.get("license") or "")
    return _checked("timm", architecture, dict(arguments), values, name, own)


def _checked(
    library: str,
    architecture: str,
    arguments: dict[str, Any],
    values: Mapping[str, Any],
    name: str,
    license: str,
) -> Recipe:
    try:
        return Recipe.model_validate(
            {
                "library": library,
                "architecture": architecture,
                "arguments": arguments,
                "license": license,
                **values,
            }
        )
    except ValueError as error:
        raise unusable(name, f"its configuration cannot be used ({error})") from error


def _transformers(folder: Path, config: Mapping[str, Any], name: str, license: str) -> Recipe:
    prepared = _processor(folder, name)
    size = prepared.get("crop_size") if prepared.get("do_center_crop") else None
    size = size or prepared.get("size", {})
    if isinstance(size, int):
        size = {"shortest_edge": size}
    side = size.get("shortest_edge")
    is_normalized = prepared.get("do_normalize", True)
    values = {
        "size_px": (size.get("height", side), size.get("width", side)),
        "mean": prepared.get("image_mean") if is_normalized else (0, 0, 0),
        "std": prepared.get("image_std") if is_normalized else (1, 1, 1),
    }
    architecture, arguments = class_and_config(config, name)
    return _checked("transformers", architecture, arguments, values, name, license)


def _processor(folder: Path, name: str) -> dict[str, Any]:
    for file in PROCESSORS:
        if (folder / file).is_file():
            values = _json(folder / file, name)
            own: dict[str, Any] = values.get("image_processor", values)
            if "size" in own:
                return own
    raise unusable(name, f"it has no {PROCESSORS[0]}, which says how pictures are prepared")


def _license_of(folder: Path) -> str:
    """The license that the folder's model card states; empty if it states none."""
    try:
        stated = license_in_card(read_file(folder / CARD, MAX_CARD_BYTES).decode("utf-8"))
    except (StorageError, ValueError):
        return ""
    return stated if stated != UNKNOWN else ""
