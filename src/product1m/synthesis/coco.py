"""COCO annotations of scene shards, with run-length masks as COCO's tools read them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Bool

from product1m.data.items import ITEMS
from product1m.synthesis.paste import Pasted

_CATEGORY_ID = 1
_CATEGORIES = [{"id": _CATEGORY_ID, "name": "product", "supercategory": "product"}]


def annotation(product: Pasted, source_id: str) -> dict[str, Any]:
    """A product's annotation, without the ids that depend on its position in the file."""
    left, top, right, bottom = product.box_xyxy
    return {
        "category_id": _CATEGORY_ID,
        "bbox": [left, top, right - left, bottom - top],
        "area": int(product.mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(product.mask.shape), "counts": encode_runs(product.mask)},
        "source_id": source_id,
        "visible": round(product.visible, 6),
    }


def encode_runs(mask: Bool[np.ndarray, "H W"]) -> str:
    """A mask in COCO's compressed run-length encoding.

    Runs go down the columns and start with zeros. From the fourth on, a run is stored as its
    difference from the run two before it, in groups of five bits, lowest first, each as a printable
    character.
    """
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels)) + 1
    starts = np.concatenate([[0] if not pixels[0] else [0, 0], changes, [pixels.size]])
    runs = np.diff(starts)
    runs[3:] -= np.diff(starts)[1:-2]
    return "".join(map(_encode, runs.tolist()))


def write_coco(folder: Path, annotations: Path) -> list[Path]:
    """Write `SHARD.coco.json` for each image shard of a folder; returns the paths.

    `annotations` holds one JSON list per line, in the order of the item table.
    """
    items = pq.read_table(folder / ITEMS, columns=["id", "shard", "width", "height"]).to_pylist()
    shard: list[tuple[int, Mapping[str, Any], list[dict[str, Any]]]] = []
    first_id = 1
    written: list[Path] = []
    with annotations.open(encoding="utf-8") as lines:
        for number, (item, line) in enumerate(zip(items, lines, strict=True)):
            if shard and shard[-1][1]["shard"] != item["shard"]:
                path, first_id = _write_shard(folder, shard, first_id)
                written.append(path)
                shard = []
            shard.append((number, item, json.loads(line)))
    if shard:
        written.append(_write_shard(folder, shard, first_id)[0])
    return written


def _write_shard(
    folder: Path,
    scenes: Iterable[tuple[int, Mapping[str, Any], list[dict[str, Any]]]],
    first_id: int,
) -> tuple[Path, int]:
    images, annotations = [], []
    name = ""
    for number, item, products in scenes:
        name = item["shard"]
        images.append(
            {
                "id": number,
                "file_name": f"{item['id']}.jpg",
                "width": item["width"],
                "height": item["height"],
            }
        )
        annotations += [{"image_id": number} | product for product in products]
    numbered = [{"id": first_id + k} | value for k, value in enumerate(annotations)]
    content = {"images": images, "annotations": numbered, "categories": _CATEGORIES}
    path = folder / Path(name).with_suffix(".coco.json")
    path.write_text(json.dumps(content, separators=(",", ":")), "utf-8")
    return path, first_id + len(numbered)


def _encode(value: int) -> str:
    characters = []
    while True:
        bits = value & 0x1F
        value >>= 5
        done = value == (-1 if bits & 0x10 else 0)
        characters.append(chr(48 + (bits if done else bits | 0x20)))
        if done:
            return "".join(characters)
