"""The points of a catalogue's photos: those of new items are looked for, the others are kept.

They are in shards, whose rows follow each other as the items do. Few items change a day, so most
shards hold the same rows as before: such a file becomes part of the new catalogue as it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pandas as pd

from product1m.artifacts.folder import Artifact, ArtifactWriter
from product1m.catalogue.intake import read_rows
from product1m.data.in_order import in_order
from product1m.data.items import ItemTable
from product1m.data.points import Points, PointTable, PointWriter, open_points, point_files
from product1m.detection.points import PointFinder

SHARD_ROWS = 128
"""Most items of a new shard, some 5 MB: what a changed item costs (ours)."""
LEAST_ROWS = SHARD_ROWS // 2
"""Fewest items of a shard that is kept: years of changes leave no small ones (ours)."""
NEW = -1
"""Place of an item whose points are not known."""


def write_catalogue_points(
    rows: pd.DataFrame,
    read: Artifact,
    before: Artifact | None,
    writer: ArtifactWriter,
    finder: PointFinder,
    num_workers: int,
) -> PointTable:
    """Write the points of a catalogue's items, row for row.

    Args:
        rows: of all its items.
        read: the items whose photos were read now, an artifact of ingestion.
        before: the catalogue that has the others; known by their photos' digests.
        writer: of the catalogue.
        finder: finds points in photos.
        num_workers: threads; the result does not depend on it.
    """
    known, places = _known(rows, before)
    plan = list(plan_shards(places, _shards(before) if before else {}))
    find = _finder_of_new(rows, read, finder)

    def points(row: int) -> Points:
        return known[places[row]] if known and places[row] != NEW else find(row)

    written = (row for piece in plan if isinstance(piece, range) for row in piece)
    num_workers = max(1, num_workers)
    names = [f"points-{number:05d}.arrow" for number in range(len(plan))]
    with ThreadPoolExecutor(num_workers, "points") as pool:
        found = in_order(pool, points, written, num_workers)
        for name, piece in zip(names, plan, strict=True):
            if isinstance(piece, range):
                with PointWriter(writer.folder, name) as shard:
                    for _ in piece:
                        shard.add(next(found))
            elif before is not None:
                writer.keep(before, piece, name)
    return PointTable(*(writer.folder / name for name in names))


def _finder_of_new(
    rows: pd.DataFrame, read: Artifact, finder: PointFinder
) -> Callable[[int], Points]:
    """What finds the points of a row's photo, which was read now."""
    photos, sha256 = ItemTable(read), rows["sha256"].tolist()
    places = {photo: place for place, photo in enumerate(photos.rows["sha256"])}
    return lambda row: finder.find(photos.photo(places[sha256[row]]))


def _known(rows: pd.DataFrame, before: Artifact | None) -> tuple[PointTable | None, list[int]]:
    """The points of a catalogue, and where in it the points of each row are."""
    table = open_points(before) if before else None
    if before is None or table is None:
        return None, [NEW] * len(rows)
    old = read_rows(before)
    of_photo = {photo: place for place, photo in enumerate(old["sha256"])}
    of_item = {item: place for place, item in enumerate(_listed(old))}
    return table, [of_item.get(item, of_photo.get(item[1], NEW)) for item in _listed(rows)]


def _listed(rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Id and photo of each row."""
    return zip(rows["id"], rows["sha256"], strict=True)


def _shards(catalogue: Artifact) -> dict[int, tuple[str, int]]:
    """The files of a catalogue's points by their first row: name and number of rows."""
    shards, first = {}, 0
    for name in point_files(catalogue):
        length = len(PointTable(catalogue.file(name)))
        shards[first] = name, length
        first += length
    return shards


def plan_shards(
    places: Sequence[int], shards: Mapping[int, tuple[str, int]]
) -> Iterator[str | range]:
    """In order, the shards that are kept, by name, and the rows of each one that is written."""
    start = row = 0
    while row < len(places):
        name, length = shards.get(places[row], ("", 0))
        stop = row + length
        is_same = list(places[row:stop]) == list(range(places[row], places[row] + length))
        is_large = length >= LEAST_ROWS or stop == len(places)
        if not name or not is_same or not is_large or 0 < row - start < LEAST_ROWS:
            row += 1
            continue
        yield from _pieces(start, row)
        yield name
        start = row = stop
    yield from _pieces(start, len(places))


def _pieces(start: int, stop: int) -> Iterator[range]:
    """Rows in pieces of about the same size, none larger than a shard."""
    number = -(-(stop - start) // SHARD_ROWS)
    ends = np.linspace(start, stop, number + 1).round().astype(int).tolist()
    yield from (range(*piece) for piece in pairwise(ends) if number)
