"""What a registered model answers for a photo, shown to a person: a page, JSON or a table."""

import io
import json
import tempfile
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageOps

from product1m.data.intake import photo_errors
from product1m.errors import PhotoError, RetrievalError, StorageError
from product1m.evaluation.report.html import html_templates
from product1m.serving.model_folder import MODEL_FOLDER, THUMBNAILS
from product1m.serving.thumbnails import Thumbnails
from product1m.telemetry.mlflow_client import download, import_mlflow, registry_mlflow

PAGE_PHOTO_SIDE_PX = 1120
"""Longer side of the photo on the page; it is shown at half of this (ours)."""
COLORS = ("#d1242f", "#0969da", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#0f7b6c", "#57606a")
"""Of the boxes, in turn."""
PAGE, JSON = ".html", ".json"
COLUMNS = ("box", "x1 y1 x2 y2", "detector score", "rank", "item", "label", "similarity")
"""Of the table."""


@dataclass(frozen=True)
class Answer:
    """A gallery item that the model ranks for a box."""

    id: str
    label: str
    similarity: float
    title: str
    photo: bytes | None
    """JPEG; None if the model carries no thumbnails."""


@dataclass(frozen=True)
class AnsweredBox:
    """A box in the photo and its ranking."""

    number: int
    """From 1."""
    color: str
    box_xyxy: tuple[float, float, float, float]
    """Pixels of the upright photo."""
    detector_score: float
    answers: list[Answer]
    """Best first."""


@dataclass(frozen=True)
class AnsweredPhoto:
    """A photo, its title, and what the model answers."""

    photo: Image.Image
    """Upright, in full size."""
    title: str
    model: str
    boxes: list[AnsweredBox]
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
            _answered_box(number, instance, thumbnails)
            for number, instance in enumerate(answer["instances"], start=1)
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
            str(box.number) if rank == 1 else "",
            " ".join(f"{edge:.0f}" for edge in box.box_xyxy) if rank == 1 else "",
            f"{box.detector_score:.2f}" if rank == 1 else "",
            str(rank),
            answer.id,
            answer.label,
            f"{answer.similarity:.3f}",
        )
        for box in answered.boxes
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


def _answered_box(number: int, instance: Any, thumbnails: Thumbnails) -> AnsweredBox:
    answers = [
        Answer(item, label, similarity, thumbnails.caption(item), thumbnails.jpeg(item))
        for item, label, similarity in zip(
            instance["ids"], instance["labels"], instance["scores"], strict=True
        )
    ]
    color = COLORS[(number - 1) % len(COLORS)]
    return AnsweredBox(number, color, tuple(instance["box_xyxy"]), instance["score"], answers)


def _page(answered: AnsweredPhoto) -> str:
    template = resources.files("product1m.serving") / "web" / "search_page.html.jinja"
    small = answered.photo.copy()
    small.thumbnail((PAGE_PHOTO_SIDE_PX, PAGE_PHOTO_SIDE_PX))
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=85)
    page = html_templates().from_string(template.read_text("utf-8"))
    return page.render(
        answered=answered,
        photo=encoded.getvalue(),
        width=answered.photo.width,
        height=answered.photo.height,
    )


def _json(answered: AnsweredPhoto) -> str:
    boxes = [asdict(box) for box in answered.boxes]
    for box in boxes:
        del box["color"]
        for answer in box["answers"]:
            del answer["photo"]
    content = {
        "title": answered.title,
        "model": answered.model,
        "boxes": boxes,
        "merged": [{"id": item, "label": label} for item, label in answered.merged],
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
