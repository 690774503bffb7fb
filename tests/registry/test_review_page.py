"""The reviewer's page: who may use it, and that it acts as the commands do."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from product1m.registry.review_page import Guard, ReviewDesk, Reviewer
from product1m.registry.rules import read_rules
from product1m.registry.signing import signer_of_environment
from product1m.registry.versions import ModelVersion, show
from product1m.serving.web.app import STATIC
from tests.support.servers.asgi_server import listening
from tests.support.servers.browser import CHROMIUM, browser
from tests.support.worlds.registered_model import (
    LENIENT,
    MlflowStore,
    models_of,
    register_changed_copy,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # mlflow warns about itself
MAX_WAIT_S = 60
NAMES = {"candidate_model": "reviewed-candidate", "champion_model": "reviewed"}
MODELS = models_of(LENIENT.model_copy(update=NAMES))


@dataclass(frozen=True)
class Site:
    url: str
    guard: Guard
    headers: dict[str, str]
    """Of the review page itself."""
    shown: list[str]
    """Versions that were tried on photos."""

    def act(self, **changes: Any) -> requests.Response:
        act = {"act": "reject", "version": "1", "reason": "worse on gift sets"} | changes
        return self.send(act, self.headers)

    def send(self, act: dict[str, Any], headers: dict[str, str]) -> requests.Response:
        return requests.post(f"{self.url}/acts", json=act, headers=headers, timeout=MAX_WAIT_S)

    def ended(self) -> dict[str, str]:
        cookie = {"cookie": self.headers["cookie"]}
        state = {"state": "running"}
        while state["state"] == "running":
            answer = requests.get(f"{self.url}/acts", headers=cookie, timeout=MAX_WAIT_S)
            state = answer.json()
        return state


@pytest.fixture(scope="module")
def version(registered: ModelVersion, mlflow_store: MlflowStore) -> Iterator[ModelVersion]:
    """A candidate of its own model."""
    with mlflow_store.active():
        yield register_changed_copy(mlflow_store, registered, MODELS.candidate, {})


@pytest.fixture(scope="module")
def site(version: ModelVersion) -> Iterator[Site]:
    """The page with the rules of this installation."""
    shown: list[str] = []
    reviewer = Reviewer(MODELS, read_rules(""), signer_of_environment, lambda: False, shown.append)
    desk = ReviewDesk(reviewer)
    guard = desk.guard
    app = FastAPI()
    app.include_router(desk.router)
    app.mount("/static", StaticFiles(directory=STATIC))
    with listening(app) as port:
        url = f"http://localhost:{port}"
        headers = {
            "cookie": f"product1m_review={guard.secret}",
            "origin": url,
            "x-form-token": guard.form_token,
        }
        yield Site(f"{url}/review", guard, headers, shown)


@pytest.mark.parametrize(
    "changes",
    [
        {"cookie": "product1m_review=guessed"},
        {"x-form-token": "guessed"},
        {"origin": "http://attacker.example"},
        {"origin": ""},
        {"host": "attacker.example"},
    ],
)
def test_nobody_else_acts(site: Site, changes: dict[str, str]) -> None:
    act = {"act": "reject", "version": "1", "reason": "mine"}
    assert site.send(act, site.headers | changes).status_code == 403
    assert not show(MODELS.candidate, "1", MODELS).rejection


def test_the_page_needs_the_address_that_was_printed(site: Site) -> None:
    assert requests.get(site.url, timeout=MAX_WAIT_S).status_code == 403
    wrong = requests.get(f"{site.url}?token=x", timeout=MAX_WAIT_S)
    assert wrong.status_code == 403
    entered = requests.get(
        f"{site.url}?token={site.guard.secret}", timeout=MAX_WAIT_S, allow_redirects=False
    )
    assert (entered.status_code, entered.headers["location"]) == (303, "/review")
    assert "HttpOnly" in entered.headers["set-cookie"]
    assert "SameSite=strict" in entered.headers["set-cookie"]


def test_a_promotion_is_refused_as_the_command_refuses_it(site: Site) -> None:
    assert site.act(act="promote", reason="good").status_code == 202
    ended = site.ended()
    assert ended["state"] == "failed"
    assert "reviewed-candidate version 1" in ended["message"]
    assert site.act(reason=" ").status_code == 202
    assert "a reason is needed" in site.ended()["message"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
def test_a_candidate_is_rejected_with_a_reason(site: Site) -> None:
    with browser() as page:
        page.open(f"{site.url}?token={site.guard.secret}", 390, 800, "dark")
        rules = page.evaluate("[...document.querySelectorAll('tbody th')].map(c => c.textContent)")
        assert "strict mAP@10" in " ".join(rules)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.click("[data-act=reject]")
        page.fill("#reason", "worse on gift sets")
        page.click("dialog [value=go]")
        page.wait_for("#status:text('is rejected')")
        page.wait_for(".mark strong:text('Rejected')")
        assert page.problems == []
        assert all(address.startswith(site.url[:-7]) for address in page.requests)
    rejection = show(MODELS.candidate, "1", MODELS).rejection
    assert rejection["reason"] == "worse on gift sets"


@pytest.mark.usefixtures("asked_here")
def test_what_is_overridden_is_promoted_and_recorded(site: Site) -> None:
    acts = {"act": "promote", "reason": "for the test", "overrides": ["gate", "rejection"]}
    assert site.act(**acts).status_code == 202
    ended = site.ended()
    assert ended["state"] == "done", ended
    assert ended["message"].startswith(f"{MODELS.champion} version 1 is the champion")
    champion = show(MODELS.champion, "champion")
    assert champion.tags["reason"] == "for the test"
    assert "worse on gift sets" in champion.tags["override_rejection"]
    site.act(act="show", reason="")
    assert (
        site.ended()["message"] == f"{MODELS.candidate} version 1 answers beside the champion now"
    )
    assert site.shown == ["1"]
