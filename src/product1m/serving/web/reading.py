"""A search request's body, as a form or JSON, to what is searched; nothing is trusted."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from product1m.data.limits import parse_json, photo_from_text
from product1m.errors import PhotoError
from product1m.serving.web.schema import JsonSearch, ModelRole

FORM, JSON = "multipart/form-data", "application/json"
_SPARE_BYTES = 64 << 10
"""Bytes of a body besides photo and title: names, separators."""


@dataclass(frozen=True)
class Search:
    """A photo to search, and how."""

    photo: bytes
    title: str
    top_k: int
    role: ModelRole


def max_body_bytes(max_photo_bytes: int, max_title_bytes: int) -> int:
    """Size of the largest body that can be a search: base64 with line breaks, an escaped title."""
    return max_photo_bytes * 4 // 3 + max_photo_bytes // 16 + 6 * max_title_bytes + _SPARE_BYTES


async def read_search(request: Request, max_photo_bytes: int, max_title_bytes: int) -> Search:
    """Read a request; an HTTPException says what is wrong with it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == JSON:
        return _from_json(await request.body(), max_photo_bytes)
    if kind == FORM:
        return await _from_form(request, max_photo_bytes, max_title_bytes)
    raise HTTPException(415, f"content-type: expected {FORM} or {JSON}, got {kind or 'none'}")


def _from_json(body: bytes, max_photo_bytes: int) -> Search:
    try:
        values = parse_json(body.decode("utf-8"))
    except ValueError as error:
        raise HTTPException(400, f"body: not JSON in UTF-8 ({error})") from error
    search = _checked(values)
    return _search(search, _decoded(search.photo, max_photo_bytes))


async def _from_form(request: Request, max_photo_bytes: int, max_title_bytes: int) -> Search:
    # A file above 1 MiB goes to the temporary folder until the form is closed.
    max_part = max_title_bytes + _SPARE_BYTES
    async with request.form(max_files=1, max_fields=4, max_part_size=max_part) as form:
        values: dict[str, Any] = {}
        for name, value in form.multi_items():
            if name in values:
                raise HTTPException(400, f"{name}: given twice")
            values[name] = value
        photo = values.get("photo")
        if not isinstance(photo, UploadFile):
            raise HTTPException(400, "photo: expected a file, as in `curl --form photo=@photo.jpg`")
        if photo.size and photo.size > max_photo_bytes:
            raise HTTPException(413, f"photo: {photo.size} bytes, more than {max_photo_bytes}")
        encoded = await photo.read()
        search = _checked({**values, "photo": ""})
    return _search(search, encoded)


def _checked(values: Any) -> JsonSearch:
    try:
        return JsonSearch.model_validate(values)
    except ValidationError as error:
        lines = [_line(fault) for fault in error.errors()]
        raise HTTPException(400, "; ".join(lines)) from None


def _line(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"]) or "body"
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown; expected {', '.join(JsonSearch.model_fields)}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    return f"{key}: {fault['msg']}, got {str(fault['input'])[:80]!r}"


def _decoded(text: str, max_photo_bytes: int) -> bytes:
    try:
        return photo_from_text(text, max_photo_bytes)
    except PhotoError as error:
        raise HTTPException(400, f"photo: {error}") from error


def _search(search: JsonSearch, photo: bytes) -> Search:
    return Search(photo, search.title, search.top_k, search.model)
