"""What each ranking is, in a few words, for readers of the report."""

from collections.abc import Iterable, Mapping

from product1m.evaluation.methods import (
    BASELINES,
    INSTANCE_CROPS,
    MERGE_PREFIX,
    ORACLE_BOXES,
    SHIPPED,
    WHOLE_PHOTO,
)
from product1m.evaluation.statistics import Interval

_DESCRIPTIONS = {
    "shipped": "all blocks fused, weights chosen on the dev queries",
    "joint": "CAPTURE, product of the joint tokens (paper)",
    "joint_streams": "CAPTURE, products of the joint and of the stream tokens (first author)",
    "streams": "CAPTURE, single-stream tokens: two towers",
    "image": "region features alone, no CAPTURE",
    "text": "character n-grams of the title alone, no CAPTURE",
    "image_text": "image and text fused, no CAPTURE",
    "merge_best_score": "as shipped, an item ranked by its best score over the instances",
    "merge_round_robin": "as shipped, the instances taking turns",
    "merge_score_sorted": "as shipped, sorted by score, each instance's scaled to 0 … 1",
    "merge_reciprocal_rank": "as shipped, by the sum of 1 / (60 + rank) over the instances",
    "instance_crops": "as shipped, each instance cut out and encoded again at full size",
    "oracle_boxes": "as shipped, with the true boxes for instances: what detection costs",
    "random": "gallery in random order: the lower end",
    "oracle": "best ranking the labels allow: the upper end",
}
_CAPTURE = ("joint", "joint_streams", "streams")
GROUPS = (
    "What ships",
    "CAPTURE alone",
    "Without CAPTURE",
    "Whole photo as one view",
    "Other ways to merge the instances",
    "What pooling and detection cost",
    "Ends of the scale",
)


def describe(method: str) -> str:
    """A method in words; an unknown name describes itself."""
    base = method.removesuffix(WHOLE_PHOTO)
    words = _DESCRIPTIONS.get(base, base)
    return f"{words}; whole photo at once" if method.endswith(WHOLE_PHOTO) else words


def group_of(method: str) -> str:
    """Where a method stands in the tables."""
    places = (
        method == SHIPPED,
        method in _CAPTURE,
        False,
        method.endswith(WHOLE_PHOTO),
        method.startswith(MERGE_PREFIX),
        method in (INSTANCE_CROPS, ORACLE_BOXES),
        method in BASELINES,
    )
    return GROUPS[places.index(True) if any(places) else 2]


def grouped(methods: Iterable[str]) -> dict[str, list[str]]:
    """Methods by group, groups in their order and only those that have any."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for method in methods:
        found[group_of(method)].append(method)
    return {group: names for group, names in found.items() if names}


def drawn(differences: Mapping[str, Interval]) -> dict[str, Interval]:
    """The methods whose differences share a scale: all but its two ends."""
    return {name: interval for name, interval in differences.items() if name not in BASELINES}


def rivals_of(differences: Mapping[str, Interval]) -> dict[str, Interval]:
    """The methods that could ship instead: all but the ends of the scale and the true boxes."""
    return {name: found for name, found in drawn(differences).items() if name != ORACLE_BOXES}
