"""Configuration sections as pipeline parameters."""

from typing import Any

from product1m.config import StepConfig


def parameter(section: StepConfig) -> dict[str, Any]:
    """A section as the default of its dict parameter: plain values that JSON can hold."""
    return section.model_dump(mode="json")
