"""Items of a gallery with the same photo and the same caption."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

COPY_TOLERANCE = 0.01
"""Scores of items with equal photo and caption differ at most by this, due to rounding (ours)."""
_CHUNK = 8192


def find_copies(
    rows: pd.DataFrame,
    vectors: Callable[[Int64[np.ndarray, " n"]], Float32[np.ndarray, "n D"]],
) -> dict[int, tuple[int, ...]]:
    """For each item with copies (equal photo and caption), the rows of all of them, by id.

    `vectors` gives the stored vectors of some rows. Items whose vectors differ are no copies.
    """
    if not {"sha256", "caption"} <= set(rows):
        return {}
    maybe = _maybe_repeated(rows)
    listings = rows[["id", "sha256", "caption"]].iloc[maybe].set_axis(maybe, axis=0)
    repeated = listings[listings.duplicated(["sha256", "caption"], keep=False)]
    copies: dict[int, tuple[int, ...]] = {}
    for _, listing in repeated.sort_values("id").groupby(["sha256", "caption"], sort=False):
        positions = listing.index.to_numpy(np.int64)
        stored = vectors(positions)
        if np.abs(stored - stored[0]).max() <= COPY_TOLERANCE:
            copies |= dict.fromkeys(positions.tolist(), tuple(positions.tolist()))
    return copies


def _maybe_repeated(rows: pd.DataFrame) -> Int64[np.ndarray, " n"]:
    """Rows whose photo and caption have the hash of another row's, ascending."""
    hashes = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows.iloc[start : start + _CHUNK]
        listings = zip(chunk["sha256"].tolist(), chunk["caption"].tolist(), strict=True)
        hashes[start : start + _CHUNK] = np.fromiter(map(hash, listings), np.int64, len(chunk))
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return np.flatnonzero(np.isin(hashes, repeated))
