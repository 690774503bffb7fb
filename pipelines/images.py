"""The container image of every step; a version names it, never `latest`."""

from product1m import __version__


def image(step: str) -> str:
    """Image of a step: `product1m/rpn-training:0.1.0`."""
    return f"product1m/{step.replace('_', '-')}:{__version__}"
