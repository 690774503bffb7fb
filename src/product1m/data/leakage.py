"""Queries that also occur elsewhere: the same photo or the same caption."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from product1m.data.duplicates import Keys, shared

LEAKAGE = "leakage.parquet"
SCHEMA = pa.schema(
    [
        ("list", pa.string()),
        ("id", pa.string()),
        ("against", pa.string()),
        ("same_photo", pa.bool_()),
        ("same_caption", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Fingerprints:
    """Keys by which items are recognized, row by row."""

    photos: Keys
    captions: Keys
    ids: pa.ChunkedArray

    def __getitem__(self, chosen: Bool[np.ndarray, " N"]) -> "Fingerprints":
        return Fingerprints(
            self.photos[chosen], self.captions[chosen], self.ids.filter(pa.array(chosen))
        )


def report_leakage(
    train: Fingerprints,
    gallery: Fingerprints,
    queries: Fingerprints,
    is_dev: Bool[np.ndarray, " N"],
    folder: Path,
) -> dict[str, float]:
    """Count the items that share a photo or caption with a query, and list them in `LEAKAGE`.

    Columns: `list` and `id` of the item; `against`, `queries` or, for a test query, `dev`.
    """
    comparisons = (
        ("train", "queries", train, queries),
        ("gallery", "queries", gallery, queries),
        ("test", "dev", queries[~is_dev], queries[is_dev]),
    )
    metrics: dict[str, float] = {}
    tables = []
    for name, against, items, others in comparisons:
        same_photo = shared(items.photos, others.photos)
        same_caption = shared(items.captions, others.captions)
        metrics[f"{name}_photos_in_{against}"] = float(same_photo.sum())
        metrics[f"{name}_captions_in_{against}"] = float(same_caption.sum())
        either = same_photo | same_caption
        columns = [
            pa.array([name] * int(either.sum()), pa.string()),
            items.ids.filter(pa.array(either)).combine_chunks(),
            pa.array([against] * int(either.sum()), pa.string()),
            pa.array(same_photo[either]),
            pa.array(same_caption[either]),
        ]
        tables.append(pa.Table.from_arrays(columns, schema=SCHEMA))
    pq.write_table(pa.concat_tables(tables), folder / LEAKAGE)
    return metrics
