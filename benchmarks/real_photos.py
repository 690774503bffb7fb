"""Create a data set from real photos: clothing on white, pasted on photos of rooms.

One photo of every product goes to the gallery, one to the queries, the others to train. A query
shows held-out photos of two to four products on a room that no other list uses; its title contains
the full names of about 15 % of the products. The boxes of the products are known, with their
labels.

    PRODUCT1M_SHARED_DATA=… python benchmarks/real_photos.py build/clothing
    python -m pipelines run --preset sample --dataset build/clothing --output build/clothing-run
"""

import argparse
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32

from product1m.data.geometry import share_inside
from product1m.data.photos import Photo, decode_photo, encode_jpeg, resize_photo
from product1m.telemetry.progress import track

CANVAS_SHORT_SIDE_PX = 440
"""Rooms are resized to this, so that a product keeps about the size of its photo."""
SCALE = (0.45, 0.75)
"""Longer side of a pasted product, relative to the canvas's shorter side."""
MAX_OVERLAP = 0.3
"""Largest share of a product's box that the box of another product covers."""
NUM_PLACES = 40
"""Places to try for a product before it is made smaller."""
VERBATIM_SHARE = 0.15
"""Share of the products of a title that are named in full."""
WHITE = 240
"""A pixel is near white if its darkest channel is at least this."""

Opacity = Float32[np.ndarray, "H W"]
Cutout = tuple[Photo, Opacity]


@dataclass(frozen=True)
class ProductPhoto:
    """One catalogue photo."""

    id: str
    label: str
    name: str
    caption: str
    path: Path

    @property
    def sentence(self) -> str:
        """The caption without the product's name."""
        return self.caption.removeprefix(self.name).strip(" .•-")


@dataclass(frozen=True)
class Scene:
    """Several products on a room."""

    photo: Photo
    sources: list[ProductPhoto]
    boxes_xyxy: list[list[int]]


def main() -> None:
    arguments = parse_arguments()
    shared = Path(arguments.source)
    rng = np.random.default_rng(arguments.seed)
    gallery, held_out, train = split_products(shared / "magento", rng)
    rooms = sorted((shared / "backgrounds").iterdir())
    rooms = [rooms[position] for position in rng.permutation(len(rooms))]
    query_rooms, train_rooms = rooms[: len(rooms) // 3], rooms[len(rooms) // 3 :]

    folder: Path = arguments.folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    (folder / "backgrounds").mkdir()
    for path in train_rooms:
        shutil.copyfile(path, folder / "backgrounds" / path.name)

    rows = [copy_photo(photo, folder) for photo in train]
    composed = compose_all(train, train_rooms, arguments.composed, rng)
    rows += write_scenes(composed, "composed", folder, rng)
    write_rows(folder / "train.jsonl", rows, leave_out={"labels", "boxes", "box_labels"})
    write_rows(folder / "gallery.jsonl", [copy_photo(photo, folder) for photo in gallery])

    scenes = compose_all(held_out, query_rooms, arguments.dev + arguments.test, rng)
    queries = write_scenes(scenes, "query", folder, rng)
    for number, row in enumerate(queries):
        row["split"] = "dev" if number < arguments.dev else "test"
    write_rows(folder / "queries.jsonl", queries)
    print(f"{folder}: {len(rows)} train, {len(gallery)} gallery, {len(queries)} queries")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="data set folder to write; replaced if it exists")
    source_folder(parser, "magento/ and backgrounds/")
    parser.add_argument(
        "--composed", type=int, default=250, help="train photos of several products"
    )
    parser.add_argument("--dev", type=int, default=75, help="dev queries")
    parser.add_argument("--test", type=int, default=200, help="test queries")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def source_folder(parser: argparse.ArgumentParser, content: str) -> None:
    """Add the option for the folder with real photos."""
    parser.add_argument(
        "--source",
        default=os.environ.get("PRODUCT1M_SHARED_DATA"),
        required="PRODUCT1M_SHARED_DATA" not in os.environ,
        help=f"folder with {content} (default: $PRODUCT1M_SHARED_DATA)",
    )


def split_products(
    folder: Path, rng: np.random.Generator
) -> tuple[list[ProductPhoto], list[ProductPhoto], list[ProductPhoto]]:
    """Gallery, held-out and train photos, without products that have fewer than three photos."""
    by_label: dict[str, list[ProductPhoto]] = {}
    for line in (folder / "products.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        photo = ProductPhoto(
            row["id"], row["labels"][0], row["name"], row["caption"], folder / row["image"]
        )
        by_label.setdefault(photo.label, []).append(photo)
    gallery, held_out, train = [], [], []
    for photos in by_label.values():
        if len(photos) >= 3:
            order = rng.permutation(len(photos))
            gallery.append(photos[order[0]])
            held_out.append(photos[order[1]])
            train += [photos[position] for position in sorted(order[2:])]
    return gallery, held_out, train


def compose_all(
    photos: list[ProductPhoto], rooms: list[Path], count: int, rng: np.random.Generator
) -> Iterator[Scene]:
    """Compose scenes of two to four different products; use every photo about equally often."""
    pool: list[ProductPhoto] = []
    for _ in track(range(count), "scenes"):
        wanted = int(rng.integers(2, 5))
        sources: list[ProductPhoto] = []
        while len(sources) < wanted:
            pool = pool or [photos[position] for position in rng.permutation(len(photos))]
            candidate = pool.pop()
            if candidate.label not in {source.label for source in sources}:
                sources.append(candidate)
        yield compose(sources, rooms[int(rng.integers(len(rooms)))], rng)


def write_scenes(
    scenes: Iterable[Scene], prefix: str, folder: Path, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Write the photos of the scenes; return their rows."""
    rows = []
    for number, scene in enumerate(scenes):
        name = f"{prefix}-{number:04d}"
        image = f"images/{name}.jpg"
        (folder / image).write_bytes(encode_jpeg(scene.photo, 90))
        rows.append(
            {
                "id": name,
                "caption": title(scene.sources, rng),
                "image": image,
                "labels": [source.label for source in scene.sources],
                "boxes": scene.boxes_xyxy,
                "box_labels": [source.label for source in scene.sources],
            }
        )
    return rows


def compose(sources: list[ProductPhoto], room: Path, rng: np.random.Generator) -> Scene:
    """Paste products on a room, later ones in front, none of them mostly hidden."""
    canvas = decode_photo(room.read_bytes(), room.name)
    canvas = resize_photo(canvas, CANVAS_SHORT_SIDE_PX / min(canvas.shape[:2])).copy()
    boxes: list[list[int]] = []
    for source in sources:
        cutout = cut_out(decode_photo(source.path.read_bytes(), source.id))
        longer_side_px = rng.uniform(*SCALE) * CANVAS_SHORT_SIDE_PX
        product, opacity, box = place(cutout, longer_side_px, boxes, canvas.shape[:2], rng)
        left, top, right, bottom = box
        product = np.clip(product * rng.uniform(0.75, 1.15), 0, 255)
        window = canvas[top:bottom, left:right]
        alpha = opacity[..., None]
        canvas[top:bottom, left:right] = np.round(alpha * product + (1 - alpha) * window)
        boxes.append(box)
    return Scene(canvas, sources, boxes)


def cut_out(photo: Photo) -> Cutout:
    """Crop the product of a photo on white; opacity is 0 where white connects to the border."""
    near_white = (photo.min(axis=2) >= WHITE).astype(np.uint8)
    framed = np.pad(near_white, 1, constant_values=1)
    _, parts = cv2.connectedComponents(framed, connectivity=4)
    mask = (parts[1:-1, 1:-1] != parts[0, 0]).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    opacity = cv2.GaussianBlur(
        cv2.erode(mask, np.ones((3, 3), np.uint8)).astype(np.float32), (3, 3), 0
    )
    return photo[crop], np.asarray(opacity[crop], dtype=np.float32)


def place(
    cutout: Cutout,
    longer_side_px: float,
    others: list[list[int]],
    canvas_size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[Photo, Opacity, list[int]]:
    """Place a product so that no box is covered much; make it smaller until it fits."""
    product, opacity = cutout
    while True:
        scale = min(longer_side_px / max(opacity.shape), 0.95 * canvas_size[1] / opacity.shape[1])
        scaled = resize_photo(product, scale)
        height, width = scaled.shape[:2]
        for _ in range(NUM_PLACES):
            left = int(rng.integers(0, canvas_size[1] - width + 1))
            top = int(rng.integers(0, canvas_size[0] - height + 1))
            box = [left, top, left + width, top + height]
            if not _hides(np.asarray(box, float), np.asarray(others, float).reshape(-1, 4)):
                soft = cv2.resize(opacity, (width, height), interpolation=cv2.INTER_AREA)
                return scaled, np.asarray(soft, dtype=np.float32), box
        longer_side_px *= 0.9


def _hides(box: Float[np.ndarray, "4"], others: Float[np.ndarray, "N 4"]) -> bool:
    """Whether the box covers too much of another box, or another box too much of it."""
    covered = [share_inside(others, box), *(share_inside(box[None], other) for other in others)]
    return bool(np.concatenate(covered).max(initial=0) > MAX_OVERLAP)


def title(sources: list[ProductPhoto], rng: np.random.Generator) -> str:
    """A seller's title: a few full product names, otherwise the kind, sometimes with a trait."""
    parts = []
    for source in sources:
        kind = source.name.split()[-1]
        words = source.sentence.replace(source.name, kind).split()
        start = int(rng.integers(0, max(len(words) - 4, 1)))
        trait = " ".join(words[start : start + 4]).strip(" ,.;:•")
        choice = rng.random()
        if choice < VERBATIM_SHARE:
            parts.append(source.name)
        else:
            parts.append(kind if choice < 0.55 or not trait else f"{kind} {trait}")
    return ", ".join(parts)


def copy_photo(photo: ProductPhoto, folder: Path) -> dict[str, Any]:
    image = f"images/{photo.id}{photo.path.suffix}"
    shutil.copyfile(photo.path, folder / image)
    return {"id": photo.id, "caption": photo.caption, "image": image, "labels": [photo.label]}


def write_rows(path: Path, rows: list[dict[str, Any]], leave_out: Collection[str] = ()) -> None:
    """Write one JSON object per line."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            kept = {key: value for key, value in row.items() if key not in leave_out}
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
