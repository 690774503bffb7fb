"""What a registered model finds for a photo, shown to a person: a page, a picture or a table."""

import io
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps

from product1m.data.intake import photo_errors
from product1m.errors import PhotoError, RetrievalError, StorageError
from product1m.evaluation.report.html import html_templates
from product1m.registry.versions import (
    MODEL_FOLDER,
    import_mlflow,
    quiet_mlflow,
    talking_to_registry,
)
from product1m.serving.service import THUMBNAILS
from product1m.serving.thumbnails import Thumbnails, paste_centred

PHOTO_SIDE_PX, RESULT_SIDE_PX, GAP_PX = 560, 96, 10
COLOURS = ("#d1242f", "#0969da", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#0f7b6c", "#57606a")
"""Of the instances, in turn."""
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "Microsoft YaHei", "SimHei", "PingFang SC",
)  # fmt: skip


@dataclass(frozen=True)
class Hit:
    """A gallery item that an instance found."""

    id: str
    label: str
    score: float
    title: str
    photo: bytes | None
    """JPEG; None where the model carries no thumbnails."""


@dataclass(frozen=True)
class FoundInstance:
    """A product in the photo and what it found, best first."""

    number: int
    colour: str
    box_xyxy: tuple[float, float, float, float]
    """Pixels of the upright photo."""
    score: float
    """Objectness."""
    hits: list[Hit]


@dataclass(frozen=True)
class Found:
    """A photo, its title, and what the model found."""

    photo: Image.Image
    """Upright, in full size."""
    title: str
    model: str
    instances: list[FoundInstance]
    merged: list[tuple[str, str]]
    """Gallery id and label, best first, of all instances together."""


def search(photo: Path, title: str, model_uri: str, top_k: int) -> Found:
    """Ask a registered model.

    Args:
        photo: a photo file.
        title: what its seller calls it.
        model_uri: as MLflow takes it, `models:/product1m@champion`, or a folder of such a model.
        top_k: results for each instance.
    """
    try:
        raw = photo.read_bytes()
    except OSError as error:
        raise StorageError(f"{photo}: cannot be read ({error}); expected a photo file") from error
    upright = _upright(raw, photo)
    with tempfile.TemporaryDirectory() as scratch:
        folder = _fetch(model_uri, Path(scratch))
        mlflow = import_mlflow()
        model = mlflow.pyfunc.load_model(str(folder))
        asked = pd.DataFrame({"photo": [raw], "title": [title]})
        try:
            answer = model.predict(asked, params={"top_k": top_k}).iloc[0]
        except mlflow.exceptions.MlflowException as error:
            raise RetrievalError(f"{photo}: {error}") from error
        thumbnails = Thumbnails(folder / "artifacts" / MODEL_FOLDER / THUMBNAILS)
        instances = [
            _instance(number, instance, thumbnails)
            for number, instance in enumerate(answer["instances"], start=1)
        ]
    merged = list(zip(answer["ids"], answer["labels"], strict=True))
    return Found(upright, title, model_uri, instances, merged)


def write_found(found: Found, path: Path) -> None:
    """Write a page (`.html`) or a picture (`.png`, `.jpg`)."""
    check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".html":
        path.write_text(_page(found), "utf-8")
    else:
        _picture(found).save(path, PICTURES[path.suffix.lower()])


def check_output(path: Path) -> None:
    """StorageError for a kind of file that cannot be written, before any work."""
    if path.suffix.lower() not in (".html", *PICTURES):
        raise StorageError(
            f"{path}: expected a file ending in .html, {', '.join(PICTURES)}, got "
            f"{path.suffix or 'no ending'}"
        )


def _upright(raw: bytes, path: Path) -> Image.Image:
    try:
        with photo_errors():
            return ImageOps.exif_transpose(Image.open(io.BytesIO(raw))).convert("RGB")
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
    with talking_to_registry(f"fetching {model_uri}"):
        artifacts = quiet_mlflow().artifacts
        return Path(artifacts.download_artifacts(model_uri, dst_path=str(scratch)))


def _instance(number: int, instance: Any, thumbnails: Thumbnails) -> FoundInstance:
    hits = [
        Hit(item, label, score, thumbnails.caption(item), thumbnails.jpeg(item))
        for item, label, score in zip(
            instance["ids"], instance["labels"], instance["scores"], strict=True
        )
    ]
    return FoundInstance(
        number,
        COLOURS[(number - 1) % len(COLOURS)],
        tuple(instance["box_xyxy"]),
        instance["score"],
        hits,
    )


def _page(found: Found) -> str:
    template = resources.files("product1m.serving") / "web" / "search_page.html.jinja"
    text = template.read_text("utf-8")
    small = found.photo.copy()
    small.thumbnail((2 * PHOTO_SIDE_PX, 2 * PHOTO_SIDE_PX))
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=85)
    return (
        html_templates()
        .from_string(text)
        .render(
            found=found,
            photo=encoded.getvalue(),
            width=found.photo.width,
            height=found.photo.height,
        )
    )


def _picture(found: Found) -> Image.Image:
    """The photo with its instances, and beside it a row of results for each."""
    photo = found.photo.copy()
    photo.thumbnail((PHOTO_SIDE_PX, PHOTO_SIDE_PX))
    num_hits = max(len(instance.hits) for instance in found.instances)
    row_px = RESULT_SIDE_PX + 44
    left = photo.width + 3 * GAP_PX
    width = left + num_hits * (RESULT_SIDE_PX + GAP_PX) + GAP_PX
    height = max(photo.height, row_px * len(found.instances)) + 2 * GAP_PX
    sheet = Image.new("RGB", (width, height), "#ffffff")
    draw = ImageDraw.Draw(sheet)
    sheet.paste(photo, (GAP_PX, GAP_PX))
    scale = photo.width / found.photo.width
    for instance in found.instances:
        box = [GAP_PX + edge * scale for edge in instance.box_xyxy]
        draw.rectangle(box, outline=instance.colour, width=4)
        _number(draw, instance, (box[0], box[1]))
    for row, instance in enumerate(found.instances):
        _draw_hits(sheet, instance, (left, GAP_PX + row * row_px))
    return sheet


def _draw_hits(sheet: Image.Image, instance: FoundInstance, corner: tuple[int, int]) -> None:
    draw, (left, top) = ImageDraw.Draw(sheet), corner
    for place, hit in enumerate(instance.hits):
        x = left + place * (RESULT_SIDE_PX + GAP_PX)
        frame = (x - 2, top - 2, x + RESULT_SIDE_PX + 1, top + RESULT_SIDE_PX + 1)
        if hit.photo:
            paste_centred(sheet, hit.photo, (x, top), RESULT_SIDE_PX)
        draw.rectangle(frame, outline=instance.colour, width=2)
        for line, text in enumerate((hit.label or hit.id, f"{hit.score:.2f}")):
            where = (x, top + RESULT_SIDE_PX + 3 + 16 * line)
            draw.text(where, _fitting(text, draw), "#333333", _font(text))
    _number(draw, instance, (left - GAP_PX, top))


def _number(draw: ImageDraw.ImageDraw, instance: FoundInstance, at: tuple[float, float]) -> None:
    x, y = at
    draw.rectangle((x, y, x + 18, y + 18), fill=instance.colour)
    draw.text((x + 5, y + 2), str(instance.number), "#ffffff", ImageFont.load_default(13))


def _fitting(text: str, draw: ImageDraw.ImageDraw) -> str:
    """Cut to the width of a result."""
    font = _font(text)
    if not text.isascii() and not isinstance(font, ImageFont.FreeTypeFont):
        return ""
    kept = text
    while kept and draw.textlength(kept, font) > RESULT_SIDE_PX:
        kept = kept[:-1]
    return kept


def _font(text: str) -> Any:
    """A font that has the text's characters, where this machine has one."""
    if text.isascii():
        return ImageFont.load_default(13)
    from matplotlib import font_manager

    known = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist}
    path = next((known[name] for name in CJK_FONTS if name in known), None)
    return ImageFont.truetype(path, 13) if path else ImageFont.load_default(13)


COLUMNS = ("product", "box", "objectness", "rank", "item", "label", "similarity")


def table_rows(found: Found) -> list[tuple[str, ...]]:
    """What `COLUMNS` names, one row a result."""
    return [
        (
            str(instance.number) if rank == 1 else "",
            " ".join(f"{edge:.0f}" for edge in instance.box_xyxy) if rank == 1 else "",
            f"{instance.score:.2f}" if rank == 1 else "",
            str(rank),
            hit.id,
            hit.label,
            f"{hit.score:.3f}",
        )
        for instance in found.instances
        for rank, hit in enumerate(instance.hits, start=1)
    ]
