"""The index of a catalogue whose vectors changed their length."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.catalogue.indexing import PROBES_WHEN_BUILT, CatalogueIndexSettings, refresh_index
from product1m.config import CatalogueConfig
from product1m.retrieval.index import GALLERY, INDEX, probes_of, read_index

ITEMS = pd.DataFrame(
    {
        "id": [f"item-{number}" for number in range(30)],
        "caption": "",
        "sha256": [f"{number:064x}" for number in range(30)],
        "labels": [["a"]] * 30,
    }
)
FLAT = CatalogueIndexSettings("Flat", 1, 30, 30, 0.9, 0.01, 0)


def unit_vectors(length: int) -> Callable[[pd.DataFrame], np.ndarray]:
    drawn = np.random.default_rng(length).normal(size=(30, length)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return lambda rows: drawn[[int(item.removeprefix("item-")) for item in rows["id"]]]


def test_an_index_of_vectors_of_another_length_is_built_anew(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "before", "catalogue", CatalogueConfig()) as writer:
        first = refresh_index(None, ITEMS, unit_vectors(12), FLAT, writer.folder)
        pq.write_table(
            pa.Table.from_pandas(first.rows, preserve_index=False), writer.folder / GALLERY
        )
    before = open_artifact(tmp_path / "before", "catalogue")
    (tmp_path / "after").mkdir()
    wider = unit_vectors(16)

    after = refresh_index(before, ITEMS, wider, FLAT, tmp_path / "after")

    assert after.rebuilt
    _, nearest = after.gallery.search(wider(ITEMS), 1)
    assert nearest[:, 0].tolist() == list(range(30))


def test_a_changed_index_visits_more_until_rebuilding_it_is_better(tmp_path: Path) -> None:
    """Its cells are those of four groups of items; new items lie between them."""
    generator = np.random.default_rng(0)
    drawn = generator.normal(size=(1200, 12)).astype(np.float32)
    drawn[:600] = 0.3 * drawn[:600] + 3 * generator.normal(size=(4, 12))[np.arange(600) % 4]
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    names = [str(number) for number in range(1200)]
    many = pd.DataFrame({"id": names, "caption": "", "sha256": names, "labels": [["a"]] * 1200})
    settings = CatalogueIndexSettings("IVF64,SQ8", 1, 1200, 200, 0.9, 1.0, 0)
    filled, before = None, None
    visited, rebuilt = [], []
    for turn in range(5):
        items = many[150 * turn : 150 * turn + 600]
        with write_artifact(tmp_path / str(turn), "catalogue", CatalogueConfig()) as writer:
            filled = refresh_index(
                before, items, lambda rows: drawn[rows["id"].astype(int)], settings, writer.folder
            )
            pq.write_table(
                pa.Table.from_pandas(filled.rows, preserve_index=False), writer.folder / GALLERY
            )
            writer.metrics[PROBES_WHEN_BUILT] = filled.probes_when_built
        before = open_artifact(tmp_path / str(turn), "catalogue")
        visited.append(probes_of(read_index(before.file(INDEX))) / filled.probes_when_built)
        rebuilt.append(filled.rebuilt)
        assert filled.recall >= 0.9
    assert not rebuilt[1]
    assert any(rebuilt[2:])
    assert 1 < max(visited) <= 2
