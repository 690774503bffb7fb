"""How an image encoder is built, and the error for one that cannot be used."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt

from product1m.errors import ConfigError

SETTING = "feature_extraction.crop_encoder"
BACKBONE = "backbone"
"""Value of the setting for the RPN's own backbone."""
TIMM, HUB = "timm:", "hub:"
CONFIG, OPEN_CLIP = "config.json", "open_clip_config.json"


class Recipe(BaseModel):
    """How an encoder is built and how pictures are prepared for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    library: Literal["timm", "transformers"]
    architecture: str
    """timm's name of the model, or transformers' name of the class."""
    arguments: dict[str, Any]
    """Arguments of timm's model, or transformers' configuration."""
    size_px: tuple[PositiveInt, PositiveInt]
    """Height and width of its input."""
    mean: tuple[float, float, float]
    """Of its input's channels, in 0 … 1."""
    std: tuple[float, float, float]
    license: str = ""


def recipe_text(recipe: Recipe) -> str:
    """A recipe as JSON that is equal for equal recipes."""
    return json.dumps(recipe.model_dump(mode="json"), sort_keys=True, indent=1)


def unusable(name: str, reason: str) -> ConfigError:
    """Why an encoder cannot be used, and what can."""
    return ConfigError(
        f"{SETTING}={name!r}: {reason}; expected backbone, timm:NAME, hub:OWNER/NAME, or a folder, "
        "safetensors file or s3:// prefix with an image encoder of timm, transformers or OpenCLIP"
    )
