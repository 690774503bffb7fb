"""Change a filled index in place: remove items, add items, detect what its codes cannot represent.

An IVF is changed by the ids in its lists, a flat index by position. Other kinds are refused,
because FAISS changes them wrongly or not at all (measured with faiss-cpu 1.15.1).
"""

from collections.abc import Collection
from typing import Any

import faiss
import numpy as np
import pandas as pd
from jaxtyping import Float32

from product1m.errors import RetrievalError
from product1m.retrieval.index import VECTOR_ID, parts_of

SELF_SIMILARITY = 0.99
"""A vector whose stored form is less similar to it is outside the range of the codes (ours)."""
_FLAT = (faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexScalarQuantizer)
_IVF = (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer)
_ADVICE = "for a catalogue use IVF1024,SQ8, IVF1024,Flat, SQ8 or Flat"


def require_refreshable(index: Any, factory: str) -> None:
    """RetrievalError with the reason if an index of this factory string cannot change in place."""
    parts = parts_of(index)
    outer = parts[0]
    if isinstance(outer, _IVF):
        return
    if type(outer) in _FLAT:
        return
    raise RetrievalError(f"catalogue.factory={factory!r}: {_reason(parts)}; {_ADVICE}")


def _reason(parts: list[Any]) -> str:
    """Why an index of these parts cannot change in place."""
    names = [type(part).__name__ for part in parts]
    fast = [name for name in names if "FastScan" in name]
    if fast:
        return (
            f"{fast[0]} mixes the codes of removed and added items, so items would no longer find "
            "themselves"
        )
    if any(name.startswith("IndexIDMap") for name in names):
        return (
            "an ID map around another index removes without an error and then answers with wrong "
            "ids; an IVF has ids of its own"
        )
    if any("HNSW" in name for name in names):
        return "a graph cannot remove an item"
    if any("Refine" in name for name in names):
        return "a refined index cannot remove an item"
    if any("PreTransform" in name for name in names):
        return "a projection in front of the index is trained once and does not follow the items"
    return f"{names[0]} has not been tested to change in place"


def with_ids(index: Any, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of an index with the ids of their vectors: positions if it was never changed."""
    if VECTOR_ID in rows:
        return rows.reset_index(drop=True)
    return rows.assign(**{VECTOR_ID: np.arange(index.ntotal, dtype=np.int64)})


def remove_items(index: Any, rows: pd.DataFrame, gone: Collection[str]) -> pd.DataFrame:
    """Remove items by id; returns the rows that are left, in their order.

    Raises RetrievalError if the index does not hold exactly one vector for each of them.
    """
    leaving = rows["id"].isin(list(gone)).to_numpy()
    if not leaving.any():
        return rows
    chosen = rows[VECTOR_ID].to_numpy(np.int64)[leaving]
    num_removed = index.remove_ids(faiss.IDSelectorBatch(chosen))
    if num_removed != len(chosen):
        raise RetrievalError(
            f"removing {len(chosen)} items took {num_removed} vectors from the index; it does not "
            "belong to its table, build it again"
        )
    left = rows[~leaving].reset_index(drop=True)
    return left if _keeps_ids(index) else _numbered(left)


def add_items(
    index: Any, rows: pd.DataFrame, new: pd.DataFrame, vectors: Float32[np.ndarray, "n D"]
) -> pd.DataFrame:
    """Add items with their vectors, row for row; returns all rows, the new ones last.

    Raises RetrievalError for an item that the index holds already.
    """
    if not len(new):
        return rows
    if known := sorted(set(new["id"]) & set(rows["id"])):
        raise RetrievalError(f"item {known[0]} is in the index; remove it before it is added again")
    first = int(rows[VECTOR_ID].max()) + 1 if len(rows) else 0
    ids = np.arange(first, first + len(new), dtype=np.int64)
    contiguous = np.ascontiguousarray(vectors, np.float32)
    if _keeps_ids(index):
        index.add_with_ids(contiguous, ids)
    else:
        index.add(contiguous)
    added = new.assign(**{VECTOR_ID: ids})[list(rows.columns)]
    return pd.concat([rows, added], ignore_index=True)


def clipped_share(index: Any, vectors: Float32[np.ndarray, "n D"]) -> float:
    """Share of vectors that are outside the range of an index's codes.

    One byte per dimension covers the range of the training vectors. FAISS silently clips larger
    values, and such an item no longer finds itself.
    """
    if not len(vectors):
        return 0.0
    stored = index.sa_decode(index.sa_encode(np.ascontiguousarray(vectors, np.float32)))
    own = np.einsum("nd,nd->n", vectors, vectors)
    kept = np.einsum("nd,nd->n", vectors, stored)
    return float(np.mean(np.abs(kept - own) > (1 - SELF_SIMILARITY) * np.maximum(own, 1e-12)))


def _keeps_ids(index: Any) -> bool:
    """Whether an item keeps the id of its vector; otherwise the vectors behind it move up."""
    return isinstance(faiss.downcast_index(index), faiss.IndexIVF)


def _numbered(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(**{VECTOR_ID: np.arange(len(rows), dtype=np.int64)})
