"""What all sections of the configuration share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

Fraction = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["float32", "bf16"]
Block = Literal["joint", "streams", "image", "text", "ocr", "crop"]
"""One normalized part of an item's vector."""


class Section(BaseModel):
    """Settings that belong together; unknown keys are errors.

    A float without a fraction is accepted for an integer because KFP sends integers as floats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class StepConfig(Section):
    """Settings of a step."""

    seed: NonNegativeInt = 0
    """Seed of all randomness in the step (ours)."""
