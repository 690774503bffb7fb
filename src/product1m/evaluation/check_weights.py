"""Choose the weights of the checks of answers, on the dev queries (ours)."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from product1m.evaluation.fusion import DevQueries, Fusion, FusionSettings, elect
from product1m.evaluation.metrics import score_queries
from product1m.evaluation.statistics import MAIN_DEPTH
from product1m.retrieval.checking import CLAIMS_WEIGHT, NEIGHBORS_WEIGHT
from product1m.retrieval.query_vectors import QueryVectors
from product1m.retrieval.search import Searcher
from product1m.retrieval.shared_points import COLORS_WEIGHT, PATTERN_WEIGHT, POINTS_WEIGHT


def with_checks(
    fusion: Fusion,
    searcher: Searcher,
    queries: QueryVectors,
    dev: DevQueries,
    settings: FusionSettings,
    whole_photo: bool,
) -> Fusion:
    """The fusion with weights of shared points and their colors, of neighbors, of color patterns.

    Block weights stay as they are; a check's weight is chosen with those before it in place.
    Resamples of the dev queries elect among the tried weights, as for blocks. The mean of the
    elected weights is used if it improves the dev score; otherwise the check has no weight. Claims
    of other boxes are not elected, because they change which box has an answer, and hardly the
    merged ranking.
    """
    rank = _Scores(searcher, queries, dev, whole_photo)
    if queries.shared is not None:
        tried = {POINTS_WEIGHT: settings.points_weights, COLORS_WEIGHT: settings.colors_weights}
        fusion = _with_best(fusion, tried, rank, settings)
    fusion = _with_best(fusion, {NEIGHBORS_WEIGHT: settings.neighbors_weights}, rank, settings)
    if POINTS_WEIGHT in fusion.weights:
        fusion = _with_best(fusion, {PATTERN_WEIGHT: settings.pattern_weights}, rank, settings)
    if whole_photo or not settings.claims_weight:
        return fusion
    weights = fusion.weights | {CLAIMS_WEIGHT: settings.claims_weight}
    return replace(fusion, weights=weights, dev_map_at_10=float(rank.ap(weights).mean()))


def _with_best(
    fusion: Fusion,
    tried: Mapping[str, Sequence[float]],
    rank: "_Scores",
    settings: FusionSettings,
) -> Fusion:
    """Choose the weights of some checks together."""
    values = [sorted({0.0, *weights}) for weights in tried.values()]
    grid = [dict(zip(tried, point, strict=True)) for point in itertools.product(*values)]
    if len(grid) == 1:
        return fusion
    ap = np.stack([rank.ap(fusion.weights | point) for point in grid])
    elected = np.array([list(point.values()) for point in grid])[elect(ap, settings)].mean(axis=0)
    chosen = {check: round(value, 4) for check, value in zip(tried, elected.tolist(), strict=True)}
    weights = fusion.weights | {check: weight for check, weight in chosen.items() if weight}
    score = float(rank.ap(weights).mean())
    trials = [
        point | {"dev_map": float(mean)} for point, mean in zip(grid, ap.mean(axis=1), strict=True)
    ]
    fusion = replace(fusion, check_trials=(*fusion.check_trials, *trials))
    if score <= trials[0]["dev_map"]:
        return fusion
    return replace(fusion, weights=weights, dev_map_at_10=score)


class _Scores:
    """The dev queries' scores as a function of the weights of a ranking."""

    def __init__(
        self, searcher: Searcher, queries: QueryVectors, dev: DevQueries, whole_photo: bool
    ) -> None:
        self._searcher = searcher
        self._queries = queries.select(dev.rows)
        self._dev = dev
        self._whole_photo = whole_photo

    def ap(self, weights: Mapping[str, float]) -> np.ndarray:
        """Strict AP@10 of each dev query."""
        rankings: Mapping[str, Sequence[str]] = self._searcher.rank(
            self._queries, weights, self._whole_photo, self._dev.merge
        )
        scores = score_queries(rankings, self._dev.truth, "strict", (MAIN_DEPTH,))
        return scores["ap"].to_numpy()
