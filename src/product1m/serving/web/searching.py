"""Let a served model answer a query, and give its answer as JSON."""

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from product1m.artifacts.atomic import whole_file, write_text
from product1m.errors import QueryError, RetrievalError
from product1m.serving.live import ServedModel
from product1m.serving.search_page import box_cards, box_values
from product1m.serving.web.reading import Search
from product1m.serving.web.schema import ModelRole

PICTURE = "/picture"
"""Path of the gallery's small photos."""


def search(served: ServedModel, query: Search) -> dict[str, Any]:
    """What a model answers, as `schema.SearchAnswer` describes it.

    Raises RetrievalError for a photo or title that cannot be searched.
    """
    service = served.service
    try:
        (answer,) = service.answer([query.photo], [query.title], query.top_k, needs_title=False)
    except QueryError as error:
        raise RetrievalError(f"{error.part}: {error.reason}") from error
    row = service.row(answer)
    boxes = box_values(box_cards(row, served.thumbnails, with_photos=False))
    for box in boxes:
        for card in box["answers"]:
            card["picture"] = _picture(served, query.role, card["id"])
            card["picture_size_px"] = served.thumbnails.size_px(card["id"])
    merged = zip(row["ids"], row["labels"], strict=True)
    width, height = answer.size_px
    return {
        "model": describe(served, query.role),
        "title": query.title,
        "width": width,
        "height": height,
        "boxes": boxes,
        "merged": [{"id": item, "label": label} for item, label in merged],
    }


def describe(served: ServedModel, role: ModelRole) -> dict[str, Any]:
    """A model as `schema.ModelInfo` describes it."""
    return {
        "name": served.name,
        "role": role,
        "model_digest": served.model_digest,
        "catalogue_digest": served.catalogue_digest,
        "num_items": len(served.service.searcher.gallery),
        "is_signed": served.is_signed,
        "is_sample": served.is_sample,
    }


def keep_query(folder: Path, query: Search, answered: Mapping[str, Any]) -> None:
    """Keep a photo as it came, and beside it its title and answers."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(8)}"
    with whole_file(folder / f"{name}.photo") as partial:
        partial.write_bytes(query.photo)
    write_text(folder / f"{name}.json", json.dumps(answered, ensure_ascii=False))


def _picture(served: ServedModel, role: ModelRole, item: str) -> str:
    if not len(served.thumbnails):
        return ""
    return f"{PICTURE}?{urlencode({'model': role, 'item': item})}"
