"""Choose the weights of the checks of answers, on the dev queries (ours)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from product1m.evaluation.fusion import DevQueries, Fusion, FusionSettings, elect
from product1m.evaluation.metrics import score_queries
from product1m.evaluation.statistics import MAIN_DEPTH
from product1m.retrieval.checking import NEIGHBORS_WEIGHT
from product1m.retrieval.query_vectors import QueryVectors
from product1m.retrieval.search import Searcher
from product1m.retrieval.shared_points import POINTS_WEIGHT


def with_checks(
    fusion: Fusion,
    searcher: Searcher,
    queries: QueryVectors,
    dev: DevQueries,
    settings: FusionSettings,
    whole_photo: bool,
) -> Fusion:
    """The fusion with weights of shared points, then of neighbors; block weights stay as they are.

    Resamples of the dev queries elect among the tried weights, as for blocks. The mean of the
    elected weights is used if it improves the dev score; otherwise points have no weight.
    """
    tried = {
        POINTS_WEIGHT: settings.points_weights if queries.shared is not None else (),
        NEIGHBORS_WEIGHT: settings.neighbors_weights,
    }
    rank = _Scores(searcher, queries, dev, whole_photo)
    for check, weights in tried.items():
        if any(weights):
            fusion = _with_check(fusion, check, sorted({0.0, *weights}), rank, settings)
    return fusion


def _with_check(
    fusion: Fusion, check: str, tried: Sequence[float], rank: "_Scores", settings: FusionSettings
) -> Fusion:
    ap = np.stack([rank.ap(fusion.weights | {check: weight}) for weight in tried])
    elected = elect(ap, settings)
    weight = round(float(np.array(tried)[elected].mean()), 4)
    score = float(rank.ap(fusion.weights | {check: weight}).mean())
    trials = dict(zip(tried, ap.mean(axis=1).tolist(), strict=True))
    fusion = replace(fusion, check_trials={**fusion.check_trials, check: trials})
    if score <= trials[0.0]:
        return fusion
    return replace(fusion, weights=fusion.weights | {check: weight}, dev_map_at_10=score)


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
