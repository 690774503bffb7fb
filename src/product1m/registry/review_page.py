"""The reviewer's page of a server: the gate of every candidate, promote and reject.

It acts with the rights, the key and the tracking server of the process, through `acts`, as the
commands do. So it is for the reviewer's own machine: only loopback addresses are answered, and only
whoever opens the address with the secret that the process printed.
"""

import hmac
import logging
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated, Literal

from fastapi import APIRouter, Cookie, Depends, Header, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict

from product1m.errors import Product1MError
from product1m.evaluation.report.html import html_templates
from product1m.registry import acts
from product1m.registry.claims import read_standing
from product1m.registry.evidence import Champion
from product1m.registry.gate import Gate, decide
from product1m.registry.roles import ModelNames
from product1m.registry.rules import ReviewRules
from product1m.registry.signing import Signer
from product1m.registry.version_files import as_champion, read_evidence
from product1m.registry.versions import ModelVersion, list_versions
from product1m.storage.disk import explain

logger = logging.getLogger(__name__)

REVIEW = "/review"
COOKIE = "product1m_review"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine by which the page is answered; another one would be DNS rebinding."""
MAX_CANDIDATES = 5
"""Newest candidates on the page (ours)."""


@dataclass(frozen=True)
class Reviewer:
    """What a reviewer needs to act."""

    models: ModelNames
    rules: ReviewRules
    signer: Callable[[], Signer]
    """Asked at a promotion; it raises without a key."""
    promoted: Callable[[], bool]
    """Called after a promotion: serves the new champion here; whether it does."""
    show: Callable[[str], object]
    """Lets a candidate version, by its number, answer beside the champion."""


@dataclass(frozen=True)
class Reviewed:
    """A candidate with what the reviewer's rules say of it."""

    version: ModelVersion
    gate: Gate | None = None
    """None if it has no evidence: it was not fully registered."""
    objections: Mapping[acts.Objection, list[str]] = field(default_factory=dict)
    """What a promotion has to override."""


class Act(BaseModel):
    """What a reviewer does."""

    model_config = ConfigDict(extra="forbid")

    act: Literal["promote", "reject", "show"]
    version: str
    reason: str = ""
    overrides: list[acts.Objection] = []


class Desk:
    """Does one act at a time, and remembers how the last one ended."""

    def __init__(self, reviewer: Reviewer) -> None:
        self._reviewer = reviewer
        self._thread = ThreadPoolExecutor(1, "review")
        self._last: Future[str] | None = None
        self._gates: dict[tuple[str, str], Gate] = {}

    def candidates(self) -> list[Reviewed]:
        """The newest candidates under the reviewer's rules."""
        models = self._reviewer.models
        standing = read_standing(models)
        champion = as_champion(standing.recorded) if standing.recorded else None
        newest = list_versions(models.candidate, models)[:MAX_CANDIDATES]
        return [self._review(version, champion) for version in newest]

    def _review(self, version: ModelVersion, champion: Champion | None) -> Reviewed:
        evidence = read_evidence(version)
        if evidence is None:
            return Reviewed(version)
        known = (version.number, champion.version if champion else "")
        if known not in self._gates:  # its intervals take a second
            self._gates[known] = decide(self._reviewer.rules.apply(evidence), champion)
        gate = self._gates[known]
        return Reviewed(version, gate, acts.objections(version, evidence, gate))

    def begin(self, act: Act) -> None:
        """Start an act; HTTPException if another one runs."""
        if self._last and not self._last.done():
            raise HTTPException(409, "another act is running; wait until it ended")
        self._last = self._thread.submit(self._do, act)

    def state(self) -> dict[str, str]:
        """How the last act goes: `none`, `running`, `done` or `failed`, with a message."""
        if self._last is None:
            return {"state": "none", "message": ""}
        if not self._last.done():
            return {
                "state": "running",
                "message": "Checking, copying, signing and asking it takes a minute …",
            }
        try:
            return {"state": "done", "message": self._last.result()}
        except Product1MError as error:
            return {"state": "failed", "message": str(error)}
        except Exception as error:
            logger.exception("an act of the reviewer's page failed")
            explained = explain(error, [])
            message = str(explained or f"{type(error).__name__}; the server's log has more")
            return {"state": "failed", "message": message}

    def _do(self, act: Act) -> str:
        models = self._reviewer.models
        if act.act == "show":
            self._reviewer.show(act.version)
            return f"{models.candidate} version {act.version} answers beside the champion now"
        if act.act == "reject":
            return f"{acts.reject(act.version, act.reason, models).title} is rejected"
        signer = self._reviewer.signer()
        review = acts.Review(act.reason, self._reviewer.rules, signer, overrides=act.overrides)
        champion = acts.promote(act.version, models, review)
        is_served = self._reviewer.promoted()
        return f"{champion.title} is the champion" + (" and answers here now" if is_served else "")


class Guard:
    """Lets in whoever holds the secret of this process, from its own pages alone."""

    def __init__(self) -> None:
        self.secret = secrets.token_urlsafe(32)
        self.form_token = secrets.token_urlsafe(32)

    def check_host(self, request: Request) -> None:
        """HTTPException unless the page was asked by a name of this machine."""
        host = request.headers.get("host", "")
        name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        if name not in LOOPBACK:
            raise HTTPException(403, "reviews are answered at localhost alone")

    def check_reader(
        self, request: Request, product1m_review: Annotated[str, Cookie()] = ""
    ) -> None:
        """HTTPException unless the browser holds the secret."""
        self.check_host(request)
        if not _same(product1m_review, self.secret):
            raise HTTPException(403, "open the address that `product1m serve --review` printed")

    def check_form(
        self,
        request: Request,
        product1m_review: Annotated[str, Cookie()] = "",
        x_form_token: Annotated[str, Header()] = "",
        origin: Annotated[str, Header()] = "",
    ) -> None:
        """HTTPException unless a page of this server sent the request."""
        self.check_reader(request, product1m_review)
        own = f"{request.url.scheme}://{request.headers.get('host', '')}"
        if origin != own or not _same(x_form_token, self.form_token):
            raise HTTPException(403, "only the review page itself may do this; reload it")


class ReviewDesk:
    """The page's addresses, and the one that only whoever started the server knows."""

    def __init__(self, reviewer: Reviewer) -> None:
        self.guard = Guard()
        self.router = _router(reviewer, self.guard)

    @property
    def path(self) -> str:
        """Path of the page, with the secret that opens it."""
        return f"{REVIEW}?token={self.guard.secret}"


def _router(reviewer: Reviewer, guard: Guard) -> APIRouter:
    """The page's addresses."""
    router = APIRouter(prefix=REVIEW, include_in_schema=False)
    desk = Desk(reviewer)
    folder = resources.files("product1m.registry") / "templates"
    template = html_templates().from_string((folder / "review_page.html.jinja").read_text("utf-8"))

    @router.get("")
    def page(
        request: Request, token: str = "", product1m_review: Annotated[str, Cookie()] = ""
    ) -> Response:
        guard.check_host(request)
        if token and _same(token, guard.secret):
            entered = RedirectResponse(REVIEW, 303)
            entered.set_cookie(COOKIE, token, path=REVIEW, httponly=True, samesite="strict")
            return entered
        guard.check_reader(request, product1m_review)
        shown = template.render(
            candidates=desk.candidates(), models=reviewer.models, form_token=guard.form_token
        )
        return HTMLResponse(shown, headers={"Cache-Control": "no-store"})

    @router.post("/acts", status_code=202, dependencies=[Depends(guard.check_form)])
    def begin(act: Act) -> dict[str, str]:
        desk.begin(act)
        return desk.state()

    @router.get("/acts", dependencies=[Depends(guard.check_reader)])
    def state() -> dict[str, str]:
        return desk.state()

    return router


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
