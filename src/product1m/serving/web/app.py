"""The server's addresses: search, page, health and figures."""

import functools
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

from product1m.config import ServerConfig
from product1m.errors import RetrievalError, StorageError, printable
from product1m.serving.live import Live, ServedModel
from product1m.serving.web.examples import ExamplePhoto
from product1m.serving.web.limits import RETRY_AFTER_S, RequestLimits
from product1m.serving.web.metrics import ServerMetrics
from product1m.serving.web.pages import API_PAGE, Pages
from product1m.serving.web.reading import FORM, JSON, Search, max_body_bytes, read_search
from product1m.serving.web.recording import RequestRecord
from product1m.serving.web.schema import (
    ErrorAnswer,
    FormSearch,
    JsonSearch,
    ModelInfo,
    ModelRole,
    SearchAnswer,
)
from product1m.serving.web.searching import PICTURE, describe, keep_query, search
from product1m.serving.web.workers import QueueFullError, WorkerThreads

logger = logging.getLogger(__name__)

STATIC = Path(__file__).with_name("static")
DESCRIPTION = "Finds every product of a photo in the catalogue."
CLIENT_LEFT = 499
"""Status in log and figures of a request whose client left before it was complete (ours)."""
_SCHEMAS = "#/components/schemas/"


class Server:
    """What answers requests: the models, their workers, the figures."""

    def __init__(
        self,
        live: Mapping[ModelRole, Live],
        config: ServerConfig,
        examples: Sequence[ExamplePhoto] = (),
    ) -> None:
        """`examples`: photos that the page offers."""
        self.live = live
        self.config = config
        self.examples = examples
        self.workers = WorkerThreads(config.workers, config.max_waiting)
        self.metrics = ServerMetrics(self.workers)

    def served(self) -> dict[ModelRole, ServedModel]:
        """What answers now."""
        return {role: live.current for role, live in self.live.items()}

    def model(self, role: ModelRole) -> ServedModel:
        """What answers now for one of the models; an HTTPException if there is no such model."""
        if role not in self.live:
            raise HTTPException(400, f"model: this server has no {role}")
        return self.live[role].current

    async def search(self, request: Request) -> dict[str, Any]:
        """Answer a request; an HTTPException says why not."""
        if self.workers.is_full:
            raise _full()
        ingestion = self.live["champion"].current.service.config.ingestion
        query = await read_search(request, ingestion.max_photo_bytes, ingestion.max_title_bytes)
        if query.top_k > self.config.max_answers:
            raise HTTPException(400, f"top_k: at most {self.config.max_answers}")
        served = self.model(query.role)
        started = time.perf_counter()
        try:
            answered = await self.workers.run(functools.partial(self._work, served, query))
        except QueueFullError as error:
            raise _full() from error
        except RetrievalError as error:
            raise HTTPException(400, str(error)) from error
        seconds = time.perf_counter() - started
        self.metrics.answered(query.role, seconds, answered["boxes"])
        request.state.fields = {"boxes": len(answered["boxes"]), "model": query.role}
        return answered

    def _work(self, served: ServedModel, query: Search) -> dict[str, Any]:
        answered = search(served, query)
        if self.config.keep_queries:
            try:
                keep_query(Path(self.config.keep_queries).expanduser(), query, answered)
            except (StorageError, OSError) as error:  # a full disk is no reason not to answer
                logger.warning("a query was not kept: %s", error)
        return answered


def _full() -> HTTPException:
    return HTTPException(
        503,
        "too many photos wait already; try again later",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def create_app(server: Server, review: APIRouter | None = None) -> FastAPI:
    """The server's addresses.

    Args:
        server: what answers.
        review: the addresses of the reviewer's page.
    """
    app = FastAPI(
        title="product1m",
        description=DESCRIPTION,
        docs_url=None,  # they load scripts from other servers
        redoc_url=None,
        lifespan=functools.partial(_closing, server),
    )
    pages = Pages(review.prefix if review else "")
    routers = [_searches(server), _health(server), _pages(server, pages)]
    for router in [*routers, review] if review else routers:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC))
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_parameters)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.openapi = functools.partial(_described, app.openapi)  # type: ignore[method-assign]
    ingestion = server.live["champion"].current.service.config.ingestion
    largest = max_body_bytes(ingestion.max_photo_bytes, ingestion.max_title_bytes)
    app.add_middleware(RequestLimits, server.config.deadline_s, largest)
    app.add_middleware(RequestRecord, server.metrics)
    return app


@asynccontextmanager
async def _closing(server: Server, _: FastAPI) -> AsyncIterator[None]:
    try:
        yield
    finally:
        server.workers.close()


def _searches(server: Server) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/search",
        responses={
            200: {"model": SearchAnswer},
            **{status: {"model": ErrorAnswer} for status in (400, 408, 413, 415, 503)},
        },
    )
    async def search_photo(request: Request) -> Response:
        """Find every product of a photo in the catalogue."""
        return JSONResponse(await server.search(request))

    @router.get("/models")
    async def models() -> list[ModelInfo]:
        """Which models answer."""
        served = server.served().items()
        return [ModelInfo.model_validate(describe(model, role)) for role, model in served]

    @router.get(PICTURE, response_class=Response)
    def picture(item: str, model: Annotated[ModelRole, Query()] = "champion") -> Response:
        """A gallery item's small photo."""
        jpeg = server.model(model).thumbnails.jpeg(item)
        if jpeg is None:
            raise HTTPException(404, f"item: the catalogue has no picture of {item[:80]!r}")
        headers = {"Cache-Control": "private, max-age=60"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    return router


def _health(server: Server) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @router.get("/readyz", responses={503: {"model": ErrorAnswer}})
    async def readyz() -> dict[str, str]:
        """Whether another photo would be taken."""
        if server.workers.is_full:
            raise _full()
        return {"status": "ready"}

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        page = server.metrics.page(server.served())
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _pages(server: Server, pages: Pages) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index() -> Response:
        return pages.index(server.served(), server.config, server.examples)

    @router.get("/examples/{number}")
    async def example(number: int) -> Response:
        if not 1 <= number <= len(server.examples):
            raise HTTPException(404, f"number: there are {len(server.examples)} example photos")
        return Response(server.examples[number - 1].photo, media_type="image/jpeg")

    @router.get(API_PAGE)
    async def api(request: Request) -> Response:
        return pages.api(request.app.openapi())

    return router


def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        "Not Found": f"there is nothing at this address; {API_PAGE} lists the addresses",
        "Method Not Allowed": f"this address does not take this method; {API_PAGE} lists both",
    }.get(error.detail, error.detail)
    return JSONResponse({"error": printable(message)}, error.status_code, error.headers)


def _refuse_parameters(_: Request, error: Exception) -> Response:
    """Answer like every other error, with a sentence instead of FastAPI's list."""
    assert isinstance(error, RequestValidationError)
    faults = [f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors()]
    return JSONResponse({"error": printable("; ".join(faults))}, 400)


def _gone(_: Request, __: Exception) -> Response:
    """Nobody reads this answer; without it, log and figures would show an error of the server."""
    return Response(status_code=CLIENT_LEFT)


def _described(openapi: Any) -> dict[str, Any]:
    """OpenAPI with the body of a search, which is read by hand to be limited."""
    schema: dict[str, Any] = openapi()
    body = {FORM: FormSearch, JSON: JsonSearch}
    schema["paths"]["/search"]["post"]["requestBody"] = {
        "required": True,
        "content": {
            kind: {"schema": {"$ref": f"{_SCHEMAS}{model.__name__}"}}
            for kind, model in body.items()
        },
    }
    for model in body.values():
        described = model.model_json_schema(ref_template=_SCHEMAS + "{model}")
        schema["components"]["schemas"][model.__name__] = described
    return schema
