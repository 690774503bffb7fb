"""Boxes and their answers, in the form that all pages and pictures show."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from product1m.data.items import ItemTable
from product1m.data.photos import Photo, encode_jpeg, resize_photo

ANSWER_SIDE_PX = 112
"""Longer side of an answer's photo in the report (ours)."""


@dataclass(frozen=True)
class AnswerCard:
    """A gallery item that answers a box or a query."""

    id: str
    label: str
    photo: bytes | None
    """JPEG; None if there is no photo to show."""
    score: float | None = None
    """Match score, 0 to 1; None if only the order is known."""
    right: bool | None = None
    """Whether its label is the product of its box. If it answers the whole query, or the products
    of boxes are unknown: whether it is a label of the query. None if the query has no labels."""
    title: str = ""
    elsewhere: bool = False
    """Whether its label is another product of the same photo; then `right` is false."""
    shared: Sequence[Sequence[float]] | None = None
    """Points that its photo shares with the box: x and y in pixels of the query photo, then as
    shares of its own width and height; None if nothing was checked."""
    size_px: tuple[int, int] = (1, 1)
    """Width and height of `photo`."""


@dataclass(frozen=True)
class BoxCard:
    """A box in a query photo with its answers, best first."""

    box_xyxy: tuple[float, float, float, float]
    """Pixels of the stored photo; the query's card has the photo's size."""
    score: float
    """Detector score."""
    answers: Sequence[AnswerCard]
    in_catalogue: bool | None = None
    """Whether the box's product is in the catalogue, by its first answer's match score; None if
    there are no match scores."""
    photo: bytes | None = None
    """The part of the photo in the box, as a JPEG; None if the page shows the whole photo."""


BOX_SIDE_PX = 160
"""Longer side of the picture of a box in the report (ours)."""


class ItemPhotos:
    """Photos and rows of an item table by id."""

    def __init__(self, items: ItemTable) -> None:
        self._items = items
        self._positions = {item: position for position, item in enumerate(items.rows["id"])}

    def row(self, item: str) -> pd.Series:
        """The item's row of the table."""
        return self._items.rows.iloc[self._positions[item]]

    def thumbnail(self, item: str, side_px: int = ANSWER_SIDE_PX) -> bytes:
        """The item's photo as a small JPEG."""
        return thumbnail(self._items.photo(self._positions[item]), side_px)

    def box(self, item: str, box_xyxy: tuple[float, float, float, float]) -> bytes:
        """A box of the item's photo as a small JPEG."""
        photo = self._items.photo(self._positions[item])
        left, top, right, bottom = (max(0, round(edge)) for edge in box_xyxy)
        return thumbnail(
            photo[top : max(bottom, top + 1), left : max(right, left + 1)], BOX_SIDE_PX
        )


def thumbnail(photo: Photo, side_px: int = ANSWER_SIDE_PX, quality: int = 78) -> bytes:
    """A photo as a JPEG whose longer side is at most `side_px`."""
    scale = side_px / max(photo.shape[:2])
    return encode_jpeg(resize_photo(photo, scale) if scale < 1 else photo, quality)
