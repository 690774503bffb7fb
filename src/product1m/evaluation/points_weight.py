"""Choose the weight of shared points in a ranking, on the dev queries (ours)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from product1m.evaluation.fusion import DevQueries, Fusion, FusionSettings, elect
from product1m.evaluation.metrics import score_queries
from product1m.evaluation.statistics import MAIN_DEPTH
from product1m.retrieval.query_vectors import QueryVectors
from product1m.retrieval.search import Searcher
from product1m.retrieval.shared_points import POINTS_WEIGHT


def with_points(
    fusion: Fusion,
    searcher: Searcher,
    queries: QueryVectors,
    dev: DevQueries,
    settings: FusionSettings,
    whole_photo: bool,
) -> Fusion:
    """The fusion with a weight of shared points; block weights stay as they are.

    Resamples of the dev queries elect among the tried weights, as for blocks. The mean of the
    elected weights is used if it improves the dev score; otherwise points have no weight.
    """
    if queries.shared is None or not any(settings.points_weights):
        return fusion
    tried = sorted({0.0, *settings.points_weights})
    rank = _Scores(searcher, queries, dev, fusion.weights, whole_photo)
    ap = np.stack([rank.ap(weight) for weight in tried])
    elected = elect(ap, settings)
    weight = round(float(np.array(tried)[elected].mean()), 4)
    score = float(rank.ap(weight).mean())
    trials = dict(zip(tried, ap.mean(axis=1).tolist(), strict=True))
    if score <= trials[0.0]:
        return replace(fusion, points_trials=trials)
    weights = fusion.weights | {POINTS_WEIGHT: weight}
    return replace(fusion, weights=weights, dev_map_at_10=score, points_trials=trials)


class _Scores:
    """The dev queries' scores as a function of the weight of shared points."""

    def __init__(
        self,
        searcher: Searcher,
        queries: QueryVectors,
        dev: DevQueries,
        weights: Mapping[str, float],
        whole_photo: bool,
    ) -> None:
        self._searcher = searcher
        self._queries = queries.select(dev.rows)
        self._dev = dev
        self._weights = weights
        self._whole_photo = whole_photo

    def ap(self, weight: float) -> np.ndarray:
        """Strict AP@10 of each dev query."""
        weights = {**self._weights, POINTS_WEIGHT: weight}
        rankings: Mapping[str, Sequence[str]] = self._searcher.rank(
            self._queries, weights, self._whole_photo, self._dev.merge
        )
        scores = score_queries(rankings, self._dev.truth, "strict", (MAIN_DEPTH,))
        return scores["ap"].to_numpy()
