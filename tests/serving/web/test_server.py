"""`product1m serve`: a real process, asked over HTTP."""

import base64
import io
import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from product1m.cli.app import app
from product1m.data.encoding import num_scans
from product1m.registry.versions import ModelVersion
from product1m.serving.search_page import read_photo, search
from product1m.serving.web.schema import SearchAnswer
from tests.support.servers.browser import CHROMIUM, browser
from tests.support.servers.search_server import MAX_WAIT_S, SearchServer, running_search_server
from tests.support.worlds.registered_model import MlflowStore
from tests.support.worlds.tiny_world import TinyArtifacts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # mlflow warns about itself
PATIENT = ("--set", "serving.deadline_s=600")
"""No test fails because the machine has other work."""
TITLE = "Lumi <rose> 玫瑰 cream"


@pytest.fixture(scope="module")
def photo(made: TinyArtifacts) -> bytes:
    """A query of several products."""
    return (made.root / "dataset" / "images" / "queries-2.jpg").read_bytes()


@pytest.fixture(scope="module")
def folder(registered: ModelVersion, mlflow_store: MlflowStore) -> Path:
    """The registered version's files."""
    with mlflow_store.active():
        return mlflow_store.files(registered)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps queries."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def server(folder: Path, kept: Path) -> Iterator[SearchServer]:
    """A server of the tiny model, twice."""
    settings = [*PATIENT, "--set", f"serving.keep_queries={kept}", "--set=serving.max_answers=7"]
    models = ["--model", str(folder), "--candidate", str(folder), "--allow-unsigned"]
    with running_search_server(*models, *settings) as running:
        yield running


@pytest.fixture(scope="module")
def expected(folder: Path, photo: bytes, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `product1m search` answers to the photo."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    path.write_bytes(photo)
    return search(read_photo(path), TITLE, folder, "it", 5)


def ask(server: SearchServer, photo: bytes, **fields: Any) -> requests.Response:
    return server.post("/search", files={"photo": photo}, data={"title": TITLE, **fields})


def assert_same(answer: Any, expected: Any) -> None:
    SearchAnswer.model_validate(answer)
    assert [item["id"] for item in answer["merged"]] == [item for item, _ in expected.merged]
    assert len(answer["boxes"]) == len(expected.boxes) > 1
    for box, wanted in zip(answer["boxes"], expected.boxes, strict=True):
        assert box["box_xyxy"] == pytest.approx(wanted.box_xyxy, abs=0.01)
        assert [card["id"] for card in box["answers"]] == [card.id for card in wanted.answers]
        assert [card["match_score"] for card in box["answers"]] == pytest.approx(
            [card.score for card in wanted.answers], abs=1e-4
        )


def test_a_form_is_answered_as_search_answers(
    server: SearchServer, photo: bytes, expected: Any
) -> None:
    response = ask(server, photo)
    assert response.status_code == 200, response.text
    assert_same(response.json(), expected)
    assert (response.json()["width"], response.json()["height"]) == Image.open(
        io.BytesIO(photo)
    ).size


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
def test_json_with_base64_in_lines_is_answered_alike(
    server: SearchServer, photo: bytes, expected: Any, prefix: str
) -> None:
    encoded = prefix + base64.encodebytes(photo).decode()
    response = server.post("/search", json={"photo": encoded, "title": TITLE, "model": "candidate"})
    assert_same(response.json(), expected)
    assert response.json()["model"]["role"] == "candidate"


def test_an_upload_above_a_mebibyte_is_answered(
    server: SearchServer, photo: bytes, expected: Any
) -> None:
    large = io.BytesIO()
    Image.open(io.BytesIO(photo)).resize((2400, 800)).save(large, "BMP")
    assert len(large.getvalue()) > 5 << 20
    answer = ask(server, large.getvalue(), title="").json()
    assert (answer["title"], answer["width"]) == ("", 2400)
    assert answer["boxes"]
    assert max(box["box_xyxy"][2] for box in answer["boxes"]) > 480


def test_an_answer_has_a_picture_and_a_model_its_digests(
    server: SearchServer, photo: bytes, folder: Path
) -> None:
    answer = ask(server, photo, top_k=1).json()
    assert {len(box["answers"]) for box in answer["boxes"]} == {1}
    picture = server.get(answer["boxes"][0]["answers"][0]["picture"])
    assert max(Image.open(io.BytesIO(picture.content)).size) == 96
    assert server.get("/picture?item=nothing").status_code == 404
    manifest = json.loads((folder / "artifacts/model/index/manifest.json").read_text())
    assert answer["model"]["catalogue_digest"] == manifest["digest"]
    (champion, candidate) = server.get("/models").json()
    assert champion == answer["model"]
    assert candidate == champion | {"role": "candidate"}
    assert not champion["is_signed"]


def test_figures_are_those_of_what_was_asked(server: SearchServer, photo: bytes) -> None:
    before = figures(server)
    answer = ask(server, photo).json()
    ask(server, b"no photo")
    after = figures(server)
    gained = {name: value - before.get(name, 0) for name, value in after.items()}
    assert gained['product1m_search_seconds_count{model="champion"}'] == 1
    assert gained['product1m_boxes_per_photo_sum{model="champion"}'] == len(answer["boxes"])
    assert gained['product1m_requests_total{path="/search",status="400"}'] == 1
    assert after["product1m_photos_waiting"] == 0
    (served,) = [
        name for name in after if name.startswith("product1m_served") and "champion" in name
    ]
    assert f'catalogue_digest="{answer["model"]["catalogue_digest"]}"' in served
    assert f'model_digest="{answer["model"]["model_digest"]}"' in served


def figures(server: SearchServer) -> dict[str, float]:
    lines = server.get("/metrics").text.splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def many_scans() -> bytes:
    """A progressive JPEG with its scans repeated until nobody would decode them all."""
    encoded = io.BytesIO()
    Image.new("RGB", (64, 64)).save(encoded, "JPEG", progressive=True)
    scans = encoded.getvalue()
    start = scans.index(b"\xff\xda")
    while num_scans(scans, 10_000) < 10_000:
        scans = scans[:start] + scans[start:-2] * 2 + scans[-2:]
    return scans


@pytest.mark.parametrize(
    ("fields", "content", "status", "message"),
    [
        ({}, b"", 400, "photo: the file is empty"),
        ({}, b"text", 400, "photo: not a photo that can be decoded (cannot identify image file)"),
        ({}, many_scans, 400, "scans"),
        ({}, b"\0" * (40 << 20), 413, "bytes, more than"),
        ({}, b"\0" * (60 << 20), 413, "more than"),
        ({"title": "x" * 9_000}, b"x", 400, "title: 9000 characters, more than"),
        ({"title": "x" * 100_000}, b"x", 400, "exceeded maximum size"),
        ({"top_k": "8"}, b"x", 400, "top_k: at most 7"),
        ({"top_k": "0"}, b"x", 400, "top_k: Input should be greater than or equal to 1"),
        ({"model": "other"}, b"x", 400, "model: Input should be 'champion' or 'candidate'"),
        ({"foto": "x"}, b"x", 400, "foto: unknown; expected photo, title, top_k, model"),
    ],
)
def test_a_form_that_cannot_be_answered_is_explained(
    server: SearchServer, fields: dict[str, str], content: Any, status: int, message: str
) -> None:
    response = ask(server, content() if callable(content) else content, **fields)
    assert response.status_code == status, response.text
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"{", "application/json", 400, "body: not JSON"),
        (b"[" * 100_000, "application/json", 400, "inside each other"),
        (b"\xff", "application/json", 400, "body: not JSON in UTF-8"),
        (b'{"title": "x"}', "application/json", 400, "photo: missing"),
        (b'{"photo": "!!"}', "application/json", 400, "photo: text that is not base64"),
        (b'{"photo": 3}', "application/json", 400, "photo: Input should be a valid string, got '3"),
        (b'{"photo": "", "title": "\\ud83d"}', "application/json", 400, "title: half a surrogate"),
        (b'{"photo": "", "\\ud83d": 1}', "application/json", 400, "got '\\ud83d'"),
        (b"photo", "text/plain", 415, "expected multipart/form-data or application/json, got text"),
        (b"x", "multipart/form-data", 400, "boundary"),
    ],
)
def test_a_body_that_cannot_be_answered_is_explained(
    server: SearchServer, body: bytes, kind: str, status: int, message: str
) -> None:
    response = server.post("/search", data=body, headers={"content-type": kind})
    assert response.status_code == status, response.text
    assert message in response.json()["error"]


def test_a_parameter_that_is_wrong_is_explained_as_every_other_error(server: SearchServer) -> None:
    for address, message in (("/picture", "item: Field required"), ("/examples/x", "number: ")):
        response = server.get(address)
        assert response.status_code == 400, address
        assert message in response.json()["error"]
    for missing in (server.get("/nowhere"), server.get("/search")):
        assert missing.status_code in (404, 405)
        assert "/docs lists" in missing.json()["error"]


def test_a_client_that_leaves_in_the_middle_is_no_error_of_the_server(
    server: SearchServer,
) -> None:
    left = 'product1m_requests_total{path="/search",status="499"}'
    before = figures(server).get(left, 0)
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), MAX_WAIT_S) as connection:
        connection.sendall(head + b"Content-Length: 10\r\n\r\n{")
    while figures(server).get(left, 0) == before:
        pass
    assert not any("Traceback" in json.dumps(line) for line in server.lines)


def test_the_schema_describes_both_ways_to_ask_and_loads_nothing(server: SearchServer) -> None:
    schema = server.get("/openapi.json").json()
    body = schema["paths"]["/search"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/json"}
    assert set(schema["components"]["schemas"]["JsonSearch"]["properties"]) == {
        "photo",
        "title",
        "top_k",
        "model",
    }
    page = server.get("/docs")
    assert "JsonSearch" in page.text
    assert "//" not in page.text.replace("<!doctype", "").replace("http://www.w3.org", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_description_that_lacks_a_key_is_noticed() -> None:
    with pytest.raises(ValidationError):
        SearchAnswer.model_validate({"title": "x"})


def test_photos_are_kept_as_configured_and_never_logged(
    server: SearchServer, photo: bytes, kept: Path
) -> None:
    answer = ask(server, photo, title="kept title").json()
    (text,) = [path for path in kept.glob("*.json") if json.loads(path.read_text()) == answer]
    assert text.with_suffix(".photo").read_bytes() == photo
    assert server.get("/readyz").json() == {"status": "ready"}
    logged = json.dumps(server.lines, ensure_ascii=False)
    assert "kept title" not in logged
    assert TITLE not in logged


def test_a_photo_that_cannot_be_kept_is_answered_all_the_same(
    server: SearchServer, photo: bytes, kept: Path
) -> None:
    before = {path: path.read_bytes() for path in kept.iterdir()}
    shutil.rmtree(kept)
    kept.write_text("in the way")
    try:
        answer = ask(server, photo)
    finally:
        kept.unlink()
        kept.mkdir()
        for path, content in before.items():
            path.write_bytes(content)
    assert answer.status_code == 200
    assert answer.json()["boxes"]
    while not any("a query was not kept" in line.get("message", "") for line in server.lines):
        time.sleep(0.01)  # its log is read by a thread


def test_an_address_in_use_is_refused_before_a_model_is_looked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = CliRunner().invoke(app, ["serve", "--model", "nothing", "--port", str(port)])
    assert ended.exit_code == 1
    assert f"cannot listen at 127.0.0.1, port {port} (" in ended.stderr
    assert "choose another --port" in ended.stderr


def test_a_request_in_flight_is_answered_after_the_server_was_told_to_end(
    folder: Path, photo: bytes
) -> None:
    with running_search_server("--model", str(folder), "--allow-unsigned", *PATIENT) as server:
        host, port = server.url.removeprefix("http://").split(":")
        body = json.dumps({"photo": base64.b64encode(photo).decode(), "title": "x"}).encode()
        head = "POST /search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        with socket.create_connection((host, int(port)), MAX_WAIT_S) as connection:
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:-9])
            assert server.get("/healthz").json() == {"status": "ok"}
            server.process.terminate()
            while server.is_listening():
                pass
            connection.sendall(body[-9:])
            with connection.makefile("rb") as answer:
                text = answer.read()
        assert text.startswith(b"HTTP/1.1 200")
        assert b'"boxes"' in text
        assert server.process.wait(MAX_WAIT_S) == 0


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
@pytest.mark.parametrize("width_px", [1100, 390])
def test_the_page_shows_boxes_and_answers_of_both_models(
    server: SearchServer, photo: bytes, expected: Any, tmp_path: Path, width_px: int
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    with browser() as page:
        page.open(f"{server.url}/", width_px, 800, "dark")
        page.click("button[type=submit]")
        page.wait_for("#status:text('Choose a photo first')")
        page.choose("#photo", path)
        page.fill("#title", TITLE)
        page.press("Enter")
        page.wait_for("[data-role=candidate] article")
        for role in ("champion", "candidate"):
            shown = page.evaluate(
                f"[...document.querySelectorAll('[data-role={role}] rect')].map(r =>"
                "['x','y','width','height'].map(a => +r.getAttribute(a)))"
            )
            wanted = [box.box_xyxy for box in expected.boxes]
            assert shown == [
                pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.01) for x1, y1, x2, y2 in wanted
            ]
            texts = page.evaluate(
                f"[...document.querySelectorAll('[data-role={role}] li')].map(c => c.textContent)"
            )
            ids = [card.id for box in expected.boxes for card in box.answers]
            assert all(item in text for item, text in zip(ids, texts, strict=True))
        assert page.evaluate("document.activeElement.id") == "answers"
        assert page.evaluate("document.documentElement.scrollWidth") <= width_px
        assert page.problems == []
        own = (server.url, f"blob:{server.url}")
        assert [address for address in page.requests if not address.startswith(own)] == []
