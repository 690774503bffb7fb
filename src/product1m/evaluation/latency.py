"""How long one query takes, stage by stage, answered alone as a served one is."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from product1m.data.regions import FeatureSet
from product1m.retrieval.instances import find_instances
from product1m.retrieval.merging import merge
from product1m.retrieval.search import Searcher
from product1m.telemetry.progress import track

STAGES = {
    "embedding": "instances and title through CAPTURE and the other blocks",
    "search": "every instance ranks the gallery",
    "merge": "the instances' rankings become one",
}
"""From region features on; finding regions in the photo is feature extraction's."""


def measure_latency(
    searcher: Searcher,
    queries: FeatureSet,
    rows: Sequence[int],
    weights: Mapping[str, float],
    num_timed: int,
) -> pd.DataFrame:
    """Milliseconds a query, one row a stage and their total: columns p50, p95.

    Measured on at most `num_timed` of the queries in `rows`, evenly spaced.
    """
    chosen = np.linspace(0, len(rows) - 1, min(num_timed, len(rows))).round()
    _time_stages(searcher, queries, rows[0], weights)  # the first call of anything is slow
    seconds = [
        _time_stages(searcher, queries, rows[int(place)], weights)
        for place in track(chosen, "timing queries", len(chosen))
    ]
    table = pd.DataFrame(seconds, columns=list(STAGES)).mul(1000)
    table["total"] = table.sum(axis=1)
    return table.quantile([0.5, 0.95]).T.set_axis(["p50", "p95"], axis=1)


def _time_stages(
    searcher: Searcher, queries: FeatureSet, row: int, weights: Mapping[str, float]
) -> list[float]:
    settings = searcher.settings
    caption, regions = str(queries.rows["caption"].iloc[row]), queries.regions(row)
    times = [time.perf_counter()]
    views = find_instances(regions, settings.boxes).views(regions)
    vectors = searcher.encoder.vectors([caption] * len(views), views)
    times.append(time.perf_counter())
    rankings = searcher.rank_instances(vectors, weights, settings.depth)
    times.append(time.perf_counter())
    merge(rankings, settings.depth, settings.merge)
    times.append(time.perf_counter())
    return np.diff(times).tolist()
