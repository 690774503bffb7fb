"""Fusion on blocks made by hand: `good` knows the right items, `help` a little, `noise` nothing."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from product1m.config import EvaluationConfig
from product1m.data.texts import Texts
from product1m.data.vectors import normalize
from product1m.errors import RetrievalError
from product1m.evaluation import fusion
from product1m.evaluation.fusion import (
    Candidates,
    DevQueries,
    FusionSettings,
    candidates,
    choose_weights,
    try_weights,
    weight_grid,
    weight_surface,
)
from product1m.evaluation.metrics import GroundTruth
from product1m.retrieval.embedding import BlockLayout
from product1m.retrieval.index import GalleryIndex, add_vectors, make_index
from product1m.retrieval.merging import MergeRule
from product1m.retrieval.query_boxes import QueryBoxes
from product1m.retrieval.query_vectors import QueryVectors

LAYOUT = BlockLayout({"good": 8, "noise": 8, "help": 8})
NUM_CLASSES, NUM_ITEMS, NUM_QUERIES = 12, 60, 30
SETTINGS = FusionSettings.from_config(EvaluationConfig(num_bootstrap=200))


class World:
    """A gallery with five items a class and queries of two instances."""

    def __init__(self, seed: int = 0, factory: str = "Flat") -> None:
        generator = np.random.default_rng(seed)
        directions = np.random.default_rng(99).standard_normal((3, NUM_CLASSES, 8))
        classes = dict(zip(LAYOUT.widths, directions, strict=True))
        spreads = {"good": 0.9, "noise": 40.0, "help": 1.5}

        def vectors(labels: np.ndarray) -> np.ndarray:
            blocks = [
                normalize(
                    classes[block][labels] + spread * generator.standard_normal((len(labels), 8))
                )
                for block, spread in spreads.items()
            ]
            return np.concatenate(blocks, axis=1)

        items = np.arange(NUM_ITEMS) % NUM_CLASSES
        asked = generator.integers(NUM_CLASSES, size=(NUM_QUERIES, 2))
        self.vectors = vectors(items)
        index = make_index(factory, LAYOUT.dim, NUM_ITEMS, 8, 0)
        index.train(self.vectors)
        add_vectors(index, self.vectors)
        ids = [f"g{n}" for n in range(NUM_ITEMS)]
        self.gallery = GalleryIndex(index, pd.DataFrame({"id": ids}))
        queries = [f"q{n}" for n in range(NUM_QUERIES)]
        found = [two_boxes() for _ in queries]
        whole = vectors(asked[:, 0])
        self.queries = QueryVectors(queries, found, vectors(asked.ravel()), whole)
        self.truth = GroundTruth(
            {q: tuple(f"c{c}" for c in row) for q, row in zip(queries, asked, strict=True)},
            {f"g{n}": f"c{label}" for n, label in enumerate(items)},
        )
        self.dev = DevQueries.answerable(self.queries, Texts(ids), self.truth, "best_score")
        self.pool = candidates(
            self.queries, self.gallery, LAYOUT, tuple(LAYOUT.widths), whole_photo=False
        )


def answerable(world: World, truth: GroundTruth) -> list[str]:
    return DevQueries.answerable(world.queries, Texts([]), truth, "best_score").ids


def two_boxes() -> QueryBoxes:
    return QueryBoxes(np.array([1, 2]), np.zeros((2, 4), np.float32), np.ones(2, np.float32))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_the_grid_has_every_distinct_ratio_once_and_simple_points_first() -> None:
    grid = weight_grid((0.0, 0.5, 1.0), (True, True)).tolist()
    assert grid == [[0, 1], [1, 0], [1, 1], [0.5, 1], [1, 0.5]]
    ratios = [
        tuple(np.array(point) / max(point))
        for point in itertools.product((0.0, 0.25, 0.5, 0.75, 1.0), repeat=4)
        if max(point)
    ]
    full = weight_grid((0.0, 0.25, 0.5, 0.75, 1.0), (True,) * 4)
    assert len(full) == len({tuple(np.round(ratio, 5)) for ratio in ratios})
    assert [int((p > 0).sum()) for p in full] == sorted(int((p > 0).sum()) for p in full)


def test_a_block_that_may_not_be_used_has_no_weight_anywhere() -> None:
    grid = weight_grid((0.0, 1.0), (True, False, True))
    assert grid[:, 1].tolist() == [0.0] * 3


def test_candidates_hold_each_blocks_cosines_over_its_spread(world: World) -> None:
    pool = world.pool
    for view, row, block in itertools.product((0, 17, 59), range(0, 60, 7), LAYOUT.widths):
        columns, number = LAYOUT.columns(block), list(LAYOUT.widths).index(block)
        item = world.vectors[pool.positions[view, row], columns]
        cosine = float(world.queries.box_vectors[view, columns] @ item)
        expected = pytest.approx(cosine / pool.spread[block], abs=1e-4)
        assert pool.scores[view, row, number] == expected


def test_a_large_gallery_gives_each_views_nearest_of_every_block_as_candidates(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion, "POOL", 4)
    pool = candidates(world.queries, world.gallery, LAYOUT, tuple(LAYOUT.widths), whole_photo=False)
    for view in (0, 31):
        query = world.queries.box_vectors[view]
        expected: set[int] = set()
        for columns in (*map(LAYOUT.columns, LAYOUT.widths), slice(None)):
            scores = world.vectors[:, columns] @ query[columns]
            expected |= set(np.argsort(-scores)[:4].tolist())
        row = pool.positions[view]
        assert sorted(expected) == row[row >= 0].tolist()


@pytest.mark.parametrize("rule", ["round_robin", "best_score"])
@pytest.mark.parametrize("shares", [(1, 0, 0), (0.5, 0.25, 1), (0, 0, 1)])
def test_ap_of_a_grid_point_equals_ranking_and_merging_by_hand(
    world: World, shares: tuple[float, float, float], rule: MergeRule
) -> None:
    spread = world.pool.spread
    dev = dataclasses.replace(world.dev, merge=rule)
    found = dev.ap(world.pool, np.array(shares, np.float32))
    for query in range(NUM_QUERIES):
        rankings, best = [], np.full(NUM_ITEMS, -np.inf)
        for view in (2 * query, 2 * query + 1):
            scores = np.zeros(NUM_ITEMS)
            for share, block in zip(shares, LAYOUT.widths, strict=True):
                columns = LAYOUT.columns(block)
                cosines = world.vectors[:, columns] @ world.queries.box_vectors[view, columns]
                scores += share / spread[block] * cosines
            rankings.append(np.argsort(-scores).tolist())
            best = np.maximum(best, scores)
        merged: list[int] = np.argsort(-best).tolist() if rule == "best_score" else []
        while len(merged) < 10:
            for ranking in rankings:
                merged.append(next(item for item in ranking if item not in merged))
        labels = world.truth.query_labels[f"q{query}"]
        hits = [f"c{item % NUM_CLASSES}" in labels for item in merged[:10]]
        precisions = [sum(hits[: n + 1]) / (n + 1) for n in range(10) if hits[n]]
        relevant = 5 * len(set(labels))
        assert found[query] == pytest.approx(sum(precisions) / min(relevant, 10))


def test_the_block_that_knows_gets_the_weight_and_noise_next_to_none(world: World) -> None:
    chosen = choose_weights(world.pool, world.dev, list(LAYOUT.widths), SETTINGS)
    assert chosen.shares["good"] == 1.0
    assert chosen.shares["noise"] < 0.1
    assert 0.1 < chosen.shares["help"] < 1.0
    best = chosen.trials["dev_map"].max()
    assert best - 0.03 < chosen.dev_map_at_10 <= best + 0.01


def test_the_chosen_weights_do_better_on_queries_they_have_not_seen(world: World) -> None:
    chosen = choose_weights(world.pool, world.dev, list(LAYOUT.widths), SETTINGS)
    shares = np.array(list(chosen.shares.values()), np.float32)
    unseen = World(seed=1)
    fused = unseen.dev.ap(unseen.pool, shares).mean()
    for block in np.eye(3, dtype=np.float32):
        assert fused > unseen.dev.ap(unseen.pool, block).mean()


def test_query_weights_are_shares_over_spread(world: World) -> None:
    chosen = choose_weights(world.pool, world.dev, list(LAYOUT.widths), SETTINGS)
    raw = {block: chosen.shares[block] / world.pool.spread[block] for block in LAYOUT.widths}
    for block, value in raw.items():
        assert chosen.weights[block] == pytest.approx(value / max(raw.values()), abs=2e-4)


def test_the_choice_follows_its_seed_and_keeps_to_the_blocks_allowed(world: World) -> None:
    once, again = (choose_weights(world.pool, world.dev, ["noise", "help"], SETTINGS) for _ in "ab")
    assert once.as_dict() == again.as_dict()
    assert once.weights["good"] == 0
    assert once.trials["good"].eq(0).all()


def test_of_points_that_rank_alike_the_simplest_is_chosen() -> None:
    world = World()
    pool = world.pool
    scores = pool.scores.copy()
    scores[:, :, 2] = 0.0  # a block that says nothing
    silent = Candidates(pool.blocks, pool.starts, pool.positions, scores, pool.spread)
    chosen = choose_weights(silent, world.dev, ["good", "help"], SETTINGS)
    assert chosen.shares == {"good": 1.0, "noise": 0.0, "help": 0.0}


def test_trials_over_all_blocks_hold_those_of_any_part_of_them(world: World) -> None:
    trials = try_weights(world.pool, world.dev, SETTINGS.tried_weights)
    part = trials.without([False, True, False])
    assert part.grid.tolist() == weight_grid(SETTINGS.tried_weights, (True, False, True)).tolist()
    for row in (0, 5, len(part.grid) - 1):
        assert part.ap[row] == pytest.approx(world.dev.ap(world.pool, part.grid[row]))


def test_the_surface_holds_the_dev_score_of_every_pair_of_weights(world: World) -> None:
    chosen = choose_weights(world.pool, world.dev, list(LAYOUT.widths), SETTINGS)
    surface = weight_surface(world.pool, world.dev, chosen)
    assert surface is not None
    assert (surface.x_block, surface.y_block) == ("good", "help")
    for row, column in ((0, 8), (8, 0), (3, 5)):
        point = [surface.values[column], chosen.shares["noise"], surface.values[row]]
        expected = world.dev.ap(world.pool, np.array(point, np.float32)).mean()
        assert surface.dev_map[row, column] == pytest.approx(expected)
    assert surface.dev_map[0, 8] > surface.dev_map[8, 0]


def test_one_block_alone_has_no_surface(world: World) -> None:
    assert (
        weight_surface(
            world.pool, world.dev, choose_weights(world.pool, world.dev, ["good"], SETTINGS)
        )
        is None
    )


def test_weights_can_be_chosen_from_a_compressed_index() -> None:
    exact, coarse = World(), World(factory="IVF4,SQ8")
    chosen = [
        choose_weights(world.pool, world.dev, list(LAYOUT.widths), SETTINGS)
        for world in (exact, coarse)
    ]
    assert chosen[0].shares == pytest.approx(chosen[1].shares, abs=0.15)


def test_dev_queries_without_any_label_in_the_gallery_are_left_out(world: World) -> None:
    labels = dict(world.truth.query_labels) | {"q3": ("lost",), "q4": ("lost", "c1")}
    truth = GroundTruth(labels, world.truth.gallery_label)
    assert set(world.queries.query_ids) - set(answerable(world, truth)) == {"q3"}
    with pytest.raises(RetrievalError, match="none of the 30 dev queries has a label"):
        answerable(world, GroundTruth(dict.fromkeys(labels, ("lost",)), {"g0": "c0"}))


def test_whole_photo_candidates_are_one_view_a_query(world: World) -> None:
    pool = candidates(world.queries, world.gallery, LAYOUT, tuple(LAYOUT.widths), whole_photo=True)
    assert pool.positions.shape[0] == NUM_QUERIES
    assert pool.starts.tolist() == list(range(NUM_QUERIES + 1))
