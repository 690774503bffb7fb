import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from product1m.data.texts import Texts
from product1m.evaluation.bounds import oracle_rankings, random_rankings
from product1m.retrieval.merging import (
    best_score,
    merge,
    reciprocal_rank,
    round_robin,
    score_sorted,
)

RANKINGS = st.lists(st.lists(st.integers(0, 12), unique=True, max_size=13), max_size=5)


def test_rankings_take_turns_and_an_item_already_listed_costs_no_turn() -> None:
    # second turn of the first: b is listed, so it gives c; of the second: a is listed, so d
    assert round_robin([["a", "b", "c"], ["b", "a", "d"]], 10) == ["a", "b", "c", "d"]


def test_a_ranking_that_is_used_up_leaves_its_turns_to_the_others() -> None:
    assert round_robin([["a"], ["b", "c", "d"]], 3) == ["a", "b", "c"]
    assert round_robin([[], ["b"]], 3) == ["b"]


def test_merging_stops_in_the_middle_of_a_round_at_its_depth() -> None:
    assert round_robin([["a", "b"], ["c", "d"], ["e", "f"]], 4) == ["a", "c", "e", "b"]


def test_one_ranking_stays_as_it_is_and_none_gives_nothing() -> None:
    assert round_robin([["c", "a", "b"]], 2) == ["c", "a"]
    assert round_robin([], 5) == []


@given(RANKINGS, st.integers(1, 15))
def test_merging_equals_picking_by_hand(rankings: list[list[int]], depth: int) -> None:
    left = [list(ranking) for ranking in rankings]
    expected: list[int] = []
    while any(left) and len(expected) < depth:
        for ranking in left:
            if ranking and len(expected) < depth:
                picked = ranking[0]
                expected.append(picked)
                for other in left:
                    if picked in other:
                        other.remove(picked)
    assert round_robin(rankings, depth) == expected


@given(RANKINGS, st.integers(1, 15))
def test_a_merged_list_needs_no_more_of_a_ranking_than_its_own_depth(
    rankings: list[list[int]], depth: int
) -> None:
    cut = [ranking[:depth] for ranking in rankings]
    assert round_robin(cut, depth) == round_robin(rankings, depth)


SCORED = [[("a", 0.9), ("b", 0.5), ("c", 0.1)], [("b", 0.7), ("d", 0.6), ("a", 0.2)]]


def test_by_best_score_an_item_counts_where_it_suits_best() -> None:
    assert best_score(SCORED, 10) == ["a", "b", "d", "c"]
    assert best_score(SCORED, 2) == ["a", "b"]


def test_a_box_that_matches_nothing_gets_no_place() -> None:
    clutter = [("x", 0.05), ("y", 0.04)]
    assert best_score([*SCORED, clutter], 4) == best_score(SCORED, 4)
    assert merge([*SCORED, clutter], 4, "round_robin") == ["a", "b", "x", "c"]


def test_of_equal_scores_the_one_seen_first_comes_first() -> None:
    assert best_score([[("b", 0.5), ("a", 0.5)], [("c", 0.5)]], 3) == ["b", "a", "c"]


def test_with_scaled_scores_the_first_answers_of_all_boxes_are_equal() -> None:
    # a 1, b 0.5, c 0 and b 1, d 0.8, a 0: of the two at 1 the one seen first
    assert score_sorted(SCORED, 10) == ["a", "b", "d", "c"]
    clutter = [("x", 0.05), ("y", 0.01)]
    assert score_sorted([*SCORED, clutter], 3) == ["a", "b", "x"]
    assert score_sorted([[("only", 0.2)], []], 3) == ["only"]


def test_reciprocal_ranks_add_up_over_the_boxes() -> None:
    sums = {"a": 1 / 61 + 1 / 63, "b": 1 / 62 + 1 / 61, "c": 1 / 63, "d": 1 / 62}
    expected = sorted(sums, key=lambda item: -sums[item])
    assert reciprocal_rank(SCORED, 10) == expected == ["b", "a", "d", "c"]
    assert reciprocal_rank(SCORED, 1) == ["b"]


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.floats(-1, 1)), max_size=9), max_size=4))
def test_entries_sorted_by_their_raw_scores_are_ranked_by_best_score(
    rankings: list[list[tuple[int, float]]],
) -> None:
    entries = [entry for ranking in rankings for entry in ranking]
    ordered = sorted(entries, key=lambda entry: -entry[1])
    by_score = list(dict.fromkeys(item for item, _ in ordered))
    found = best_score(rankings, 100)
    best = {item: max(score for other, score in entries if other == item) for item in by_score}
    assert [best[item] for item in found] == [best[item] for item in by_score]
    assert sorted(found) == sorted(by_score)


def test_the_rule_decides_how_rankings_merge() -> None:
    assert merge(SCORED, 3, "best_score") == ["a", "b", "d"]
    assert merge(SCORED[::-1], 3, "round_robin") == ["b", "a", "d"]
    assert merge(SCORED, 2, "reciprocal_rank") == ["b", "a"]
    assert merge(SCORED[::-1], 3, "score_sorted") == ["b", "a", "d"]


@given(st.integers(0, 2**31), st.integers(1, 15))
def test_best_score_equals_the_maximum_over_rankings(seed: int, depth: int) -> None:
    scores = np.random.default_rng(seed).permutation(39).reshape(3, 13) / 39
    rankings = [
        sorted(((item, float(row[item])) for item in range(13)), key=lambda pair: -pair[1])
        for row in scores
    ]
    expected = np.argsort(-scores.max(axis=0)).tolist()[:depth]
    assert best_score(rankings, depth) == expected
    assert best_score([ranking[:depth] for ranking in rankings], depth) == expected


def test_a_random_ranking_lists_gallery_items_once_and_follows_its_seed() -> None:
    gallery = Texts(f"g{n}" for n in range(30))
    ranked = random_rankings(["q1", "q2"], gallery, 10, seed=3)
    assert ranked == random_rankings(["q1", "q2"], gallery, 10, seed=3)
    assert ranked != random_rankings(["q1", "q2"], gallery, 10, seed=4)
    assert ranked["q1"] != ranked["q2"]
    assert all(len(set(ids)) == 10 and set(ids) <= set(gallery) for ids in ranked.values())
    assert sorted(random_rankings(["q"], gallery, 100, seed=0)["q"]) == sorted(gallery)


def test_the_oracle_gives_every_label_mention_its_turn() -> None:
    gallery = {"a1": "A", "b1": "B", "a2": "A", "a3": "A", "b2": "B", "c1": "C"}
    ranked = oracle_rankings({"q": ("A", "A", "B"), "lost": ("Z", "C")}, gallery, 4)
    assert ranked == {"q": ["a1", "a2", "b1", "a3"], "lost": ["c1"]}
