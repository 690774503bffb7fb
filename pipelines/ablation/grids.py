"""Grids of an ablation: cells that are the full model with a few configuration keys changed.

A cell is defined relative to a configuration, so the same grid works with every preset.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from product1m.config import Block, Config, parse_config
from product1m.errors import ConfigError
from product1m.evaluation.methods import (
    CROP,
    IMAGE_TEXT,
    IMAGE_TEXT_OCR,
    JOINT,
    JOINT_STREAMS,
    OCR,
    ORACLE_BOXES,
    SHIPPED,
    SHIPPED_WHOLE_PHOTO,
    STREAMS,
)

FULL = "full"
SEED_KEY = "capture_pretraining.seed"
"""Another seed pretrains CAPTURE with other initial weights, batches and masks (ours)."""


@dataclass(frozen=True)
class Cell:
    """One row of an ablation."""

    name: str
    meaning: str
    """The change, in words."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """`section.key` to value; all other keys are those of the full model."""
    method: str = SHIPPED
    """The ranking of its evaluation that replaces the shipped one."""

    def method_of(self, measure: str) -> str:
        """The ranking of its evaluation that a measure uses."""
        return self.method if measure == SHIPPED else measure

    def config(self, base: Config, seed: int) -> Config:
        """The configuration of this cell."""
        values = base.model_dump(mode="json")
        for key, value in {**self.overrides, SEED_KEY: seed}.items():
            section, name = key.split(".")
            values[section][name] = value
        return parse_config(values)


@dataclass(frozen=True)
class Grid:
    """A question and the cells that answer it, the full model first."""

    name: str
    question: str
    cells: tuple[Cell, ...]
    left_out: Mapping[str, str]
    """Cells that make no sense for the configuration, with the reason."""
    measures: tuple[str, ...] = (SHIPPED,)
    """The compared rankings: the shipped one and, if CAPTURE itself changes, its own embeddings."""
    shows_products: bool = False
    """Whether its table also has the products found."""


def make_grid(name: str, config: Config, chosen: Sequence[str] = ()) -> Grid:
    """Build a grid for a configuration; `chosen` limits it to some cells and the full model.

    Raises ConfigError for an unknown grid or cell, with the nearest known one.
    """
    if name not in _GRIDS:
        raise ConfigError(
            f"unknown grid {name!r}; did you mean {_nearest(name, list(_GRIDS))!r}? "
            f"Grids: {', '.join(_GRIDS)}"
        )
    question, build = _GRIDS[name]
    full, *cells = build(config)
    unchanged = full.config(config, 0)
    left_out = {
        cell.name: reason for cell in cells if (reason := _not_useful(cell, config, unchanged))
    }
    cells = [cell for cell in cells if cell.name not in left_out]
    known = [FULL, *(cell.name for cell in cells), *left_out]
    for wanted in chosen:
        if wanted not in known:
            raise ConfigError(
                f"unknown cell {wanted!r} of the grid {name}; did you mean "
                f"{_nearest(wanted, known)!r}? Cells: {', '.join(known)}"
            )
    kept = [cell for cell in cells if not chosen or cell.name in chosen]
    reasons = {cell: why for cell, why in left_out.items() if not chosen or cell in chosen}
    shows_products = name in _SHOWING_PRODUCTS
    return Grid(name, question, (full, *kept), reasons, _MEASURES[name], shows_products)


def _not_useful(cell: Cell, config: Config, unchanged: Config) -> str:
    """Why a cell makes no sense for this configuration; empty if it does."""
    changed = cell.config(config, 0)
    if cell.overrides and changed == unchanged:
        return "the full model is already configured like this"
    pretraining = changed.capture_pretraining
    if not any(getattr(pretraining, key) for key, _ in _TASKS.values()):
        return "no pretext task would be left"
    return ""


_TASKS = {
    "masked-language": ("masked_language_weight", "masked language modeling"),
    "masked-region": ("masked_region_weight", "masked region regression"),
    "matching": ("image_text_matching_weight", "image-text matching"),
    "contrast": ("contrast_weight", "cross-modal contrast"),
    "scene-contrast": ("scene_contrast_weight", "contrast of pasted products with their sources"),
}


def _pretext(config: Config) -> list[Cell]:
    """Each task and the input skip: left out if it is on, added if it is off."""
    pretraining = config.capture_pretraining
    cells = [Cell(FULL, "every task as configured")]
    for name, (key, words) in _TASKS.items():
        is_on = getattr(pretraining, key) > 0
        value = 0.0 if is_on else 1.0
        cells.append(_switch(name, words, f"capture_pretraining.{key}", value, is_on))
    is_on = pretraining.input_skip
    words = "linear maps of the raw inputs"
    cells.append(_switch("input-skip", words, "capture_pretraining.input_skip", not is_on, is_on))
    return cells


def _switch(name: str, words: str, key: str, value: Any, is_on: bool) -> Cell:
    if is_on:
        return Cell(f"without-{name}", f"without {words}", {key: value})
    return Cell(f"with-{name}", f"with {words}", {key: value})


AS_PUBLISHED: Mapping[str, Any] = {
    "scene_contrast_weight": 0.0,
    "input_skip": False,
    "contrast": "released",
    "relu_projection": True,
    "learn_temperature": False,
}
"""Pretraining without this project's additions, with the contrast of the released code (paper,
released code)."""


def _published(_: Config) -> list[Cell]:
    """CAPTURE trained as published; each measure reads both networks out in the same way."""
    overrides = {f"capture_pretraining.{key}": value for key, value in AS_PUBLISHED.items()}
    words = "CAPTURE as published: no scene contrast, no input skip, the released contrast"
    return [
        Cell(FULL, "this project's training"),
        Cell("as-published", words, overrides),
        Cell("image-text", "image and text, without CAPTURE", method=IMAGE_TEXT),
    ]


_DEPTHS = ("text_layers", "visual_layers", "cross_layers", "joint_layers")


def _layers(config: Config) -> list[Cell]:
    """Each type of layer left out; all types at half and at double depth."""
    pretraining = config.capture_pretraining
    depths = {name: int(getattr(pretraining, name)) for name in _DEPTHS}
    halved = {name: (depth + 1) // 2 for name, depth in depths.items()}
    doubled = {name: 2 * depth for name, depth in depths.items()}

    def cell(name: str, meaning: str, changed: Mapping[str, int]) -> Cell:
        return Cell(name, meaning, {f"capture_pretraining.{k}": v for k, v in changed.items()})

    return [
        Cell(FULL, f"{_depths(depths)} layers: text/visual/cross/joint"),
        cell("without-streams", "no text, no visual layers", dict.fromkeys(_DEPTHS[:2], 0)),
        cell("without-text", "no text layers", {"text_layers": 0}),
        cell("without-visual", "no visual layers", {"visual_layers": 0}),
        cell("without-cross", "no cross layers", {"cross_layers": 0}),
        cell("without-joint", "no joint layers", {"joint_layers": 0}),
        cell("shallower", f"{_depths(halved)} layers", halved),
        cell("deeper", f"{_depths(doubled)} layers", doubled),
    ]


def _depths(depths: Mapping[str, int]) -> str:
    """Text, visual, cross, joint: `4/4/4/4`."""
    return "/".join(str(depths[name]) for name in _DEPTHS)


_PROPOSALS = {
    "rpn": ("trained-rpn", "trained RPN"),
    "grabcut": ("grabcut", "GrabCut box"),
    "whole_photo": ("whole-photo", "whole photo alone"),
}


def _proposals(config: Config) -> list[Cell]:
    """Other proposals for all photos, CAPTURE trained on them; and other boxes for queries only."""
    used = config.feature_extraction.proposals
    everywhere = [
        Cell(name, f"{words}, everywhere", {"feature_extraction.proposals": source})
        for source, (name, words) in _PROPOSALS.items()
        if source != used
    ]
    return [
        Cell(FULL, f"{_PROPOSALS[used][1]}, everywhere"),
        *everywhere,
        Cell("whole-photo-queries", "queries not split into boxes", method=SHIPPED_WHOLE_PHOTO),
        Cell("oracle-boxes", "queries split at their true boxes", method=ORACLE_BOXES),
    ]


def _fusion(config: Config) -> list[Cell]:
    """Blocks of the embedding alone, together, and each left out; weights chosen on dev."""
    is_read = config.feature_extraction.ocr != "off"
    missing = _missing_blocks(config)
    blocks = [block for block in get_args(Block) if block not in missing]
    full = [block for block in config.evaluation.fused_blocks if block in blocks]

    def fused(name: str, meaning: str, blocks: Sequence[str]) -> Cell:
        return Cell(name, meaning, {"evaluation.fused_blocks": list(blocks)})

    without = [
        fused(f"without-{left}", f"all but {left}", [block for block in full if block != left])
        for left in full
        if len(full) > 1
    ]
    printed = Cell("image-text-ocr", "image, text, OCR, without CAPTURE", method=IMAGE_TEXT_OCR)
    return [
        Cell(FULL, f"{', '.join(full)}, weights chosen on dev"),
        *(Cell(f"{block}-only", f"{block} alone", method=block) for block in blocks),
        fused("joint-streams", "joint and streams, of CAPTURE alone", ("joint", "streams")),
        Cell(
            "first-author",
            "products of joint and of stream tokens, equal weights",
            method=JOINT_STREAMS,
        ),
        Cell("image-text", "image and text, without CAPTURE", method=IMAGE_TEXT),
        *([printed] if is_read else []),
        *without,
    ]


def _missing_blocks(config: Config) -> set[str]:
    """The blocks that an index of this configuration does not have."""
    extraction = config.feature_extraction
    is_made = {OCR: extraction.ocr != "off", CROP: extraction.crop_encoder != ""}
    return {block for block, made in is_made.items() if not made}


def _optional_blocks(config: Config) -> list[Cell]:
    """Each block that an index need not have, left out; and crops without their linear map."""
    missing = _missing_blocks(config)
    full = [block for block in config.evaluation.fused_blocks if block not in missing]
    meanings = {OCR: "printing not read", CROP: "products not cut out and encoded"}
    cells = [
        Cell(
            f"without-{left}",
            meaning,
            {"evaluation.fused_blocks": [block for block in full if block != left]},
        )
        for left, meaning in meanings.items()
        if left in full and len(full) > 1
    ]
    if CROP in full and config.feature_extraction.crop_adaptation:
        changed = {"indexing.adapt_crops": False}
        cells.append(Cell("without-adaptation", "vectors of crops not mapped", changed))
    return cells


def _retrieval(config: Config) -> list[Cell]:
    """Each part of finding a product left out; only evaluation, or indexing too, runs again."""
    optional = _optional_blocks(config)
    points = Cell(
        "without-points", "answers not checked by points", {"evaluation.points_weights": [0.0]}
    )
    pattern = Cell(
        "without-pattern",
        "colors not compared where points lie",
        {"evaluation.pattern_weights": [0.0]},
    )
    neighbors = Cell(
        "without-neighbors",
        "answers not compared with the best of them",
        {"evaluation.neighbors_weights": [0.0]},
    )
    claimed = {"evaluation.claims_weight": 0.0}
    claims = Cell("without-claims", "answers keep what other boxes claim", claimed)
    return [
        Cell(FULL, "every part as configured"),
        Cell("without-boxes", "queries not split into boxes", method=SHIPPED_WHOLE_PHOTO),
        *optional,
        *([points, pattern] if config.feature_extraction.gallery_points else []),
        neighbors,
        claims,
    ]


def _nearest(name: str, known: Sequence[str]) -> str:
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


_GRIDS: Mapping[str, tuple[str, Callable[[Config], list[Cell]]]] = {
    "pretext": ("What is each pretext task worth?", _pretext),
    "published": ("What is CAPTURE as published worth?", _published),
    "layers": ("What is each type of layer worth, and what does depth do?", _layers),
    "proposals": ("What is finding the products in a photo worth?", _proposals),
    "fusion": ("What does each block of the embedding add to the ranking?", _fusion),
    "retrieval": ("What is each part of finding a product worth?", _retrieval),
}
GRID_NAMES = tuple(_GRIDS)
_SHOWING_PRODUCTS = ("retrieval",)
_CAPTURE_ALONE = (SHIPPED, JOINT, STREAMS)
_MEASURES = {
    "pretext": _CAPTURE_ALONE,
    "published": (SHIPPED, JOINT, JOINT_STREAMS),
    "layers": _CAPTURE_ALONE,
    "proposals": (SHIPPED,),
    "fusion": (SHIPPED,),
    "retrieval": (SHIPPED,),
}
"""The shipped ranking also uses image and title directly, which hides part of CAPTURE's losses."""
