"""What a registered model answers for a photo, shown to a person: a page, JSON or a table."""

import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageOps

from product1m.data.intake import photo_errors
from product1m.errors import PhotoError, RetrievalError, StorageError
from product1m.evaluation.report.cards import AnswerCard, BoxCard
from product1m.evaluation.report.html import html_templates
from product1m.serving.model_folder import MODEL_FOLDER, THUMBNAILS
from product1m.serving.thumbnails import Thumbnails
from product1m.telemetry.mlflow_client import download, import_mlflow, registry_mlflow

PAGE_PHOTO_SIDE_PX = 1120
"""Longer side of the photo on the page; it is shown at half of this (ours)."""
COLORS = ("#d1242f", "#0969da", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#0f7b6c", "#57606a")
"""Of the boxes, in turn."""
PAGE, JSON = ".html", ".json"
COLUMNS = ("box", "x1 y1 x2 y2", "detector score", "rank", "item", "label", "match score")
"""Of the table."""


@dataclass(frozen=True)
class AnsweredPhoto:
    """A photo, its title, and what the model answers."""

    photo: Image.Image
    """Upright, in full size."""
    title: str
    model: str
    boxes: list[BoxCard]
    """In pixels of `photo`."""
    merged: list[tuple[str, str]]
    """Gallery id and label, best first, of all boxes together."""


def search(photo: Path, title: str, model_uri: str, top_k: int) -> AnsweredPhoto:
    """Let a registered model answer a photo.

    Args:
        photo: a photo file.
        title: what its seller calls it.
        model_uri: as MLflow takes it, `models:/product1m@champion`, or a folder of such a model.
        top_k: answers for each box.

    Raises StorageError for a photo or folder that cannot be read, RegistryError for a model that
    cannot be fetched, RetrievalError if the model refuses photo or title.
    """
    try:
        encoded = photo.read_bytes()
    except OSError as error:
        raise StorageError(f"{photo}: cannot be read ({error}); expected a photo file") from error
    upright = _upright(encoded, photo)
    with tempfile.TemporaryDirectory() as scratch:
        folder = _fetch(model_uri, Path(scratch))
        mlflow = import_mlflow()
        model = mlflow.pyfunc.load_model(str(folder))
        query = pd.DataFrame({"photo": [encoded], "title": [title]})
        try:
            answer = model.predict(query, params={"top_k": top_k}).iloc[0]
        except mlflow.exceptions.MlflowException as error:
            raise RetrievalError(f"{photo}: {error}") from error
        thumbnails = Thumbnails(folder / "artifacts" / MODEL_FOLDER / THUMBNAILS)
        boxes = [
            BoxCard(tuple(box["box_xyxy"]), box["score"], _answer_cards(box, thumbnails))
            for box in answer["instances"]
        ]
    merged = list(zip(answer["ids"], answer["labels"], strict=True))
    return AnsweredPhoto(upright, title, model_uri, boxes, merged)


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
            str(rank),
            answer.id,
            answer.label,
            f"{answer.score:.3f}",
        )
        for number, box in enumerate(answered.boxes, start=1)
        for rank, answer in enumerate(box.answers, start=1)
    ]


def _upright(encoded: bytes, path: Path) -> Image.Image:
    try:
        with photo_errors():
            return ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB")
    except PhotoError as error:
        raise StorageError(f"{path}: {error}") from error


def _fetch(model_uri: str, scratch: Path) -> Path:
    if Path(model_uri).is_dir():
        return Path(model_uri)
    if ":/" not in model_uri:
        raise StorageError(
            f"{model_uri}: no such folder; expected the folder of a model, or a registered one as "
            "in models:/product1m@champion"
        )
    registry_mlflow()
    return download(model_uri, "", scratch)


def _answer_cards(box: Mapping[str, Any], thumbnails: Thumbnails) -> list[AnswerCard]:
    return [
        AnswerCard(item, label, thumbnails.jpeg(item), score, title=thumbnails.caption(item))
        for item, label, score in zip(box["ids"], box["labels"], box["scores"], strict=True)
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
        photo=encoded.getvalue(),
        width=answered.photo.width,
        height=answered.photo.height,
    )


def _json(answered: AnsweredPhoto) -> str:
    boxes = [
        {
            "number": number,
            "box_xyxy": box.box_xyxy,
            "detector_score": box.score,
            "answers": [
                {"id": card.id, "label": card.label, "match_score": card.score, "title": card.title}
                for card in box.answers
            ],
        }
        for number, box in enumerate(answered.boxes, start=1)
    ]
    content = {
        "title": answered.title,
        "model": answered.model,
        "boxes": boxes,
        "merged": [{"id": item, "label": label} for item, label in answered.merged],
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
