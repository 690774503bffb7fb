"""Configuration sections as pipeline parameters."""

from collections.abc import Iterator
from typing import Any

from product1m.config import Config
from product1m.errors import ConfigError

MAX_WHOLE = 2**53
"""The pipeline API holds every number as a double, which cannot hold every larger whole number."""


def parameter(config: Config, name: str) -> dict[str, Any]:
    """The section `name` as the default of its dict parameter: plain values that JSON can hold.

    Raises ConfigError for a whole number that a cluster would round without a word.
    """
    values: dict[str, Any] = getattr(config, name).model_dump(mode="json")
    for place, number in _whole_numbers(values, name):
        if abs(number) > MAX_WHOLE:
            raise ConfigError(
                f"{place}: {number} is larger than 2**53 = {MAX_WHOLE}; a cluster would round it, "
                "choose a smaller number"
            )
    return values


def _whole_numbers(value: Any, place: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, int):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _whole_numbers(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _whole_numbers(inner, f"{place}[{index}]")
