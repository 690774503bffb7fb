"""Names of the rankings that an evaluation compares, and their descriptions in reports.

All code that shows a ranking takes its name and description from here. This module loads no network
and no index.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from product1m.retrieval.merging import MERGE_RULES, MergeRule

SHIPPED = "shipped"
JOINT, JOINT_STREAMS, STREAMS = CAPTURE_ALONE = ("joint", "joint_streams", "streams")
IMAGE, TEXT, IMAGE_TEXT = WITHOUT_CAPTURE = ("image", "text", "image_text")
OCR, IMAGE_TEXT_OCR = READ = ("ocr", "image_text_ocr")
"""Also without CAPTURE; only if printed text was read."""
CROP = "crop"
"""Also without CAPTURE; only if crops were encoded."""
IMAGE_TEXT_POINTS = "image_text_points"
"""Also without CAPTURE; only if photos have points."""
WHOLE_PHOTO = "_whole_photo"
"""Suffix of a ranking that searches with the whole photo instead of its boxes."""
NEAREST_TITLE = "nearest_dev_titles"
"""Answers with the labels of the dev queries whose titles are most similar: no photo, no model."""
SHIPPED_WHOLE_PHOTO = SHIPPED + WHOLE_PHOTO
MERGE_PREFIX = "merge_"
"""Prefix of a ranking that merges the boxes' rankings by another rule."""
ORACLE_BOXES, INSTANCE_CROPS = "oracle_boxes", "instance_crops"
RANDOM, ORACLE = ENDS_OF_SCALE = ("random", "oracle")
"""A random ranking and the best possible one; neither uses an index."""
BASELINES = (*WITHOUT_CAPTURE, SHIPPED_WHOLE_PHOTO)
"""Rankings that the shipped one must beat to be worth its training: all without CAPTURE, and the
shipped one with the whole photo as the only box."""

FIXED: Mapping[str, Mapping[str, float]] = {
    JOINT: {"joint": 1.0},
    JOINT_STREAMS: {"joint": 1.0, "stream_product": 1.0},
    STREAMS: {"streams": 1.0},
    IMAGE: {"image": 1.0},
    TEXT: {"text": 1.0},
    OCR: {"ocr": 1.0},
    CROP: {"crop": 1.0},
}
"""Block weights of the rankings whose weights are fixed: the paper's embedding, the first author's
(products of the joint and of the stream tokens), the two towers, raw features, titles, text
printed on packs, and products cut out and encoded by themselves."""

TITLES: Mapping[str, str] = {
    SHIPPED: "shipped: all blocks fused, weights from dev",
    JOINT: "our network, read out as in the paper: joint",
    JOINT_STREAMS: "our network, read out as by the first author: joint + streams",
    STREAMS: "streams: both towers",
    IMAGE: "image only",
    TEXT: "text only",
    OCR: "OCR only",
    CROP: "crops of boxes only",
    IMAGE_TEXT: "image + text, no CAPTURE",
    IMAGE_TEXT_OCR: "image + text + OCR, no CAPTURE",
    IMAGE_TEXT_POINTS: "image + text + shared points, no CAPTURE",
    NEAREST_TITLE: "labels of the nearest dev titles, no photo, no model",
    SHIPPED_WHOLE_PHOTO: "shipped, whole photo",
    IMAGE + WHOLE_PHOTO: "image only, whole photo",
    OCR + WHOLE_PHOTO: "OCR only, whole photo",
    CROP + WHOLE_PHOTO: "crop of the whole photo only",
    IMAGE_TEXT + WHOLE_PHOTO: "image + text, whole photo",
    IMAGE_TEXT_OCR + WHOLE_PHOTO: "image + text + OCR, whole photo",
    IMAGE_TEXT_POINTS + WHOLE_PHOTO: "image + text + shared points, whole photo",
    INSTANCE_CROPS: "crops of boxes, encoded again",
    ORACLE_BOXES: "true boxes",
    RANDOM: "random",
    ORACLE: "oracle",
}
"""The rows of a table of results, in this order, each ranking in a few words."""

_MERGE_RULES: Mapping[MergeRule, str] = {
    "best_score": "as shipped, an item ranked by its best match score over the boxes",
    "round_robin": "as shipped, the boxes taking turns",
    "score_sorted": "as shipped, sorted by match score, each box's scaled to 0 … 1",
    "reciprocal_rank": "as shipped, by the sum of 1 / (60 + rank) over the boxes",
}
_DESCRIPTIONS: Mapping[str, str] = {
    SHIPPED: "all blocks fused, answers checked by shared points and compared with the best of "
    "them, weights chosen on the dev queries",
    JOINT: "this network read out as in the paper: product of the joint tokens",
    JOINT_STREAMS: "this network read out as by the first author: products of the joint and "
    "of the stream tokens",
    STREAMS: "CAPTURE, single-stream tokens: two towers",
    IMAGE: "region features alone, no CAPTURE",
    TEXT: "character n-grams of the title alone, no CAPTURE",
    IMAGE_TEXT: "image and text fused, no CAPTURE",
    OCR: "character n-grams of what is printed on the pack, no CAPTURE",
    IMAGE_TEXT_OCR: "image, text and what is printed fused, no CAPTURE",
    CROP: "each product cut out and encoded by itself alone, no CAPTURE",
    IMAGE_TEXT_POINTS: "image and text fused, answers checked and compared as in shipped, no "
    "CAPTURE",
    NEAREST_TITLE: "gallery items with the labels of the dev queries with the most similar titles; "
    "no photo, no model",
    **{MERGE_PREFIX + rule: _MERGE_RULES[rule] for rule in MERGE_RULES},
    INSTANCE_CROPS: "as shipped, each box cut out and encoded again at full size",
    ORACLE_BOXES: "as shipped, with the true boxes: what detection costs",
    RANDOM: "gallery in random order: the lower end",
    ORACLE: "best ranking the labels allow: the upper end",
}
OTHER_METHODS = "Without CAPTURE"
GROUPS = (
    "What ships",
    "CAPTURE alone",
    OTHER_METHODS,
    "Whole photo as one box",
    "Other ways to merge the boxes' rankings",
    "What pooling and detection cost",
    "Ends of the scale",
)
_Value = TypeVar("_Value")


def describe(method: str) -> str:
    """A description of a ranking; the name itself if it is unknown."""
    base = method.removesuffix(WHOLE_PHOTO)
    description = _DESCRIPTIONS.get(base, base)
    return f"{description}; whole photo at once" if method.endswith(WHOLE_PHOTO) else description


def group_of(method: str) -> str:
    """The group of a ranking in the report's tables."""
    places = (
        method == SHIPPED,
        method in CAPTURE_ALONE,
        False,
        method.endswith(WHOLE_PHOTO),
        method.startswith(MERGE_PREFIX),
        method in (INSTANCE_CROPS, ORACLE_BOXES),
        method in ENDS_OF_SCALE,
    )
    return GROUPS[places.index(True)] if any(places) else OTHER_METHODS


def grouped(methods: Iterable[str]) -> dict[str, list[str]]:
    """Rankings by group, in the order of the groups; empty groups are left out."""
    members: dict[str, list[str]] = {group: [] for group in GROUPS}
    for method in methods:
        members[group_of(method)].append(method)
    return {group: names for group, names in members.items() if names}


def between_the_ends(values: Mapping[str, _Value]) -> dict[str, _Value]:
    """Values by ranking, without the ends of the scale."""
    return {name: value for name, value in values.items() if name not in ENDS_OF_SCALE}


def rivals(values: Mapping[str, _Value]) -> dict[str, _Value]:
    """Values of the rankings that could ship instead: without ends of the scale and true boxes."""
    return {n: value for n, value in between_the_ends(values).items() if n != ORACLE_BOXES}
