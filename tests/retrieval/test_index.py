import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
import pytest

from product1m.errors import RetrievalError
from product1m.retrieval import index as gallery_index
from product1m.retrieval.index import (
    ExactSearch,
    GalleryIndex,
    add_vectors,
    make_index,
    measure,
    probes_of,
    reach_recall,
    read_index,
    recall_at_depth,
    set_probes,
    write_index,
)

DIM = 32
FACTORIES = ["Flat", "HNSW16", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ8x4", "HNSW16,SQ8", "PCA16,SQ8"]
FACTORIES += ["IVF8,PQ16x4fs,Refine(SQ8)"]


def clustered(count: int, seed: int = 0) -> np.ndarray:
    """Unit vectors around twenty directions."""
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).standard_normal((20, DIM))
    vectors = centers[generator.integers(20, size=count)] + 0.7 * generator.standard_normal(
        (count, DIM)
    )
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def build(factory: str, vectors: np.ndarray, probes: int = 8, seed: int = 0) -> object:
    index = make_index(factory, DIM, len(vectors), probes, seed)
    index.train(vectors)
    for start in range(0, len(vectors), 256):
        add_vectors(index, vectors[start : start + 256])
    return index


def as_gallery(index: object, count: int) -> GalleryIndex:
    return GalleryIndex(index, pd.DataFrame({"id": [f"g{n}" for n in range(count)]}))


@pytest.mark.parametrize("factory", FACTORIES)
def test_every_kind_of_index_finds_the_largest_inner_products(factory: str, tmp_path: Path) -> None:
    vectors, queries = clustered(1000), clustered(20, seed=1)
    write_index(build(factory, vectors, probes=64), tmp_path / "index.faiss")
    gallery = as_gallery(read_index(tmp_path / "index.faiss"), 1000)
    scores, found = gallery.search(queries, 10)
    truth = [
        sorted(range(1000), key=lambda i: -float(vectors[i] @ query))[:10] for query in queries
    ]
    lowest = {"IVF8,PQ8x4": 0.25, "PCA16,SQ8": 0.5}.get(factory, 0.97)
    assert recall_at_depth(found, np.array(truth)) >= lowest
    assert (np.diff(scores, axis=1) <= 1e-6).all()
    own = gallery.vectors(np.array([3, 7]))
    assert (np.sum(own * vectors[[3, 7]], axis=1) > 0.6).all()  # what it keeps is near the truth


def test_weighting_the_query_alone_ranks_by_weighted_cosines() -> None:
    vectors, (query,) = clustered(300), clustered(1, seed=1)
    weights = np.repeat(np.array([0.2, 1.0], np.float32), DIM // 2)
    _, found = as_gallery(build("Flat", vectors), 300).search((query * weights)[None], 5)
    half = DIM // 2
    scores = [0.2 * (v[:half] @ query[:half]) + v[half:] @ query[half:] for v in vectors]
    assert found[0].tolist() == sorted(range(300), key=lambda i: -scores[i])[:5]


def test_a_search_is_as_deep_as_the_gallery_at_most_and_the_same_in_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gallery = as_gallery(build("Flat", clustered(30)), 30)
    queries = clustered(25, seed=1)
    whole = gallery.search(queries, 100)[1]
    assert whole.shape == (25, 30)
    monkeypatch.setattr(gallery_index, "QUERY_CHUNK", 7)
    np.testing.assert_array_equal(gallery.search(queries, 100)[1], whole)


def test_cells_that_were_not_visited_leave_places_empty() -> None:
    _, found = as_gallery(build("IVF8,Flat", clustered(400), probes=1), 400).search(
        clustered(3, seed=1), 400
    )
    assert (found == -1).any()


def test_probes_are_kept_with_the_index_and_never_exceed_its_cells(tmp_path: Path) -> None:
    for factory, probes, kept in (("IVF8,SQ8", 3, 3), ("IVF8,SQ8", 64, 8)):
        write_index(build(factory, clustered(400), probes), tmp_path / "index.faiss")
        assert faiss.extract_index_ivf(read_index(tmp_path / "index.faiss")).nprobe == kept
    write_index(build("HNSW16", clustered(400), 77), tmp_path / "index.faiss")
    graph: Any = faiss.downcast_index(read_index(tmp_path / "index.faiss"))
    assert graph.hnsw.efSearch == 77


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_same_vectors_and_seed_give_the_same_index(factory: str, tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_index(build(factory, clustered(600)), tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_another_seed_gives_other_cells(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_index(build("IVF8,SQ8", clustered(600), seed=seed), tmp_path / str(seed))
    assert (tmp_path / "0").read_bytes() != (tmp_path / "1").read_bytes()


@pytest.mark.parametrize(
    ("factory", "num_points", "message"),
    [
        ("IVF1024,SQ8", 400, "needs at least 1024 training points, the gallery gives 400; .*=Flat"),
        ("IVF1024,SQ8", 1000, r"gallery gives 1000; set indexing\.factory=IVF16,SQ8"),
        ("IVF8,PQ8", 200, "needs at least 256 training points, the gallery gives 200; .*=Flat"),
        ("IVF4096,SQ8", 4000, "=IVF64,SQ8"),
    ],
)
def test_too_few_points_are_refused_with_a_factory_that_fits(
    factory: str, num_points: int, message: str
) -> None:
    with pytest.raises(RetrievalError, match=message):
        make_index(factory, DIM, num_points, 8, 0)


@pytest.mark.parametrize("factory", ["IVF,SQ8", "Annoy", "PQ7"])
def test_a_factory_string_that_faiss_cannot_read_is_named(factory: str) -> None:
    with pytest.raises(RetrievalError, match=f"indexing.factory='{factory}': FAISS cannot build"):
        make_index(factory, DIM, 10_000, 8, 0)


def test_barely_enough_points_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        make_index("IVF64,SQ8", DIM, 1000, 8, 0)
    assert "1000 training points for 64 cells; 2496 would make good ones" in caplog.text


def test_exact_search_over_chunks_equals_sorting_everything() -> None:
    vectors, queries = clustered(500), clustered(9, seed=1)
    exact = ExactSearch(queries, 20)
    for start in (0, 7, 300):
        exact.add(vectors[start : {0: 7, 7: 300, 300: 500}[start]])
    expected = [sorted(range(500), key=lambda i: -float(vectors[i] @ q))[:20] for q in queries]
    assert exact.positions().tolist() == expected


def test_exact_search_of_a_small_gallery_finds_all_of_it() -> None:
    exact = ExactSearch(clustered(3, seed=1), 100)
    exact.add(clustered(12))
    assert np.sort(exact.positions(), axis=1).tolist() == [list(range(12))] * 3


def test_recall_is_the_share_of_the_true_neighbors_found() -> None:
    found = np.array([[1, 2, 3, 4], [9, 8, -1, -1]])
    truth = np.array([[4, 3, 2, 1], [8, 7, 6, 5]])
    assert recall_at_depth(found, truth) == pytest.approx((1.0 + 0.25) / 2)


def test_a_coarse_index_is_measured_against_the_truth() -> None:
    vectors = clustered(2000)
    exact = ExactSearch(vectors[:200], 100)
    exact.add(vectors)
    coarse, full = (
        measure(build("IVF32,Flat", vectors, probes=probes), exact) for probes in (1, 32)
    )
    assert coarse.recall < 0.9
    assert full.recall == pytest.approx(1.0)
    assert full.queries_per_s > 0
    assert full.exact_queries_per_s > 0


def test_an_index_that_does_not_fit_its_list_of_items_is_refused() -> None:
    with pytest.raises(RetrievalError, match=r"holds 30 vectors but gallery\.parquet lists 29"):
        as_gallery(build("Flat", clustered(30)), 29)


@pytest.mark.parametrize("factory", ["Flat", "IVF8,SQ8"])
def test_copies_of_a_listing_come_by_item_id_at_any_depth_and_in_any_batch(factory: str) -> None:
    distinct = clustered(600)
    vectors = np.concatenate([distinct, distinct[:1], distinct[:1], distinct[1:2], distinct[:1]])
    captions = [*map(str, range(600)), "0", "0", "1", "0"]
    ids = [f"g{n:03}" for n in range(600)] + ["a", "z", "b", "c"]
    rows = pd.DataFrame({"id": ids, "sha256": captions, "caption": captions})
    gallery = GalleryIndex(build(factory, vectors, probes=8), rows)

    def first(query: int, depth: int, batch: int) -> list[str]:
        queries = np.repeat(distinct[query : query + 1], batch, axis=0)
        scores, found = gallery.search(queries, depth)
        assert (np.diff(scores[-1]) <= 0).all()
        return [ids[place] for place in found[-1]]

    for depth in (1, 2, 3, 4, 9):
        for batch in (1, 2, 700):
            expected = ["a", "c", "g000", "z"][:depth]
            assert first(0, depth, batch)[:4] == expected
            assert first(1, depth, batch)[:2] == ["b", "g001"][:depth]
    assert len(set(first(0, 9, 700))) == 9


@pytest.mark.parametrize("factory", ["IVF32,SQ8", "HNSW8"])
def test_as_much_of_an_index_is_visited_as_the_recall_takes(factory: str) -> None:
    vectors, queries = clustered(2000), clustered(100, seed=1)
    exact = ExactSearch(queries, 50)
    exact.add(vectors)
    truth = exact.positions()
    index = build(factory, vectors, probes=1)
    asked = {}
    for least in (0.5, 0.95):
        recall = reach_recall(index, queries, truth, least)
        assert recall >= least
        assert measure(index, exact).recall == pytest.approx(recall)
        asked[least] = probes_of(index)
    assert asked[0.5] < asked[0.95]
    assert reach_recall(index, queries, truth, 0.5) >= 0.95  # what is set is not lowered


def test_no_more_is_visited_than_allowed_or_than_there_is() -> None:
    vectors = clustered(2000)
    exact = ExactSearch(vectors[:50], 50)
    exact.add(vectors)
    index = build("IVF32,SQ4", vectors, probes=1)
    assert reach_recall(index, vectors[:50], exact.positions(), 1.0, most_probes=3) < 1
    assert probes_of(index) == 3
    # Its codes are too coarse for it, and more cells do not help.
    recall = reach_recall(index, vectors[:50], exact.positions(), 1.0)
    assert 3 < probes_of(index) < 32
    assert measure(index, exact).recall == pytest.approx(recall)
    set_probes(index, 32)
    assert recall == pytest.approx(measure(index, exact).recall, abs=0.001)
    assert probes_of(build("Flat", vectors)) == 0
