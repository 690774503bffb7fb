"""What a refreshed catalogue must pass before it is served."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from product1m.artifacts.folder import Artifact
from product1m.catalogue.indexing import Changes, FilledIndex, Vectors
from product1m.retrieval.building import RECALL_DEPTH
from product1m.retrieval.checking import Nearest, check_answers
from product1m.retrieval.shared_points import (
    COLORS_WEIGHT,
    PATTERN_WEIGHT,
    POINTS_WEIGHT,
    Matcher,
    PreparedItems,
)
from product1m.serving.model_folder import ServingConfig

CANARY_CHECK = "canaries"
"""Name of the check."""
CANARIES = "canaries.json"
"""Item id to the id that the item's vector finds first, beside the index of a catalogue."""


@dataclass(frozen=True)
class CheckLimits:
    """The section `catalogue` of the configuration explains each value."""

    min_recall: float
    num_canaries: int
    canary_depth: int
    max_shrinkage: float
    max_growth: float


@dataclass(frozen=True)
class CanaryRanking:
    """How the answers of canaries are ordered: as those of boxes, all blocks with equal weights."""

    weights: Mapping[str, float]
    """Weights of the blocks, and of shared points if the model gives them one."""
    num_checked: int
    """First answers that are checked by shared points."""

    @classmethod
    def from_config(cls, blocks: Iterable[str], config: ServingConfig) -> "CanaryRanking":
        """The ranking for an index with these blocks and a model with this configuration."""
        checks = (POINTS_WEIGHT, COLORS_WEIGHT, PATTERN_WEIGHT)
        check_weights = {name: config.weights.get(name, 0.0) for name in checks}
        return cls(
            {**dict.fromkeys(blocks, 1.0), **check_weights}, config.evaluation.checked_answers
        )


@dataclass(frozen=True)
class Check:
    """One of the checks."""

    name: str
    passed: bool
    reason: str
    share: float = 1.0
    """Share of the canaries that find what they found before."""


def check_catalogue(
    before: Artifact | None,
    filled: FilledIndex,
    changes: Changes,
    canaries: Mapping[str, str],
    answers: Mapping[str, Sequence[str]],
    limits: CheckLimits,
) -> list[Check]:
    """Recall, canaries and size of a refreshed catalogue.

    Args:
        before: the catalogue that was refreshed; None for the first.
        filled: the new index.
        changes: between the two.
        canaries: of the catalogue before, see `known_canaries`.
        answers: of the new index, see `ask_canaries`.
        limits: of what passes.
    """
    recall = f"recall@{RECALL_DEPTH} {filled.recall:.4f}, expected {limits.min_recall:g} or more"
    checks = [Check("recall", filled.recall >= limits.min_recall, recall)]
    checks.append(_check_canaries(changes, canaries, answers))
    if before is not None:
        checks.append(_check_size(len(filled.rows), changes, limits))
    return checks


def known_canaries(before: Artifact | None) -> dict[str, str]:
    """The canaries of a catalogue: item id to the id of what it found first."""
    if before is None:
        return {}
    canaries: dict[str, str] = json.loads(before.file(CANARIES).read_text("utf-8"))
    return canaries


def ask_canaries(
    filled: FilledIndex,
    known: Mapping[str, str],
    vectors: Vectors,
    limits: CheckLimits,
    seed: int,
    ranking: CanaryRanking,
) -> dict[str, list[str]]:
    """What the canaries of a new index find first, up to `limits.canary_depth` ids each.

    Args:
        filled: the new index.
        known: canaries of the catalogue before. Those whose items stayed are asked, and others at
            random, until there are `limits.num_canaries`.
        vectors: of items.
        limits: number of canaries and depth.
        seed: of the random choice.
        ranking: how the answers are ordered.
    """
    present = set(filled.rows["id"])
    kept = [item for item, answer in known.items() if item in present and answer in present]
    others = sorted(present - set(kept))
    number = min(len(others), max(0, limits.num_canaries - len(kept)))
    new = np.random.default_rng(seed).choice(np.array(others, object), number, replace=False)
    chosen = filled.rows[filled.rows["id"].isin({*kept, *new.tolist()})]
    return _answers(filled, chosen, vectors, limits.canary_depth, ranking)


def write_canaries(folder: Path, answers: Mapping[str, Sequence[str]]) -> None:
    """Write what `ask_canaries` found first, for the next refresh."""
    canaries = {item: answer[0] for item, answer in answers.items()}
    (folder / CANARIES).write_text(json.dumps(canaries, indent=1), "utf-8")


def _check_canaries(
    changes: Changes, canaries: Mapping[str, str], answers: Mapping[str, Sequence[str]]
) -> Check:
    moved = {*changes.removed, *changes.changed}
    asked = {item: answer for item, answer in canaries.items() if not {item, answer} & moved}
    lost = sorted(item for item, answer in asked.items() if answer not in answers.get(item, ()))
    num_found = len(asked) - len(lost)
    reason = f"{num_found} of {len(asked)} canaries find what they found before"
    if lost:
        reason += f"; not {', '.join(lost[:5])}"
    return Check(CANARY_CHECK, not lost, reason, num_found / len(asked) if asked else 1.0)


def _answers(
    filled: FilledIndex,
    rows: pd.DataFrame,
    vectors: Vectors,
    depth: int,
    ranking: CanaryRanking,
) -> dict[str, list[str]]:
    """What the vectors and points of some items find, by item id."""
    if not len(rows):
        return {}
    gallery, places = filled.gallery, filled.gallery.places
    items = places.find(rows["id"]).tolist()
    searched = max(depth, ranking.num_checked)
    nearest = Nearest(*gallery.search(vectors(rows), searched))
    table = gallery.points
    if table is not None:
        matcher = Matcher([table[item] for item in items], PreparedItems(table))
        nearest = check_answers(nearest, ranking.weights, matcher.count, ranking.num_checked)
    positions = nearest.first(depth).positions.tolist()
    answers = [gallery.ids.at([place for place in row if place >= 0]) for row in positions]
    return dict(zip(rows["id"], answers, strict=True))


def _check_size(num_items: int, changes: Changes, limits: CheckLimits) -> Check:
    old = num_items - len(changes.added) + len(changes.removed)
    removed, added = len(changes.removed) / max(old, 1), len(changes.added) / max(old, 1)
    reason = (
        f"{len(changes.removed)} of {old} items removed, {len(changes.added)} added; at most "
        f"{limits.max_shrinkage:.0%} may go and {limits.max_growth:g} times as many come at once"
    )
    return Check("size", removed <= limits.max_shrinkage and added <= limits.max_growth, reason)
