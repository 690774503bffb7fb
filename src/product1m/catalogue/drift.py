"""How far a catalogue has moved from what its model knows: when to retrain (ours).

A model folder holds the vectors of the gallery that the model was measured with, and not those of
its training items, so that gallery stands for what the model knows.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from product1m.catalogue.indexing import Vectors
from product1m.retrieval.embedding import BlockLayout
from product1m.retrieval.index import GalleryIndex

COMPARED = {"image": "photo_distance", "text": "title_distance"}
"""Block to the name of its distance."""
MAX_NEW, MAX_KNOWN = 1000, 10_000
"""Items that are compared (ours)."""
RECENT = 500
"""Queries whose match scores count, the newest (ours)."""


@dataclass(frozen=True)
class DriftLimits:
    """The section `catalogue` of the configuration explains each value."""

    max_new_share: float
    max_distance: float
    min_canaries_found: float
    min_match_score: float


@dataclass(frozen=True)
class Sign:
    """One number that says whether the model still fits its catalogue."""

    name: str
    value: float
    limit: float
    drifted: bool


def signs_of_drift(
    known: GalleryIndex,
    widths: Mapping[str, int],
    rows: pd.DataFrame,
    vectors: Vectors,
    canaries_found: float,
    queries: str,
    limits: DriftLimits,
    seed: int,
) -> list[Sign]:
    """What can be measured: share of new items, their distances, canaries, recent queries.

    Args:
        known: the model's own gallery.
        widths: of the blocks of a vector, in their order.
        rows: the catalogue's items.
        vectors: of these items.
        canaries_found: share of the canaries that find what they found before.
        queries: folder of the queries that a server kept; empty for none.
        limits: of what counts as drift.
        seed: of the items that are compared.
    """
    new = rows[~_content(rows).isin(set(_content(known.rows)))]
    share = len(new) / max(len(rows), 1)
    signs = [Sign("new_share", share, limits.max_new_share, share > limits.max_new_share)]
    for name, distance in _distances(known, widths, new, vectors, seed):
        signs.append(Sign(name, distance, limits.max_distance, distance > limits.max_distance))
    least = limits.min_canaries_found
    signs.append(Sign("canaries_found", canaries_found, least, canaries_found < least))
    if scores := _recent_scores(queries):
        mean = float(np.mean(scores))
        lowest = limits.min_match_score
        signs.append(Sign("recent_match_score", mean, lowest, mean < lowest))
    return signs


def _content(rows: pd.DataFrame) -> pd.Series:
    return rows["sha256"].astype(str) + " " + rows["caption"].astype(str)


def _distances(
    known: GalleryIndex, widths: Mapping[str, int], new: pd.DataFrame, vectors: Vectors, seed: int
) -> Iterator[tuple[str, float]]:
    """How far new items lie from the known ones, as a multiple of how far these lie apart."""
    generator = np.random.default_rng(seed)
    if not len(new) or len(known) < 2:
        return
    places = _sample(len(known), MAX_KNOWN, generator)
    own = known.vectors(places)
    compared = vectors(new.iloc[_sample(len(new), MAX_NEW, generator)])
    content = _content(known.rows).to_numpy()[places]
    some = _sample(len(own), MAX_NEW, generator)
    same = content[some][:, None] == content[None, :]
    layout = BlockLayout(widths)
    for block in sorted(COMPARED.keys() & widths.keys()):
        columns = layout.columns(block)
        apart = _nearest(own[some, columns], own[:, columns], same)
        yield COMPARED[block], _nearest(compared[:, columns], own[:, columns]) / apart


def _nearest(
    vectors: Float32[np.ndarray, "n W"],
    others: Float32[np.ndarray, "m W"],
    left_out: np.ndarray | None = None,
) -> float:
    """Mean cosine distance to the nearest of the others; above 0."""
    cosines = vectors @ others.T
    if left_out is not None:
        cosines[left_out] = -1
    return max(float(np.mean(1 - cosines.max(axis=1))), 1e-6)


def _sample(number: int, size: int, generator: np.random.Generator) -> Int64[np.ndarray, " n"]:
    return np.sort(generator.choice(number, min(number, size), replace=False))


def _recent_scores(folder: str) -> Sequence[float]:
    """Match scores of the first answers of the newest kept queries."""
    if not folder:
        return []
    paths = sorted(Path(folder).expanduser().glob("*.json"))[-RECENT:]
    kept = [json.loads(path.read_text("utf-8")) for path in paths]
    boxes = [box for answered in kept for box in answered["boxes"] if box["answers"]]
    scores = [box["answers"][0]["match_score"] for box in boxes]
    return [score for score in scores if score is not None]
