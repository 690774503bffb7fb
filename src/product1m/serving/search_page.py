"""What a registered model answers for a photo, shown to a person: a page, JSON or a table."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from product1m.artifacts.model_parts import THUMBNAILS, model_in
from product1m.data.intake import upright_image
from product1m.errors import PhotoError, RetrievalError, StorageError
from product1m.evaluation.report.cards import AnswerCard, BoxCard
from product1m.evaluation.report.html import html_templates
from product1m.serving.catalogue_folder import model_digest, open_catalogue
from product1m.serving.service import SearchService
from product1m.serving.thumbnails import Thumbnails
from product1m.storage.opening import read_file

PAGE_PHOTO_SIDE_PX = 1120
"""Longer side of the photo on the page; it is shown at half of this (ours)."""
MAX_PHOTO_BYTES = 1 << 30
"""Of a file that is read before its model says how large a photo may be (ours)."""
COLORS = ("#d1242f", "#0969da", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#0f7b6c", "#57606a")
"""Colors of the boxes, in turn."""
PAGE, JSON = ".html", ".json"
NOT_IN_CATALOGUE = "not in the catalogue"
"""What a box is answered if its first answer's match score is too low."""
COLUMNS = (
    "box",
    "x1 y1 x2 y2",
    "detector score",
    NOT_IN_CATALOGUE,
    "rank",
    "item",
    "label",
    "match score",
)
"""Columns of the table."""


@dataclass(frozen=True)
class AnsweredPhoto:
    """A photo, its title, and what the model answers."""

    photo: Image.Image
    """Upright, in full size."""
    title: str
    model: str
    boxes: list[BoxCard]
    """Boxes in pixels of `photo`."""
    merged: list[tuple[str, str]]
    """Gallery id and label, best first, of all boxes together."""


@dataclass(frozen=True)
class QueryPhoto:
    """A photo file that can be decoded."""

    path: Path
    encoded: bytes
    upright: Image.Image


def read_photo(path: Path) -> QueryPhoto:
    """StorageError for what is no file, or a file that cannot be read or decoded."""
    try:
        encoded = read_file(path, MAX_PHOTO_BYTES)
    except StorageError as error:
        raise StorageError(f"{error}; expected a photo file") from error
    return QueryPhoto(path, encoded, _upright(encoded, path))


def search(
    photo: QueryPhoto,
    title: str,
    folder: Path,
    name: str,
    top_k: int,
    catalogue: Path | None = None,
) -> AnsweredPhoto:
    """Let a model answer a photo, run by this package's code, not by the model's.

    Args:
        photo: what to search.
        title: what its seller calls it.
        folder: of a version's files; whether they can be trusted is the caller's business.
        name: of the model, to show.
        top_k: answers for each box.
        catalogue: folder of the catalogue that answers; the model's own gallery if not given.

    Raises RetrievalError for a photo or title that the model refuses, ArtifactError for damaged
    files and for a catalogue of another model.
    """
    model = model_in(folder)
    service, small_photos = SearchService.load(model), model / THUMBNAILS
    if catalogue:
        opened = open_catalogue(catalogue, model_digest(model), name)
        service, small_photos = service.with_catalogue(opened), catalogue / THUMBNAILS
    try:
        (result,) = service.answer([photo.encoded], [title], top_k)
    except RetrievalError as error:
        raise RetrievalError(f"{photo.path}: {error}") from error
    answer = service.row(result)
    thumbnails = Thumbnails(small_photos)
    boxes = box_cards(answer, thumbnails)
    merged = list(zip(answer["ids"], answer["labels"], strict=True))
    return AnsweredPhoto(photo.upright, title, name, boxes, merged)


def check_output(path: Path) -> None:
    """StorageError for a kind of file that cannot be written, before any work."""
    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        raise StorageError(
            f"{path}: pictures are no longer written; use {path.with_suffix(PAGE)} for a page with "
            f"photos, or {path.with_suffix(JSON)}"
        )
    if path.suffix.lower() not in (PAGE, JSON):
        raise StorageError(
            f"{path}: expected a file ending in {PAGE} or {JSON}, got {path.suffix or 'no ending'}"
        )


def write_output(answered: AnsweredPhoto, path: Path) -> None:
    """Write a page (`.html`) or all answers without photos (`.json`)."""
    check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _page(answered) if path.suffix.lower() == PAGE else _json(answered)
    path.write_text(text, "utf-8")


def table_rows(answered: AnsweredPhoto) -> list[tuple[str, ...]]:
    """The table under `COLUMNS`, one row an answer."""
    return [
        (
            str(number) if rank == 1 else "",
            " ".join(f"{edge:.0f}" for edge in box.box_xyxy) if rank == 1 else "",
            f"{box.score:.2f}" if rank == 1 else "",
            "yes" if rank == 1 and box.in_catalogue is False else "",
            str(rank),
            answer.id,
            answer.label,
            f"{answer.score:.2f}" if answer.score is not None else "",
        )
        for number, box in enumerate(answered.boxes, start=1)
        for rank, answer in enumerate(box.answers, start=1)
    ]


def _upright(encoded: bytes, path: Path) -> Image.Image:
    try:
        return upright_image(encoded)
    except PhotoError as error:
        raise StorageError(f"{path}: {error}") from error


def box_cards(
    answer: Mapping[str, Any], thumbnails: Thumbnails, with_photos: bool = True
) -> list[BoxCard]:
    """Boxes of a row of `SearchService`, with titles and, if wanted, photos of their answers."""
    return [
        BoxCard(
            tuple(box["box_xyxy"]),
            box["score"],
            _answer_cards(box, thumbnails, with_photos),
            box["in_catalogue"],
        )
        for box in answer["instances"]
    ]


def _answer_cards(
    box: Mapping[str, Any], thumbnails: Thumbnails, with_photos: bool
) -> list[AnswerCard]:
    scores = box["match_scores"] or [None] * len(box["ids"])
    shared = box["shared_points_xy"] or [None] * len(box["ids"])
    return [
        AnswerCard(
            item,
            label,
            thumbnails.jpeg(item) if with_photos else None,
            score,
            title=thumbnails.caption(item),
            shared=pairs,
            size_px=thumbnails.size_px(item),
        )
        for item, label, score, pairs in zip(box["ids"], box["labels"], scores, shared, strict=True)
    ]


def _page(answered: AnsweredPhoto) -> str:
    template = resources.files("product1m.serving") / "web" / "search_page.html.jinja"
    small = answered.photo.copy()
    small.thumbnail((PAGE_PHOTO_SIDE_PX, PAGE_PHOTO_SIDE_PX))
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=85)
    page = html_templates().from_string(template.read_text("utf-8"))
    return page.render(
        answered=answered,
        colors=COLORS,
        not_in_catalogue=NOT_IN_CATALOGUE,
        photo=encoded.getvalue(),
        width=answered.photo.width,
        height=answered.photo.height,
    )


def box_values(boxes: Sequence[BoxCard]) -> list[dict[str, Any]]:
    """Boxes with their answers as JSON holds them, here and in what the server answers."""
    return [
        {
            "number": number,
            "box_xyxy": box.box_xyxy,
            "detector_score": box.score,
            "in_catalogue": box.in_catalogue,
            "answers": [
                {
                    "id": card.id,
                    "label": card.label,
                    "match_score": card.score,
                    "title": card.title,
                    "shared_points": None if card.shared is None else len(card.shared),
                    "shared_points_xy": card.shared,
                }
                for card in box.answers
            ],
        }
        for number, box in enumerate(boxes, start=1)
    ]


def _json(answered: AnsweredPhoto) -> str:
    content = {
        "title": answered.title,
        "model": answered.model,
        "boxes": box_values(answered.boxes),
        "merged": [{"id": item, "label": label} for item, label in answered.merged],
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
