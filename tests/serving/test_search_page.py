"""`product1m search`: what a person is shown."""

import io
import json
import re
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from product1m.artifacts.folder import open_artifact
from product1m.cli.app import app
from product1m.data.items import ItemTable
from product1m.errors import StorageError
from product1m.registry.versions import ModelVersion
from product1m.serving.search_page import read_photo, search
from product1m.serving.thumbnails import Thumbnails
from tests.support.servers.browser import CHROMIUM, browser
from tests.support.worlds.registered_model import MlflowStore
from tests.support.worlds.tiny_world import TinyArtifacts

pytestmark = [
    pytest.mark.usefixtures("store"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # mlflow warns about itself
]
UNSIGNED = "--allow-unsigned"
TITLE = "Lumi <rose> 玫瑰 cream"


@pytest.fixture(scope="module")
def photo(made: TinyArtifacts) -> Path:
    """A query of several products."""
    return made.root / "dataset" / "images" / "queries-2.jpg"


@pytest.fixture(scope="module")
def folder(registered: ModelVersion, mlflow_store: MlflowStore) -> Path:
    """The registered version's files."""
    with mlflow_store.active():
        return mlflow_store.files(registered)


def product1m(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["search", *arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_the_terminal_shows_every_box_with_its_answers(
    registered: ModelVersion, photo: Path, folder: Path
) -> None:
    uri = f"models:/{registered.model}/{registered.number}"
    shown = product1m(str(photo), "--title", TITLE, "--model", uri, "--top-k", "2")
    answered = search(read_photo(photo), TITLE, folder, "it", 2)
    assert len(answered.boxes) > 1
    for box in answered.boxes:
        for answer in box.answers:
            assert answer.score is not None
            assert re.search(
                rf"\b{answer.id}\b.*{re.escape(answer.label)}.*{answer.score:.2f}", shown
            )


def test_thumbnails_are_the_gallery_photos_made_small(made: TinyArtifacts, folder: Path) -> None:
    thumbnails = Thumbnails(folder / "artifacts" / "model" / "thumbnails")
    gallery = ItemTable(open_artifact(made.gallery, "ingestion", "gallery"))
    assert len(thumbnails) == len(gallery) == 8
    for place, item in enumerate(gallery.rows["id"]):
        jpeg = thumbnails.jpeg(item)
        assert jpeg is not None
        small = Image.open(io.BytesIO(jpeg)).convert("RGB")
        assert max(small.size) == 96
        whole = Image.fromarray(gallery.photo(place)).resize(small.size, Image.Resampling.BOX)
        pairs = zip(small.resize((8, 8)).tobytes(), whole.resize((8, 8)).tobytes(), strict=True)
        assert max(abs(a - b) for a, b in pairs) < 25
    assert thumbnails.jpeg("nothing") is None


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
def test_the_page_draws_the_boxes_and_requests_nothing(
    photo: Path, folder: Path, tmp_path: Path
) -> None:
    page_path = tmp_path / "answers.html"
    arguments = [
        str(photo),
        "--title",
        TITLE,
        "--model",
        str(folder),
        UNSIGNED,
        "--output",
        str(page_path),
    ]
    assert "boxes answered" in product1m(*arguments)
    answered = search(read_photo(photo), TITLE, folder, "it", 5)
    with browser() as page:
        page.open(page_path, 1100, 800)
        assert page.evaluate("document.querySelector('h1').textContent") == TITLE
        drawn = json.loads(
            page.evaluate(
                "JSON.stringify([...document.querySelectorAll('rect')].map(r =>"
                "['x','y','width','height'].map(a => +r.getAttribute(a))))"
            )
        )
        x1, y1, x2, y2 = answered.boxes[0].box_xyxy
        assert drawn[0] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
        assert len(drawn) == len(answered.boxes)
        widths = page.evaluate("[...document.images].map(i => i.naturalWidth).join()")
        assert widths.split(",") == ["96"] * (5 * len(answered.boxes))
        assert [address for address in page.requests if not address.startswith("data:")] == [
            page_path.as_uri()
        ]
        assert page.problems == []


def test_json_holds_every_answer(photo: Path, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.json"
    product1m(str(photo), "--title", TITLE, "--model", str(folder), UNSIGNED, "--output", str(path))
    written, answered = (
        json.loads(path.read_text("utf-8")),
        search(read_photo(photo), TITLE, folder, "it", 5),
    )
    assert written["title"] == TITLE
    assert [item["id"] for item in written["merged"]] == [item for item, _ in answered.merged]
    assert [box["box_xyxy"] for box in written["boxes"]] == [
        pytest.approx(box.box_xyxy) for box in answered.boxes
    ]
    for box, written_box in zip(answered.boxes, written["boxes"], strict=True):
        assert [(answer["id"], answer["label"]) for answer in written_box["answers"]] == [
            (answer.id, answer.label) for answer in box.answers
        ]


def test_without_thumbnails_answers_are_shown_by_name(
    photo: Path, folder: Path, tmp_path: Path
) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare")
    shutil.rmtree(bare / "artifacts" / "model" / "thumbnails")
    path = tmp_path / "answers.html"
    product1m(str(photo), "--title", TITLE, "--model", str(bare), UNSIGNED, "--output", str(path))
    text = path.read_text("utf-8")
    assert "no photo" in text
    assert re.search(r"no photo</span>Lumi \w+<br>gallery-\d", text)


def test_a_box_whose_answers_match_too_little_is_not_in_the_catalogue(
    photo: Path, folder: Path, tmp_path: Path
) -> None:
    strict = shutil.copytree(folder, tmp_path / "strict")
    serving = strict / "artifacts" / "model" / "serving.json"
    config = json.loads(serving.read_text("utf-8"))
    config["match_score"]["threshold"] = 1.0
    serving.write_text(json.dumps(config), "utf-8")
    answered = search(read_photo(photo), TITLE, strict, "it", 2)
    assert [box.in_catalogue for box in answered.boxes] == [False] * len(answered.boxes)
    arguments = [str(photo), "--title", TITLE, "--model", str(strict), UNSIGNED, "--output"]
    product1m(*arguments, str(tmp_path / "answers.html"))
    text = (tmp_path / "answers.html").read_text("utf-8")
    assert text.count("Probably not in the catalogue.") == len(answered.boxes)
    product1m(*arguments, str(tmp_path / "answers.json"))
    boxes = json.loads((tmp_path / "answers.json").read_text("utf-8"))["boxes"]
    assert [box["in_catalogue"] for box in boxes] == [False] * len(boxes)


def test_a_model_without_match_scores_gives_an_order_only(
    photo: Path, folder: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(folder, tmp_path / "old")
    serving = old / "artifacts" / "model" / "serving.json"
    config = json.loads(serving.read_text("utf-8"))
    del config["match_score"]
    serving.write_text(json.dumps(config), "utf-8")
    answered = search(read_photo(photo), TITLE, old, "it", 2)
    as_registered = search(read_photo(photo), TITLE, folder, "it", 2)
    assert answered.merged == as_registered.merged
    assert {answer.score for box in answered.boxes for answer in box.answers} == {None}
    assert {box.in_catalogue for box in answered.boxes} == {None}
    path = tmp_path / "answers.html"
    product1m(str(photo), "--title", TITLE, "--model", str(old), UNSIGNED, "--output", str(path))
    assert "match score" not in path.read_text("utf-8")


def test_a_photo_too_large_to_decode_is_named(tmp_path: Path) -> None:
    size = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", size), (b"IDAT", b""))
    ]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(StorageError, match=r"bomb\.png: not a photo that can be decoded \(Image"):
        read_photo(tmp_path / "bomb.png")


def test_a_models_folder_answers_without_any_registry(
    photo: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    assert "gallery-" in product1m(str(photo), "--title", TITLE, "--model", str(folder), UNSIGNED)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["{photo}", "--title", "x", "--output", "a.gif"],
            "a.gif: expected a file ending in .html or",
        ),
        (
            ["{photo}", "--title", "x", "--output", "a.png"],
            "use a.html for a page with photos, or a.",
        ),
        (["missing.jpg", "--title", "x"], "missing.jpg: no such file; expected a photo file"),
        ([__file__, "--title", "x"], "not a photo that can be decoded"),
        (["{photo}", "--title", " "], "title 0: empty"),
        (
            ["{photo}", "--title", "x", "--model", "models:/none@champion"],
            "none: no version 'champion'; it has no versions",
        ),
        (["/dev/zero", "--title", "x"], "a pipe, socket or device, not a file"),
        ([".", "--title", "x"], "expected a photo file"),
        (["{photo}", "--title", "x", "--model", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_answered_is_explained(
    photo: Path, folder: Path, arguments: list[str], message: str
) -> None:
    given = [argument.format(photo=photo) for argument in arguments]
    model = [] if "--model" in given else ["--model", str(folder), UNSIGNED]
    assert message in product1m(*given, *model, code=1)
