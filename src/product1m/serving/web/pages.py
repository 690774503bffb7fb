"""The server's pages: templates that escape what they are given; style and script are files."""

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from fastapi.responses import HTMLResponse

from product1m.config import ServerConfig
from product1m.evaluation.report.html import html_templates
from product1m.serving.live import ServedModel
from product1m.serving.web.examples import ExamplePhoto
from product1m.serving.web.schema import DEFAULT_ANSWERS, ModelRole
from product1m.serving.web.searching import describe

API_PAGE = "/docs"
"""Path of the page that describes the API."""


class Pages:
    """The templates, read once."""

    def __init__(self, review: str = "") -> None:
        """Read them; `review` is the path of the reviewer's page, if there is one."""
        self._review = review
        environment = html_templates()
        folder = resources.files("product1m.serving") / "web"
        self._index = environment.from_string((folder / "index.html.jinja").read_text("utf-8"))
        self._api = environment.from_string((folder / "api.html.jinja").read_text("utf-8"))

    def index(
        self,
        served: Mapping[ModelRole, ServedModel],
        config: ServerConfig,
        examples: Sequence[ExamplePhoto],
    ) -> HTMLResponse:
        """The page that a person searches with."""
        ingestion = served["champion"].service.config.ingestion
        return HTMLResponse(
            self._index.render(
                models=[describe(model, role) for role, model in served.items()],
                max_photo_bytes=ingestion.max_photo_bytes,
                max_title_bytes=ingestion.max_title_bytes,
                num_answers=min(DEFAULT_ANSWERS, config.max_answers),
                max_answers=config.max_answers,
                keeps_queries=bool(config.keep_queries),
                api_page=API_PAGE,
                examples=examples,
                review=self._review,
            )
        )

    def api(self, openapi: Mapping[str, Any]) -> HTMLResponse:
        """The addresses, their parameters and answers, from the OpenAPI document."""
        return HTMLResponse(
            self._api.render(
                title=openapi["info"]["title"],
                description=openapi["info"]["description"],
                paths=openapi["paths"],
                schemas=openapi["components"]["schemas"],
            )
        )
