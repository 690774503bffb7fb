"""Small gallery photos that travel with a registered model, to show a person the answers.

Some 2 KB each at 96 pixels: 80 MiB for the paper's gallery, nothing beside its index.
"""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.config import RegistrationConfig
from product1m.data.items import ItemTable, ItemWriter
from product1m.data.photos import Photo, encode_jpeg, resize_photo
from product1m.telemetry.progress import track

STEP, PART = "registration", "thumbnails"
QUALITY = 75
"""JPEG quality (ours)."""


def write_thumbnails(gallery: Artifact, folder: Path, config: RegistrationConfig) -> None:
    """Shrink every photo of a gallery into an artifact at `folder`."""
    items = ItemTable(gallery)
    with (
        write_artifact(folder, STEP, config, {"gallery": gallery}, PART) as writer,
        ItemWriter(writer.folder, prefix="thumbnails") as thumbnails,
    ):
        for place in track(range(len(items)), "gallery thumbnails"):
            row = items.rows.iloc[place]
            add_thumbnail(thumbnails, row, items.photo(place), config.thumbnail_side_px)


def add_thumbnail(thumbnails: ItemWriter, row: Any, photo: Photo, side_px: int) -> None:
    """Shrink an item's photo and append it; `row` has the columns id, caption and labels."""
    small = resize_photo(photo, min(1.0, side_px / max(photo.shape[:2])))
    thumbnails.add(
        str(row["id"]),
        encode_jpeg(small, QUALITY),
        (small.shape[1], small.shape[0]),
        caption=str(row["caption"]),
        labels=list(row["labels"]),
    )


class Thumbnails:
    """Small gallery photos by id; none if a version carries none."""

    def __init__(self, folder: Path) -> None:
        self._items: ItemTable | None = None
        self._places: dict[str, int] = {}
        if folder.is_dir():
            self._items = ItemTable(open_artifact(folder, STEP, PART))
            self._places = {item: place for place, item in enumerate(self._items.rows["id"])}

    def __len__(self) -> int:
        return len(self._places)

    def jpeg(self, item: str) -> bytes | None:
        """A photo, or None if the version does not carry it."""
        place = self._places.get(item)
        if place is None or self._items is None:
            return None
        return self._items.encoded(place)

    def size_px(self, item: str) -> tuple[int, int]:
        """Width and height of a photo; 1 and 1 if the version does not carry it."""
        place = self._places.get(item)
        if place is None or self._items is None:
            return 1, 1
        row = self._items.rows.iloc[place]
        return int(row["width"]), int(row["height"])

    def caption(self, item: str) -> str:
        """An item's title, empty if the version does not carry it."""
        place = self._places.get(item)
        if place is None or self._items is None:
            return ""
        return str(self._items.rows["caption"].iloc[place])


def paste_centered(sheet: Image.Image, jpeg: bytes, corner: tuple[int, int], side_px: int) -> None:
    """Put a photo into the middle of a square, made smaller if it does not fit."""
    image = Image.open(io.BytesIO(jpeg))
    image.thumbnail((side_px, side_px))
    left = corner[0] + (side_px - image.width) // 2
    sheet.paste(image, (left, corner[1] + (side_px - image.height) // 2))
