"""What the server takes and answers, as its OpenAPI document describes it.

Answers are written by `search_page.box_values`, here and in `product1m search`; these classes
describe them and allow further keys.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ModelRole = Literal["champion", "candidate"]
"""Which of the two models of a server: the one of `--model`, the one of `--candidate`."""
DEFAULT_ANSWERS = 5
"""Answers for each box unless a request asks for another number; as in `product1m search`."""


class _Described(BaseModel):
    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)


class JsonSearch(BaseModel):
    """A search as JSON; as a form (`multipart/form-data`) the photo is a file."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    photo: str
    """The photo file's bytes in base64, also with line ends or as a `data:` URI."""
    title: str = ""
    """The seller's title of the photo; may be empty."""
    top_k: int = Field(default=DEFAULT_ANSWERS, ge=1)
    """Answers for each box."""
    model: ModelRole = "champion"
    """Which model answers, where the server has two."""


class FormSearch(JsonSearch):
    """A search as a form."""

    photo: str = Field(json_schema_extra={"format": "binary"})
    """The photo file."""


class ModelInfo(_Described):
    """What answers."""

    name: str
    role: ModelRole
    model_digest: str
    catalogue_digest: str
    num_items: int
    """Gallery items that can be found."""
    is_signed: bool
    """Whether a trusted signature covers it."""
    is_sample: bool
    """Whether it was trained on sample data."""


class Answer(_Described):
    """A gallery item, best first."""

    id: str
    label: str
    match_score: float | None
    """How probable it is that the item is the product in the box, 0 to 1; null in a model that has
    no match scores."""
    title: str
    """Title of the gallery item."""
    picture: str
    """Address of its small photo on this server; empty if the model carries none."""
    picture_size_px: tuple[int, int]
    """Width and height of that photo."""
    shared_points: int | None
    """Number of points of the box that the gallery photo shows in the same arrangement; more
    of them rank it higher. Null in a model that does not check answers by points."""
    shared_points_xy: list[tuple[float, float, float, float]] | None
    """Each of these points: x and y in pixels of the photo, turned upright, then x and y as shares
    of the gallery photo's width and height."""


class AnsweredBox(_Described):
    """A box that holds one product."""

    number: int
    """Counted from 1, by descending detector score."""
    box_xyxy: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the photo, turned upright."""
    detector_score: float
    in_catalogue: bool | None
    """False if the product is probably not in the catalogue, by the first answer's match score;
    null in a model that has no match scores."""
    answers: list[Answer]


class MergedAnswer(_Described):
    """A gallery item of the ranking for the whole photo."""

    id: str
    label: str


class SearchAnswer(_Described):
    """The products of a photo with their answers."""

    model: ModelInfo
    title: str
    width: int
    """Width of the photo in pixels, turned upright."""
    height: int
    """Height of the photo in pixels, turned upright."""
    boxes: list[AnsweredBox]
    merged: list[MergedAnswer]


class ErrorAnswer(BaseModel):
    """Why there is no answer."""

    error: str
