"""The reviewer's page of a server: the gate of every candidate, promote and reject.

It acts with the rights, the key and the tracking server of the process, through `acts`, as the
commands do. So it is for the reviewer's own machine: only loopback addresses are answered, and only
whoever opens the address with the secret that the process printed.
"""

import hmac
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Literal

from fastapi import APIRouter, Cookie, Depends, Header, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict

from product1m.errors import Product1MError
from product1m.evaluation.report.html import html_templates
from product1m.registry import acts
from product1m.registry.claims import read_standing
from product1m.registry.gate import Gate, decide
from product1m.registry.roles import ModelNames
from product1m.registry.rules import ReviewRules
from product1m.registry.signing import Signer
from product1m.registry.version_files import as_champion, read_evidence
from product1m.registry.versions import ModelVersion, list_versions

REVIEW = "/review"
TEMPLATE = resources.files("product1m.registry") / "templates" / "review_page.html.jinja"
COOKIE = "product1m_review"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine by which the page is answered; another one would be DNS rebinding."""
MAX_CANDIDATES = 5
"""Newest candidates on the page (ours)."""


@dataclass(frozen=True)
class Reviewer:
    """With what a reviewer acts."""

    models: ModelNames
    rules: ReviewRules
    signer: Callable[[], Signer]
    """Asked at a promotion; it raises without a key."""
    promoted: Callable[[], object]
    """Called after a promotion, to serve the new champion."""


@dataclass(frozen=True)
class Reviewed:
    """A candidate with what the reviewer's rules say of it."""

    version: ModelVersion
    gate: Gate | None
    """None if it has no evidence."""

    @property
    def objections(self) -> list[str]:
        """What a promotion has to override."""
        objections = {
            "sample": self.version.tags.get("sample_data") != "false",
            "gate": self.gate is None or bool(self.gate.failures()),
            "rejection": bool(self.version.rejection),
        }
        return [kind for kind, stands in objections.items() if stands]


class Act(BaseModel):
    """What a reviewer does."""

    model_config = ConfigDict(extra="forbid")

    act: Literal["promote", "reject"]
    version: str
    reason: str
    overrides: list[acts.Objection] = []


class Desk:
    """Does one act at a time, and remembers how the last one ended."""

    def __init__(self, reviewer: Reviewer) -> None:
        self._reviewer = reviewer
        self._thread = ThreadPoolExecutor(1, "review")
        self._last: Future[str] | None = None

    def candidates(self) -> list[Reviewed]:
        """The newest candidates under the reviewer's rules."""
        models = self._reviewer.models
        standing = read_standing(models)
        champion = as_champion(standing.recorded) if standing.recorded else None
        found = []
        for version in list_versions(models.candidate, models)[:MAX_CANDIDATES]:
            evidence = read_evidence(version)
            rules = self._reviewer.rules
            gate = decide(rules.apply(evidence), champion) if evidence else None
            found.append(Reviewed(version, gate))
        return found

    def begin(self, act: Act) -> None:
        """Start an act; HTTPException if another one runs."""
        if self._last and not self._last.done():
            raise HTTPException(409, "another act is running; wait until it ended")
        self._last = self._thread.submit(self._do, act)

    def state(self) -> dict[str, str]:
        """How the last act goes: `none`, `running`, `done` or `failed`, and what is to say."""
        if self._last is None:
            return {"state": "none", "message": ""}
        if not self._last.done():
            return {"state": "running", "message": "checking, copying and signing takes a minute"}
        try:
            return {"state": "done", "message": self._last.result()}
        except Product1MError as error:
            return {"state": "failed", "message": str(error)}

    def _do(self, act: Act) -> str:
        models = self._reviewer.models
        if act.act == "reject":
            rejected = acts.reject(act.version, act.reason, models)
            return f"{rejected.title} is rejected"
        signer = self._reviewer.signer()
        review = acts.Review(act.reason, self._reviewer.rules, signer, overrides=act.overrides)
        champion = acts.promote(act.version, models, review)
        self._reviewer.promoted()
        return f"{champion.title} is the champion and is served here now"


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


def review_router(reviewer: Reviewer, guard: Guard) -> APIRouter:
    """The page's addresses."""
    router = APIRouter(prefix=REVIEW, include_in_schema=False)
    desk = Desk(reviewer)
    text = (
        resources.files("product1m.registry") / "templates" / "review_page.html.jinja"
    ).read_text("utf-8")
    template = html_templates().from_string(text)

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
