"""Writes the sample split: Product1M's four lists, `images/`, `backgrounds/` and `boxes.jsonl`."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from product1m.artifacts.atomic import require_unused, whole_folder
from product1m.data.boxes import BOXES_LIST, write_boxes
from product1m.data.lists import FIELD_SEPARATOR, LABEL_SEPARATOR, PHOTO_FOLDER, PRODUCT1M_LIST
from product1m.data.photos import encode_jpeg
from product1m.data.sample_mark import mark_as_sample
from product1m.sample.drawn.layers import PixelBox
from product1m.sample.drawn.plan import (
    LISTS,
    ListName,
    SampleRow,
    SampleSizes,
    label_statistics,
    plan_rows,
)
from product1m.sample.drawn.rendering import render_with_boxes
from product1m.sample.drawn.rooms import render_room
from product1m.telemetry.processes import end_with_parent
from product1m.telemetry.progress import track

URL_B = "http://photos.example/product1m/datasets/images/{id}.jpg"
"""The second address; like the first, its domain can never exist."""
BACKGROUND_FOLDER = "backgrounds"


def make_sample(
    folder: Path,
    seed: int = 0,
    sizes: SampleSizes | None = None,
    num_workers: int = 2,
) -> dict[str, float]:
    """Render the sample split into an empty or new folder and return its label statistics.

    The same seed and sizes give the same bytes on one machine. Raises StorageError if the
    folder is not empty.
    """
    sizes = sizes or SampleSizes()
    rows = plan_rows(sizes, seed)
    require_unused(folder)
    with whole_folder(folder) as partial:
        for name in (PHOTO_FOLDER, BACKGROUND_FOLDER):
            (partial / name).mkdir()
        for number in range(sizes.backgrounds):
            encoded = encode_jpeg(render_room(seed, number), 88)
            (partial / BACKGROUND_FOLDER / f"room-{number:03d}.jpg").write_bytes(encoded)
        every_row = [row for name in LISTS for row in rows[name]]
        boxes = _write_photos(partial / PHOTO_FOLDER, every_row, num_workers)
        queries = [row.id for name in ("dev", "test") for row in rows[name]]
        write_boxes(
            partial / BOXES_LIST,
            {query: [box for box, _ in boxes[query]] for query in queries},
            {query: [label for _, label in boxes[query]] for query in queries},
        )
        for name in LISTS:
            write_list(partial / PRODUCT1M_LIST.format(name), rows[name])
        mark_as_sample(partial)
    return _statistics(rows)


def write_list(path: Path, rows: Iterable[SampleRow]) -> None:
    """A list in Product1M's format: UTF-8, CRLF, four fields for train and five elsewhere."""
    lines = []
    for row in rows:
        fields = [row.id, row.title, row.url, URL_B.format(id=row.id)]
        if row.list_name != "train":
            fields.append(LABEL_SEPARATOR.join(product.label for product in row.products))
        lines.append(FIELD_SEPARATOR.join(fields) + "\r\n")
    path.write_bytes("".join(lines).encode())


def _write_photos(
    folder: Path, rows: Sequence[SampleRow], num_workers: int
) -> dict[str, list[tuple[PixelBox, str]]]:
    """Render every row; returns the boxes of its products with their labels by item id."""
    # Brand by brand, because renderings of a product are kept and shared within a process.
    ordered = sorted(rows, key=lambda row: (row.products[0].brand.name, row.id))
    batches = [
        (folder, list(batch))
        for _, batch in groupby(ordered, key=lambda row: row.products[0].brand.name)
    ]
    boxes: dict[str, list[tuple[PixelBox, str]]] = {}
    if num_workers == 1:
        for batch in track(batches, "rendering photos by brand"):
            boxes |= _write_batch(batch)
        return boxes
    spawn = get_context("spawn")
    with ProcessPoolExecutor(
        num_workers, spawn, initializer=_begin, initargs=(os.getpid(),)
    ) as pool:
        done = pool.map(_write_batch, batches)
        for batch_boxes in track(done, "rendering photos by brand", total=len(batches)):
            boxes |= batch_boxes
    return boxes


def _begin(parent: int) -> None:
    end_with_parent(parent)
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def _write_batch(
    batch: tuple[Path, Sequence[SampleRow]],
) -> dict[str, list[tuple[PixelBox, str]]]:
    folder, rows = batch
    boxes = {}
    for row in rows:
        quality = int(np.random.default_rng([*row.photo_seed, 1]).integers(62, 95))
        photo, boxes[row.id] = render_with_boxes(row)
        (folder / f"{row.id}.jpg").write_bytes(encode_jpeg(photo, quality))
    return boxes


def _statistics(rows: dict[ListName, list[SampleRow]]) -> dict[str, float]:
    counts = {f"{name}_items": float(len(rows[name])) for name in LISTS}
    queries = label_statistics([*rows["dev"], *rows["test"]])
    return counts | {f"query_{name}": value for name, value in queries.items()}
