r"""Create a data set from real snack packs: one photo of each in the gallery, several in a query.

A query shows one to four packs on a room that no other list uses, with strong changes of
perspective, direction, size, light and sharpness; a third of the packs lies in any direction. Boxes
and labels are known. What is printed on a pack is the only thing that tells it from its neighbors.

    PRODUCT1M_SHARED_DATA=… python benchmarks/packs.py build/packs
    python -m pipelines run --preset sample --set feature_extraction.ocr=boxes \
        --dataset build/packs --output build/packs-run
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64
from real_photos import VERBATIM_SHARE, Cutout, place, source_folder, write_rows

from product1m.data.photos import Photo, decode_photo, encode_jpeg, resize_photo
from product1m.telemetry.progress import track

CANVAS_SHORT_SIDE_PX = (480, 800)
SCALE = (0.35, 0.65)
"""Longer side of a pack, relative to the canvas's shorter side."""
PERSPECTIVE = 0.18
"""How far a corner moves, relative to the pack's sides."""
ANY_DIRECTION_SHARE = 1 / 3
"""Share of the packs that lie in any direction; the others are turned by up to `TILT_DEGREES`."""
TILT_DEGREES = 15
MAX_BLUR_PX = 1.2
"""Largest standard deviation of a query's blur."""


@dataclass(frozen=True)
class Pack:
    """One pack with its mask."""

    id: str
    caption: str
    photo: Photo
    opacity: np.ndarray

    def words(self) -> list[str]:
        """Words of the caption that say something."""
        return [word for word in self.caption.split() if word.isalpha() and len(word) > 3]


def main() -> None:
    arguments = parse_arguments()
    shared, folder = Path(arguments.source), arguments.folder
    rng = np.random.default_rng(arguments.seed)
    packs = read_packs(shared / "snacks")
    rooms = sorted((shared / "backgrounds").iterdir())
    rooms = [rooms[position] for position in rng.permutation(len(rooms))]
    query_rooms, train_rooms = rooms[: len(rooms) // 3], rooms[len(rooms) // 3 :]

    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    (folder / "backgrounds").mkdir()
    for path in train_rooms:
        shutil.copyfile(path, folder / "backgrounds" / path.name)
    gallery = [write_pack(pack, pack.photo, pack.id, folder) for pack in packs]
    write_rows(folder / "gallery.jsonl", gallery)
    singles = [
        write_pack(pack, on_white(pack, rng), f"{pack.id}-{number}", folder)
        for number in range(arguments.singles)
        for pack in packs
    ]
    composed = list(write_scenes(packs, train_rooms, "composed", arguments.composed, folder, rng))
    left_out = {"labels", "boxes", "box_labels"}
    write_rows(folder / "train.jsonl", singles + composed, leave_out=left_out)
    num_queries = arguments.dev + arguments.test
    queries = list(write_scenes(packs, query_rooms, "query", num_queries, folder, rng))
    for number, row in enumerate(queries):
        row["split"] = "dev" if number < arguments.dev else "test"
    write_rows(folder / "queries.jsonl", queries)
    num_train = len(singles) + len(composed)
    print(f"{folder}: {num_train} train, {len(gallery)} gallery, {len(queries)} queries")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="data set folder to write; replaced if it exists")
    source_folder(parser, "snacks/ and backgrounds/")
    parser.add_argument("--singles", type=int, default=3, help="train photos of each pack")
    parser.add_argument("--composed", type=int, default=150, help="train photos of several packs")
    parser.add_argument("--dev", type=int, default=60, help="dev queries")
    parser.add_argument("--test", type=int, default=120, help="test queries")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def read_packs(folder: Path) -> list[Pack]:
    packs = []
    for line in (folder / "products.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        photo = decode_photo((folder / row["image"]).read_bytes(), row["id"])
        mask = cv2.imread(str(folder / row["mask"]), cv2.IMREAD_GRAYSCALE)
        soft = cv2.GaussianBlur(np.asarray(mask, np.float32) / 255, (3, 3), 0)
        packs.append(Pack(row["id"], row["caption"], photo, soft))
    return packs


def write_pack(pack: Pack, photo: Photo, name: str, folder: Path) -> dict[str, Any]:
    image = f"images/{name}.jpg"
    (folder / image).write_bytes(encode_jpeg(photo, 92))
    return {"id": name, "caption": pack.caption, "image": image, "labels": [pack.id]}


def on_white(pack: Pack, rng: np.random.Generator) -> Photo:
    """Another photo of a pack: seen from elsewhere, in other light, on white."""
    product, opacity = seen_from_elsewhere(pack, rng)
    alpha = np.pad(opacity, 20)[..., None]
    lit = np.pad(in_other_light(product, rng), ((20, 20), (20, 20), (0, 0)))
    return np.asarray(np.round(alpha * lit + (1 - alpha) * 255), np.uint8)


def write_scenes(
    packs: Sequence[Pack],
    rooms: Sequence[Path],
    prefix: str,
    count: int,
    folder: Path,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """Write photos of one to four different packs, every pack used about equally often."""
    pool: list[int] = []
    for number in track(range(count), f"{prefix} photos"):
        wanted, sources = int(rng.integers(1, 5)), list[Pack]()
        while len(sources) < wanted:
            pool = pool or rng.permutation(len(packs)).tolist()
            candidate = packs[pool.pop()]
            if candidate not in sources:
                sources.append(candidate)
        photo, boxes = compose(sources, rooms[int(rng.integers(len(rooms)))], rng)
        name = f"{prefix}-{number:04d}"
        (folder / f"images/{name}.jpg").write_bytes(encode_jpeg(photo, int(rng.integers(70, 95))))
        labels = [pack.id for pack in sources]
        yield {
            "id": name,
            "caption": title(sources, rng),
            "image": f"images/{name}.jpg",
            "labels": labels,
            "boxes": boxes,
            "box_labels": labels,
        }


def compose(
    sources: Sequence[Pack], room: Path, rng: np.random.Generator
) -> tuple[Photo, list[list[int]]]:
    """Paste packs on a room, later ones in front, then blur; the photo and the packs' boxes."""
    short_side_px = rng.uniform(*CANVAS_SHORT_SIDE_PX)
    canvas = decode_photo(room.read_bytes(), room.name)
    canvas = resize_photo(canvas, short_side_px / min(canvas.shape[:2])).copy()
    boxes: list[list[int]] = []
    for source in sources:
        product, opacity, box = place(
            seen_from_elsewhere(source, rng),
            rng.uniform(*SCALE) * short_side_px,
            boxes,
            (canvas.shape[0], canvas.shape[1]),
            rng,
        )
        left, top, right, bottom = box
        window, alpha = canvas[top:bottom, left:right], opacity[..., None]
        pasted = alpha * in_other_light(product, rng) + (1 - alpha) * window
        canvas[top:bottom, left:right] = np.round(pasted)
        boxes.append(box)
    blurred = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.01, MAX_BLUR_PX))
    return np.asarray(blurred), boxes


def seen_from_elsewhere(pack: Pack, rng: np.random.Generator) -> Cutout:
    """A pack turned and in perspective, cropped to what is seen of it."""
    height, width = pack.opacity.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    moved = corners + rng.uniform(-PERSPECTIVE, PERSPECTIVE, (4, 2)) * [width, height]
    tilt = rng.uniform(-TILT_DEGREES, TILT_DEGREES)
    angle = rng.uniform(0, 360) if rng.random() < ANY_DIRECTION_SHARE else tilt
    turned = moved @ rotation(angle).T
    turned -= turned.min(axis=0)
    size = np.ceil(turned.max(axis=0)).astype(int).tolist()
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), turned.astype(np.float32))
    product = cv2.warpPerspective(pack.photo, matrix, size)
    opacity = np.asarray(cv2.warpPerspective(pack.opacity, matrix, size), np.float32)
    rows, columns = np.flatnonzero((opacity > 0.5).any(1)), np.flatnonzero((opacity > 0.5).any(0))
    crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(product[crop]), np.ascontiguousarray(opacity[crop])


def rotation(degrees: float) -> Float64[np.ndarray, "2 2"]:
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return np.array([[cosine, -sine], [sine, cosine]])


def in_other_light(product: Photo, rng: np.random.Generator) -> np.ndarray:
    """Darker or brighter, tinted, and lit from one side."""
    height, width = product.shape[:2]
    side = np.linspace(-0.25, 0.25, width)[None] * rng.uniform(-1, 1)
    above = np.linspace(-0.25, 0.25, height)[:, None] * rng.uniform(-1, 1)
    light = rng.uniform(0.5, 1.25) * (1 + side + above)[..., None] * rng.uniform(0.88, 1.12, 3)
    return np.clip(product * light, 0, 255)


def title(sources: Sequence[Pack], rng: np.random.Generator) -> str:
    """A seller's title: a few full captions, otherwise one word of the caption."""
    parts = [
        pack.caption if rng.random() < VERBATIM_SHARE else str(rng.choice(pack.words()))
        for pack in sources
    ]
    return ", ".join(parts)


if __name__ == "__main__":
    main()
