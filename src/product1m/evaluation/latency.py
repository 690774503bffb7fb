"""Measure how long a single query takes, stage by stage, answered alone as in serving."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from product1m.data.regions import FeatureSet
from product1m.retrieval.checking import block_weights
from product1m.retrieval.match_score import MatchScorer
from product1m.retrieval.merging import merge
from product1m.retrieval.query_boxes import choose_boxes
from product1m.retrieval.search import Searcher
from product1m.telemetry.progress import track

STAGES = {
    "embedding": "boxes and title through CAPTURE and the other blocks",
    "search": "every box ranks the gallery",
    "shared_points": "the answers of every box are checked",
    "match_scores": "how probable it is that each answer is right",
    "merge": "the boxes' rankings become one",
}
"""Stages after region features; detection is not included."""


def measure_latency(
    searcher: Searcher,
    queries: FeatureSet,
    rows: Sequence[int],
    weights: Mapping[str, float],
    num_timed: int,
    scorer: MatchScorer | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """Milliseconds per query, one row per stage and for the total: columns p50, p95.

    Measured on at most `num_timed` of the queries in `rows`, evenly spaced.
    """
    chosen = np.linspace(0, len(rows) - 1, min(num_timed, len(rows))).round()
    _time_stages(searcher, queries, rows[0], weights, scorer, clock)  # the first call is slow
    seconds = [
        _time_stages(searcher, queries, rows[int(place)], weights, scorer, clock)
        for place in track(chosen, "timing queries", len(chosen))
    ]
    table = pd.DataFrame(seconds, columns=list(STAGES)).mul(1000)
    table["total"] = table.sum(axis=1)
    return table.quantile([0.5, 0.95]).T.set_axis(["p50", "p95"], axis=1)


def _time_stages(
    searcher: Searcher,
    queries: FeatureSet,
    row: int,
    weights: Mapping[str, float],
    scorer: MatchScorer | None,
    clock: Callable[[], float],
) -> list[float]:
    settings = searcher.settings
    caption, regions = str(queries.rows["caption"].iloc[row]), queries.regions(row)
    times = [clock()]
    boxes = choose_boxes(regions, settings.boxes)
    views = boxes.views(regions)
    vectors = searcher.encoder.vectors([caption] * len(views), views)
    times.append(clock())
    nearest = searcher.nearest(vectors, block_weights(weights), settings.depth)
    times.append(clock())
    matcher = searcher.matcher(regions.points, boxes)
    nearest = searcher.checked(nearest, weights, matcher.count if matcher else None)
    rankings = searcher.named(nearest)
    times.append(clock())
    if scorer is not None:
        for evidence in searcher.evidence(vectors, boxes.scores, nearest, weights):
            scorer.scores(evidence)
            scorer.in_catalogue(evidence)
    times.append(clock())
    merge(rankings, settings.depth, settings.merge)
    times.append(clock())
    return np.diff(times).tolist()
