"""The index of a catalogue whose vectors changed their length."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.catalogue.indexing import CatalogueIndexSettings, refresh_index
from product1m.config import CatalogueConfig
from product1m.retrieval.index import GALLERY

ITEMS = pd.DataFrame(
    {
        "id": [f"item-{number}" for number in range(30)],
        "caption": "",
        "sha256": [f"{number:064x}" for number in range(30)],
        "labels": [["a"]] * 30,
    }
)
SETTINGS = CatalogueIndexSettings("Flat", 1, 30, 30, 0.9, 0.01, 0)


def unit_vectors(length: int) -> Callable[[pd.DataFrame], np.ndarray]:
    drawn = np.random.default_rng(length).normal(size=(30, length)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return lambda rows: drawn[[int(item.removeprefix("item-")) for item in rows["id"]]]


def test_an_index_of_vectors_of_another_length_is_built_anew(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "before", "catalogue", CatalogueConfig()) as writer:
        first = refresh_index(None, ITEMS, unit_vectors(12), SETTINGS, writer.folder)
        pq.write_table(
            pa.Table.from_pandas(first.rows, preserve_index=False), writer.folder / GALLERY
        )
    before = open_artifact(tmp_path / "before", "catalogue")
    (tmp_path / "after").mkdir()
    wider = unit_vectors(16)

    after = refresh_index(before, ITEMS, wider, SETTINGS, tmp_path / "after")

    assert after.rebuilt
    _, nearest = after.gallery.search(wider(ITEMS), 1)
    assert nearest[:, 0].tolist() == list(range(30))
