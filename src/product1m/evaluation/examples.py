"""A few evaluated queries with photo and ranking, to check a registered model against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from product1m.artifacts.folder import Artifact
from product1m.data.items import ItemTable
from product1m.data.regions import FeatureSet

EXAMPLES = "examples.parquet"
NUM_EXAMPLES = 5
"""Number of test queries, evenly spaced over the list (ours)."""
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("photo", pa.binary()),
        ("title", pa.string()),
        ("ranking", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class Example:
    """A test query and its ranking in the evaluation."""

    id: str
    photo: bytes
    title: str
    ranking: list[str]
    """Gallery ids of the shipped ranking, merged over the boxes."""


def write_examples(
    folder: Path, features: FeatureSet, queries: ItemTable, shipped: Mapping[str, list[str]]
) -> None:
    """Write some queries of `shipped` with their photos.

    Row i of `features` and of `queries` is the same query.
    """
    positions = [row for row, query in enumerate(features.rows["id"]) if query in shipped]
    rows = [vars(example) for example in choose_examples(queries, positions, shipped)]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / EXAMPLES)


def choose_examples(
    queries: ItemTable, positions: Sequence[int], shipped: Mapping[str, list[str]]
) -> list[Example]:
    """Queries with their photos, evenly spaced over `positions`; `shipped` ranks each of them."""
    chosen = np.linspace(0, len(positions) - 1, min(NUM_EXAMPLES, len(positions))).round()
    examples = []
    for place in chosen:
        position = positions[int(place)]
        row = queries.rows.iloc[position]
        photo = queries.encoded(position)
        examples.append(Example(row["id"], photo, row["caption"], shipped[row["id"]]))
    return examples


def read_examples(evaluation: Artifact) -> list[Example]:
    """The examples of an evaluation artifact."""
    return [Example(**row) for row in pq.read_table(evaluation.file(EXAMPLES)).to_pylist()]


def agreement(rankings: list[list[str]], examples: list[Example], depth: int = 10) -> float:
    """Mean share of the first `depth` answers that rankings have in common with the examples."""
    shares = [
        len(set(ranking[:depth]) & set(example.ranking[:depth])) / len(example.ranking[:depth])
        for ranking, example in zip(rankings, examples, strict=True)
    ]
    return float(np.mean(shares))
