"""A line of a list with its photo: usable, or rejected with the reason."""

import hashlib

from product1m.data.boxes import BoxError, check_boxes
from product1m.data.intake import StoredPhoto, normalize_photo
from product1m.data.limits import PhotoLimits, PixelBudget, title_fault
from product1m.data.lists import ListItem, RejectedLine
from product1m.data.photo_sources import PhotoSource
from product1m.data.rows import Row
from product1m.errors import PhotoError
from product1m.storage.base import Store

Checked = RejectedLine | tuple[ListItem, StoredPhoto]
"""A line that cannot be used, or an item with its photo."""
ERASED = "erased/"
"""Folder of a data set; its file names are digests of photos that must not be added again."""


def check_item(
    row: Row,
    source: PhotoSource,
    limits: PhotoLimits,
    budget: PixelBudget,
    max_title_bytes: int,
    erased: frozenset[str] = frozenset(),
) -> Checked:
    """Read and check an item's photo.

    Args:
        row: a line of a list; a rejected one is returned unchanged.
        source: reads the photo.
        limits: limits for one photo.
        budget: shared by all threads that decode photos.
        max_title_bytes: longest caption.
        erased: SHA-256 digests of erased photos, of the original file or of the stored one.
    """
    if isinstance(row, RejectedLine):
        return row
    if fault := title_fault(row.caption, max_title_bytes):
        return row.rejected(f"caption: {fault}")
    try:
        raw = source.read(row, limits.max_bytes)
        photo = normalize_photo(raw, limits, budget)
        if row.boxes:
            check_boxes(row.boxes, *original_px(photo))
    except (PhotoError, BoxError) as error:
        return row.rejected(str(error))
    if erased and erased & digests_of(raw, photo.encoded):
        return row.rejected("the photo was erased on request and must not be added again")
    return row, photo


def original_px(photo: StoredPhoto) -> tuple[int, int]:
    """Width and height of a photo before it was downscaled."""
    return round(photo.width / photo.downscaled), round(photo.height / photo.downscaled)


def erased_photos(dataset: Store) -> frozenset[str]:
    """SHA-256 digests of the photos that must not be added to a data set again."""
    return frozenset(file.name.removeprefix(ERASED) for file in dataset.files(ERASED))


def digests_of(*contents: bytes) -> set[str]:
    """SHA-256 of each form of a photo."""
    return {hashlib.sha256(content).hexdigest() for content in contents}
