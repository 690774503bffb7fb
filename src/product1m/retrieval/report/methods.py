"""What each ranking is, in a few words, for readers of the report."""

from collections.abc import Mapping

from product1m.retrieval.methods import BASELINES, WHOLE_PHOTO
from product1m.retrieval.statistics import Interval

_DESCRIPTIONS = {
    "shipped": "all blocks fused, weights chosen on the dev queries",
    "joint": "CAPTURE, product of the joint tokens (paper)",
    "joint_streams": "CAPTURE, products of the joint and of the stream tokens (first author)",
    "streams": "CAPTURE, single-stream tokens: two towers",
    "image": "region features alone, no CAPTURE",
    "text": "character n-grams of the title alone, no CAPTURE",
    "image_text": "image and text fused, no CAPTURE",
    "random": "gallery in random order: the lower end",
    "oracle": "best ranking the labels allow: the upper end",
}


def describe(method: str) -> str:
    """A method in words; an unknown name describes itself."""
    base = method.removesuffix(WHOLE_PHOTO)
    words = _DESCRIPTIONS.get(base, base)
    return f"{words}; whole photo at once" if method.endswith(WHOLE_PHOTO) else words


def rivals_of(differences: Mapping[str, Interval]) -> dict[str, Interval]:
    """The methods the shipped ranking competes with: all but the two ends of the scale."""
    return {name: interval for name, interval in differences.items() if name not in BASELINES}
