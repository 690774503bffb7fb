"""A registered version: packaged, asked, described, in a real MLflow."""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from product1m.artifacts.folder import open_artifact
from product1m.artifacts.model_parts import STEP_OF
from product1m.config import RegistrationConfig
from product1m.data.items import ItemTable
from product1m.data.regions import FeatureSet
from product1m.errors import ArtifactError, RegistryError, TrackingError
from product1m.evaluation.examples import Example, agreement
from product1m.evaluation.statistics import Interval
from product1m.registry.versions import ModelVersion, list_versions, shorten
from product1m.retrieval.match_score import MatchScorer
from product1m.retrieval.search import Searcher, SearchSettings
from product1m.steps import registration
from product1m.telemetry.environment import environment_set
from product1m.telemetry.mlflow_client import registry_mlflow
from product1m.telemetry.provenance import git_revision
from tests.support.servers.browser import CHROMIUM, browser
from tests.support.worlds import tiny_chain
from tests.support.worlds.changed_manifests import rewrite_manifest
from tests.support.worlds.evaluation_files import read_json, read_list
from tests.support.worlds.registered_model import LENIENT, MlflowStore, run_registration
from tests.support.worlds.tiny_world import TinyArtifacts

pytestmark = [
    pytest.mark.usefixtures("store"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # mlflow warns about itself
]


@pytest.fixture(scope="module")
def model(registered: ModelVersion, mlflow_store: MlflowStore) -> Any:
    """The version loaded back."""
    with mlflow_store.active(), environment_set({"PRODUCT1M_ALLOW_UNSIGNED": "true"}):
        uri = f"models:/{registered.model}/{registered.number}"
        return registry_mlflow().pyfunc.load_model(uri)


@pytest.fixture(scope="module")
def test_queries(made: TinyArtifacts) -> pd.DataFrame:
    """Photo and title of every test query, by id."""
    table = ItemTable(open_artifact(made.queries, "ingestion", "queries"))
    rows = [
        {"id": row["id"], "photo": table.encoded(position), "title": row["caption"]}
        for position, row in enumerate(table.rows.to_dict("records"))
        if row["split"] == "test"
    ]
    return pd.DataFrame(rows).set_index("id")


def test_the_model_answers_as_the_evaluation_did(
    made: TinyArtifacts, model: Any, test_queries: pd.DataFrame
) -> None:
    """In this process; tests/serving/test_mlflow_model.py compares another one with this."""
    answers = model.predict(test_queries, params={"top_k": 20}).to_dict("records")

    done = open_artifact(made.evaluation, "evaluation")
    evaluated = read_list(done)
    searcher = Searcher.load(
        open_artifact(made.index, "indexing"),
        open_artifact(made.capture, "capture_pretraining"),
        SearchSettings.from_config(tiny_chain.CONFIG.evaluation),
    )
    features = FeatureSet(open_artifact(made.queries_features, "feature_extraction", "queries"))
    row_of = {query: row for row, query in enumerate(features.rows["id"])}
    weights = read_json(done, "metrics.json")["fusion"]
    scorer = MatchScorer.model_validate(read_json(done, "match_score.json"))
    num_instances = 0
    for (query, asked), answer in zip(test_queries.iterrows(), answers, strict=True):
        assert answer["ids"] == evaluated[str(query)]
        regions = features.regions(row_of[query])
        expected = searcher.search(asked["title"], regions, weights, scorer=scorer)
        assert expected.match_scores is not None
        assert expected.in_catalogue is not None
        assert len(answer["instances"]) == len(expected.boxes)
        for place, instance in enumerate(answer["instances"]):
            ranking = expected.rankings[place]
            assert instance["ids"] == [item for item, _ in ranking]
            scores = expected.match_scores[place]
            assert instance["match_scores"] == pytest.approx(scores, abs=2e-3)
            assert instance["in_catalogue"] is expected.in_catalogue[place]
            assert instance["box_xyxy"] == pytest.approx(
                expected.boxes.boxes_xyxy[place].tolist(), abs=0.1
            )
            num_instances += 1
    assert num_instances > len(answers)  # several products in a photo were distinguished


def test_the_labels_are_the_gallery_items_own(
    made: TinyArtifacts, model: Any, test_queries: pd.DataFrame
) -> None:
    gallery = ItemTable(open_artifact(made.gallery, "ingestion", "gallery")).rows
    label_of = {row["id"]: row["labels"][0] for _, row in gallery.iterrows()}
    answers = model.predict(test_queries.head(3), params={"top_k": 4})
    assert list(answers.index) == list(test_queries.index[:3])
    for _, answer in answers.iterrows():
        assert len(answer["ids"]) == 4
        for ranked in (answer, *answer["instances"]):
            assert ranked["labels"] == [label_of[item] for item in ranked["ids"]]


def test_bytes_base64_and_another_size_of_photo_are_understood(
    model: Any, test_queries: pd.DataFrame
) -> None:
    query = test_queries.iloc[0]
    as_text = base64.b64encode(query["photo"]).decode()
    large = io.BytesIO()
    photo = Image.open(io.BytesIO(query["photo"]))
    photo.resize((photo.width * 10, photo.height * 10)).save(large, "PNG")
    asked = pd.DataFrame(
        {"photo": [query["photo"], as_text, large.getvalue()], "title": [query["title"]] * 3}
    )
    plain, text, enlarged = (answer for _, answer in model.predict(asked).iterrows())
    assert text["ids"] == plain["ids"]
    assert text["instances"] == plain["instances"]
    # Boxes are pixels of the photo that was asked with, not of the one it was shrunk to.
    right = max(instance["box_xyxy"][2] for instance in enlarged["instances"])
    assert photo.width < right <= photo.width * 10 + 1


def test_the_input_example_runs(model: Any) -> None:
    answers = model.predict(model.input_example)
    assert len(answers) == 1
    assert len(answers["ids"][0]) == 8  # the whole gallery, fewer than the default ten


@pytest.mark.parametrize(
    ("photo", "title", "message"),
    [
        (b"", "cream", "photo 1: the file is empty"),
        (b"no photo at all", "cream", "photo 1: not a photo that can be decoded"),
        ("photo.jpg", "cream", "photo 1: text that is not base64"),
        (17, "cream", "photo 1: expected a photo file's bytes or their base64 as text, got int"),
        (None, " &nbsp; ", "title 1: empty"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(
    model: Any, test_queries: pd.DataFrame, photo: object, title: str, message: str
) -> None:
    mlflow = registry_mlflow()
    good = test_queries.iloc[0]
    photos = [good["photo"], good["photo"] if photo is None else photo]
    asked = pd.DataFrame({"photo": pd.Series(photos, dtype=object), "title": ["cream", title]})
    with pytest.raises(mlflow.exceptions.MlflowException, match=message) as refused:
        model.predict(asked)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"


def test_a_ranking_has_at_least_one_place(model: Any, test_queries: pd.DataFrame) -> None:
    mlflow = registry_mlflow()
    with pytest.raises(mlflow.exceptions.MlflowException, match="top_k: expected 1 or more, got 0"):
        model.predict(test_queries.head(1), params={"top_k": 0})


def test_the_description_holds_what_a_reviewer_needs(
    made: TinyArtifacts, registered: ModelVersion
) -> None:
    card = registered.description.replace("\u00a0", " ")
    card = re.sub(r" +", " ", card)
    assert len(registered.description) <= 5000
    assert card.startswith("**Gate: PASSED** (no champion to compare with)")
    metrics = json.loads((made.evaluation / "metrics.json").read_text("utf-8"))
    shipped = metrics["intervals"]["shipped"]
    figures = f"{shipped['mean']:.3f} [{shipped['low']:.3f}, {shipped['high']:.3f}]"
    assert f"| **shipped: all blocks fused, weights from dev** | {figures} | " in card
    for folder, step in STEP_OF.items():
        if folder != "thumbnails":
            digest = open_artifact(made.root / folder, step).digest
            assert f"| {step} | `{digest[:12]}` | no container |" in card
    rpn = open_artifact(made.rpn, "rpn_training").manifest.metrics["recall@0.5/36"]
    assert f"recall@0.5 of 36 proposals {rpn:.3f} (the 36 most usual places " in card
    lost = Interval(**metrics["match_score"]["lost"])
    error = metrics["match_score"]["calibration_error"]
    assert f"{lost} of the boxes whose product is in it; calibration error " in card
    assert f"of match scores {error:.3f}." in card
    assert "8 items, Flat, " in card
    assert "product1m registry rollback" in card
    assert f"product1m registry promote --version {registered.number} " in card


def test_the_version_carries_signature_metrics_digests_and_pinned_requirements(
    made: TinyArtifacts, registered: ModelVersion, tmp_path: Path
) -> None:
    mlflow = registry_mlflow()
    assert "challenger" in registered.aliases
    assert registered.tags["gate"] == "passed"
    assert registered.tags["sample_data"] == "false"
    assert registered.tags["git_revision"]
    uri = f"models:/{registered.model}/{registered.number}"
    info = mlflow.models.get_model_info(uri)
    assert [column.name for column in info.signature.inputs] == ["photo", "title"]
    source = mlflow.MlflowClient().get_model_version(registered.model, registered.number).source
    logged = mlflow.get_logged_model(source.removeprefix("models:/"))
    metrics = {metric.key: metric.value for metric in logged.metrics}
    trained = open_artifact(made.capture, "capture_pretraining").manifest.metrics
    for name, value in trained.items():
        assert metrics[f"capture_pretraining/{name.replace('@', '_at_')}"] == pytest.approx(value)
    assert metrics["ingestion/queries/items"] == 18
    files = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))
    digests = json.loads((files / "digests.json").read_text("utf-8"))
    for part in ("train", "gallery", "queries"):
        artifact = open_artifact(made.root / part, "ingestion", part)
        assert digests[f"ingestion/{part}"] == artifact.digest
    assert len([tag for tag in registered.tags if tag.startswith("digest.")]) == 2
    required = (files / "requirements.txt").read_text("utf-8").splitlines()
    assert any(line.startswith("product1m==") for line in required)
    assert any(line.startswith("torch==") for line in required)
    assert all("==" in line and "+" not in line for line in required)
    assert not list(files.rglob("*.pkl"))


def test_a_model_of_other_parts_is_refused_with_both_digests(
    made: TinyArtifacts, tmp_path: Path
) -> None:
    foreign = shutil.copytree(made.index, tmp_path / "index")
    rewrite_manifest(foreign, lambda values: values["inputs"].update(capture="another-digest"))
    inputs = (made.rpn, made.capture, foreign, made.evaluation, made.queries, made.gallery)
    with pytest.raises(ArtifactError, match=r"CAPTURE of digest another-digest, but .* has digest"):
        registration.run(*inputs, tmp_path / "out", RegistrationConfig(candidate_model="foreign"))
    assert list_versions("foreign") == []


def test_a_damaged_file_is_named_and_nothing_is_registered(
    made: TinyArtifacts, tmp_path: Path
) -> None:
    damaged = shutil.copytree(made.capture, tmp_path / "capture")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    inputs = (made.rpn, damaged, made.index, made.evaluation, made.queries, made.gallery)
    with pytest.raises(ArtifactError, match=r"model\.safetensors: damaged: expected sha256"):
        registration.run(*inputs, tmp_path / "out", RegistrationConfig(candidate_model="damaged"))
    assert list_versions("damaged") == []
    assert not (tmp_path / "out").exists()


def test_whoever_starts_the_step_again_gets_its_version_and_no_second_one(
    made: TinyArtifacts, tmp_path: Path
) -> None:
    names = {"candidate_model": "started-again"}
    config = LENIENT.model_copy(update=names)

    first = run_registration(made, tmp_path / "out", config)
    again = run_registration(made, tmp_path / "out", config)
    changed = config.model_copy(update={"thumbnail_side_px": 48})
    other = run_registration(made, tmp_path / "out", changed)

    assert (first.number, again.number, other.number) == ("1", "1", "2")
    assert len(list_versions("started-again")) == 2


def test_without_a_registry_the_step_says_what_to_set(
    made: TinyArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(RegistryError, match="MLFLOW_TRACKING_URI is not set; set it to the server"):
        run_registration(made, tmp_path / "out", LENIENT)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"MLflow, http://127\.0\.0\.1:1: "):
        run_registration(made, tmp_path / "out", LENIENT)
    assert not (tmp_path / "out").exists()


def test_agreement_is_the_share_of_two_first_tens() -> None:
    examples = [Example("a", b"", "", list("abcdefghijkl")), Example("b", b"", "", ["x", "y"])]
    # Nine of ten, in another order and beyond the tenth place or not; then one of two.
    found = [[*"jihgfedcbz", "a"], ["y", "z", "w"]]
    assert agreement(found, examples) == pytest.approx((0.9 + 0.5) / 2)


def test_a_card_that_is_too_long_ends_at_a_line_and_says_where_the_rest_is() -> None:
    card = "\n".join(f"line {number}" for number in range(900))
    short = shorten(card)
    assert len(short) <= 5000
    kept, _, note = short.partition("\n\n")
    assert kept.splitlines() == card.splitlines()[: len(kept.splitlines())]
    assert "model_card.md" in note
    assert shorten("short") == "short"


def test_the_revision_is_the_checkouts_unless_named_and_unknown_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRODUCT1M_GIT_REVISION", "0123abc")
    assert git_revision() == "0123abc"
    monkeypatch.delenv("PRODUCT1M_GIT_REVISION")
    repository = tmp_path / "repository"
    package = repository / "product1m"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr("product1m.__file__", str(package / "__init__.py"))

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(repository), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_revision() == "unknown"
    git("init")
    assert git_revision() == "unknown"  # inside a repository, but not part of it
    git("add", ".")
    git("commit", "-m", "first")
    assert git_revision() == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("changed = True\n")
    assert git_revision() == git("rev-parse", "HEAD") + "+changes"


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
def test_the_reviewers_page_shows_pictures_and_asks_for_nothing(
    registered: ModelVersion, mlflow_store: MlflowStore, tmp_path: Path
) -> None:
    path = mlflow_store.files(registered) / "reviewer.html"
    linked = r"\[reviewer\.html\]\(#/experiments/\d+/runs/(\w+)/artifacts/([\w./]+)\)"
    found = re.search(linked, registered.description)
    assert found
    opened = registry_mlflow().artifacts.download_artifacts(
        run_id=found[1], artifact_path=found[2], dst_path=str(tmp_path)
    )
    assert Path(opened).read_bytes() == path.read_bytes()
    with browser() as page:
        page.open(path, 1200, 900)
        assert page.evaluate("document.querySelectorAll('.case').length") == 10
        assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
        digests = page.evaluate(
            "[...document.querySelectorAll('td code')].map(c=>c.textContent)+''"
        )
        listed = (mlflow_store.files(registered) / "digests.json").read_text("utf-8")
        assert json.loads(listed)["evaluation"] in digests
        sent = [address for address in page.requests if not address.startswith("data:")]
        assert sent == [path.as_uri()]
        assert page.problems == []
