"""Latency with a clock that the test moves."""

import itertools

import pytest

from product1m.evaluation.latency import measure_latency
from tests.support.worlds.evaluation_files import open_searcher, query_features
from tests.support.worlds.tiny_world import TinyArtifacts


def test_every_stage_has_its_own_time_and_the_first_query_warms_up(
    tiny_artifacts: TinyArtifacts,
) -> None:
    searcher, queries = open_searcher(tiny_artifacts), query_features(tiny_artifacts)
    # Per query six readings: 40 ms of embedding, 5 ms of search, 3 ms of shared points, 2 ms of
    # match scores, 1 ms of merging. The first query, which is not counted, takes 1000 times as
    # long; the last one embeds for 60 ms.
    rest = [0.005, 0.003, 0.002, 0.001]
    steps = [[0.0, 40.0, 5.0, 3.0, 2.0, 1.0], *[[0.0, 0.04, *rest]] * 4, [0.0, 0.06, *rest]]
    readings = itertools.accumulate(itertools.chain.from_iterable(steps))
    table = measure_latency(
        searcher, queries, range(20), {"image": 1.0}, num_timed=5, clock=lambda: next(readings)
    )
    assert table["p50"].to_dict() == pytest.approx(
        {
            "embedding": 40.0,
            "search": 5.0,
            "shared_points": 3.0,
            "match_scores": 2.0,
            "merge": 1.0,
            "total": 51.0,
        }
    )
    assert table["p95"]["embedding"] == pytest.approx(40.0 + 0.8 * 20.0)  # between the last two
    assert next(readings, None) is None
