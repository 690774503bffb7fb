"""The points of a catalogue's photos: those of new items are looked for, the others are copied."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from product1m.artifacts.folder import Artifact
from product1m.catalogue.intake import read_rows
from product1m.data.in_order import in_order
from product1m.data.items import ItemTable
from product1m.data.points import POINTS, Points, PointTable, PointWriter
from product1m.detection.points import PointFinder


def write_catalogue_points(
    rows: pd.DataFrame,
    read: Artifact,
    before: Artifact | None,
    folder: Path,
    finder: PointFinder,
    num_workers: int,
) -> PointTable:
    """Write the points of a catalogue's items, row for row.

    Args:
        rows: of all its items.
        read: the items whose photos were read now, an artifact of ingestion.
        before: the catalogue that has the others; known by their photos' digests.
        folder: of the catalogue that is written.
        finder: finds points in photos.
        num_workers: threads; the result does not depend on it.
    """
    with PointWriter(folder) as writer:
        for points in _points(rows, read, before, finder, num_workers):
            writer.add(points)
    return PointTable(folder / POINTS)


def _points(
    rows: pd.DataFrame,
    read: Artifact,
    before: Artifact | None,
    finder: PointFinder,
    num_workers: int,
) -> Iterator[Points]:
    known, known_places = _known(before)
    photos = ItemTable(read)
    places = {photo: place for place, photo in enumerate(photos.rows["sha256"])}

    def points(photo: str) -> Points:
        if known is not None and photo in known_places:
            return known[known_places[photo]]
        return finder.find(photos.photo(places[photo]))

    num_workers = max(1, num_workers)
    with ThreadPoolExecutor(num_workers, "points") as pool:
        yield from in_order(pool, points, rows["sha256"], num_workers)


def _known(before: Artifact | None) -> tuple[PointTable | None, dict[str, int]]:
    if before is None:
        return None, {}
    photos = read_rows(before)["sha256"]
    return PointTable(before.file(POINTS)), {photo: row for row, photo in enumerate(photos)}
