from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
import pytest

from product1m.errors import RetrievalError
from product1m.retrieval.index import GalleryIndex, make_index, read_index, write_index
from product1m.retrieval.refreshing import (
    add_items,
    clipped_share,
    remove_items,
    require_refreshable,
    with_ids,
)

DIM = 32


def unit(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def rows_of(names: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"id": names, "caption": names, "sha256": names})


def filled(factory: str, vectors: np.ndarray) -> tuple[Any, pd.DataFrame]:
    index = make_index(factory, DIM, len(vectors), probes=8, seed=0)
    index.train(vectors)
    index.add(vectors)
    return index, with_ids(index, rows_of([f"g{n}" for n in range(len(vectors))]))


@pytest.mark.parametrize("factory", ["IVF8,SQ8", "IVF8,Flat", "Flat", "SQ8"])
def test_after_many_changes_every_item_finds_itself_and_the_file_is_that_of_a_fresh_build(
    factory: str, tmp_path: Path
) -> None:
    vectors = unit(900, seed=1)
    vector_of = {f"g{n}": vector for n, vector in enumerate(vectors)}
    index, rows = filled(factory, vectors[:600])
    generator = np.random.default_rng(2)
    waiting = [f"g{n}" for n in range(600, 900)]
    for _ in range(10):
        gone = generator.choice(rows["id"], 30, replace=False).tolist()
        new, waiting = [*waiting[:25], *gone[:5]], waiting[25:]
        rows = remove_items(index, rows, gone)
        rows = add_items(index, rows, rows_of(new), np.stack([vector_of[name] for name in new]))
        write_index(index, tmp_path / "index.faiss")
        index = read_index(tmp_path / "index.faiss")
    assert len(rows) == 600
    gallery = GalleryIndex(read_index(tmp_path / "index.faiss"), rows)
    wanted = np.stack([vector_of[item] for item in rows["id"]])
    _, found = gallery.search(wanted, 1)
    assert [gallery.ids[place] for (place,) in found] == rows["id"].tolist()
    stored = np.sum(gallery.vectors(np.arange(600)) * wanted, axis=1)
    assert stored.mean() > 0.99
    assert stored.min() > 0.9
    fresh, _ = filled(factory, wanted)
    write_index(fresh, tmp_path / "fresh.faiss")
    sizes = [(tmp_path / name).stat().st_size for name in ("index.faiss", "fresh.faiss")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("IVF8,PQ8x4fs", "mixes the codes"),
        ("IVF8,RaBitQfs", "mixes the codes"),
        ("IDMap2,IVF8,SQ8", "wrong ids"),
        ("HNSW16", "a graph cannot remove"),
        ("IVF8,SQ8,RFlat", "a refined index cannot remove"),
        ("PCA16,IVF8,SQ8", "does not follow the items"),
        ("PQ8x4", "not been tested"),
    ],
)
def test_an_index_that_cannot_change_in_place_is_refused_with_the_reason(
    factory: str, reason: str
) -> None:
    index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    with pytest.raises(RetrievalError, match=reason) as raised:
        require_refreshable(index, factory)
    assert factory in str(raised.value)
    assert "IVF1024,SQ8" in str(raised.value)


@pytest.mark.parametrize(
    "factory", ["IVF8,SQ8", "IVF8_HNSW16,SQ8", "IVF8,SQfp16", "IVF8,Flat", "Flat", "SQ8"]
)
def test_an_index_that_can_change_in_place_is_accepted(factory: str) -> None:
    require_refreshable(faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT), factory)


def test_vectors_outside_the_range_of_the_codes_are_noticed() -> None:
    index, _ = filled("IVF8,SQ8", unit(600, seed=1))
    assert clipped_share(index, unit(600, seed=1)) == 0
    outside = np.zeros((10, DIM), np.float32)
    outside[:, 0] = 1  # a unit vector with all its length in one dimension
    assert clipped_share(index, np.concatenate([unit(30, seed=1), outside])) == 0.25
    flat, _ = filled("Flat", unit(600, seed=1))
    assert clipped_share(flat, outside) == 0


def test_a_table_that_does_not_belong_to_its_index_is_refused() -> None:
    index, rows = filled("IVF8,SQ8", unit(600, seed=1))
    left = remove_items(index, rows, ["g3"])
    with pytest.raises(RetrievalError, match="took 0 vectors"):
        remove_items(index, rows, ["g3"])
    with pytest.raises(RetrievalError, match="item g4 is in the index"):
        add_items(index, left, rows_of(["g4"]), unit(1, seed=3))
