"""Configuration sections as pipeline parameters."""

from typing import Any

from product1m.config import Section


def parameter(section: Section) -> dict[str, Any]:
    """A section as the default of its dict parameter: plain values that JSON can hold."""
    return section.model_dump(mode="json")
