"""What each identity tries, at a real MLflow server with the documented roles.

Payloads are harmless: they write a file, and the file is looked for.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import requests
from typer.testing import CliRunner

from product1m.cli.app import app
from product1m.errors import RegistryError
from product1m.registry import acts
from product1m.registry.access import call_auth_api
from product1m.registry.loading import fetch_model
from product1m.registry.roles import PIPELINE, REVIEWER, ModelNames
from product1m.registry.versions import ModelVersion, list_versions, show
from product1m.serving.signatures import Trust
from product1m.storage.base import sha256_of
from product1m.telemetry.mlflow_client import download, registry_mlflow
from tests.support.servers.mlflow_roles import OUTSIDER
from tests.support.servers.mlflow_server import PASSWORDS, Server
from tests.support.worlds.registered_model import (
    LENIENT,
    models_of,
    promote,
    rollback,
    run_registration,
)
from tests.support.worlds.tiny_world import TinyArtifacts

pytestmark = [
    pytest.mark.usefixtures("asked_here"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # mlflow warns about itself
]
MODELS = models_of(LENIENT)
CHAMPION = "models:/product1m@champion"


@pytest.fixture(scope="module")
def champion(server: Server, candidate: ModelVersion) -> ModelVersion:
    """Promoted by the reviewer."""
    with server.as_user(REVIEWER):
        return promote(candidate.number, MODELS)


def stored(server: Server, version: ModelVersion) -> Path:
    """Where the server keeps a version's files."""
    (folder,) = server.folder.rglob(version.model_id)
    return folder / "artifacts"


def put(server: Server, user: str, version: ModelVersion, name: str, content: bytes) -> int:
    """Status of an upload over a version's file, through the server's artifact proxy."""
    with server.as_user("admin"):
        location = registry_mlflow().get_logged_model(version.model_id).artifact_location
    path = location.removeprefix("mlflow-artifacts:/").lstrip("/")
    address = f"{server.uri}/api/2.0/mlflow-artifacts/artifacts/{path}/{name}"
    answer = requests.put(address, content, auth=(user, PASSWORDS[user]), timeout=60)
    return int(answer.status_code)


def product1m(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


# tests/registry/test_candidate_files.py changes every file.
@pytest.mark.parametrize("name", ["MLmodel", "files.json", "artifacts/model/serving.json"])
def test_whatever_the_pipeline_changes_in_a_candidate_is_named(
    server: Server, candidate: ModelVersion, name: str
) -> None:
    path = stored(server, candidate) / name
    content = path.read_bytes()
    assert put(server, PIPELINE, candidate, name, content + b" ") == 200
    try:
        with (
            server.as_user(REVIEWER),
            pytest.raises(RegistryError, match=rf"{re.escape(name)} .*it was changed since"),
        ):
            promote(candidate.number, MODELS)
    finally:
        path.write_bytes(content)


def test_a_file_that_the_pipeline_adds_to_a_candidate_is_named(
    server: Server, candidate: ModelVersion
) -> None:
    name = "__pycache__/mlflow_model.cpython-311.pyc"
    assert put(server, PIPELINE, candidate, name, b"added") == 200
    try:
        with (
            server.as_user(REVIEWER),
            pytest.raises(RegistryError, match=f"{re.escape(name)} is added"),
        ):
            promote(candidate.number, MODELS)
    finally:
        (stored(server, candidate) / name).unlink()


def forge(server: Server, version: ModelVersion, changes: dict[str, str]) -> None:
    """Write files as the pipeline's user, and make list and tags fit."""
    for name, text in changes.items():
        assert put(server, PIPELINE, version, name, text.encode()) == 200
    folder = stored(server, version)
    digests = {name: sha256_of(folder / name) for name in changes}
    parts = json.loads((folder / "digests.json").read_text("utf-8"))
    parts |= {name: digest for name, digest in digests.items() if name in parts}
    assert put(server, PIPELINE, version, "digests.json", json.dumps(parts).encode()) == 200
    listed = json.loads((folder / "files.json").read_text("utf-8"))
    listed |= digests | {"digests.json": sha256_of(folder / "digests.json")}
    assert put(server, PIPELINE, version, "files.json", json.dumps(listed).encode()) == 200
    with server.as_user(PIPELINE):
        client = registry_mlflow().MlflowClient()
        digest = sha256_of(folder / "files.json")
        client.set_model_version_tag(version.model, version.number, "digest.files.json", digest)


def test_code_of_a_forger_is_neither_run_nor_promoted(
    server: Server, made: TinyArtifacts, tmp_path: Path
) -> None:
    """The pipeline's user changes files, their list and every tag; nothing of it is executed."""
    with server.as_user(PIPELINE):
        version = run_registration(made, tmp_path / "out", LENIENT)
    trace = tmp_path / "executed"
    payload = f"open({str(trace)!r}, 'w').close()\n"
    described = (stored(server, version) / "MLmodel").read_text("utf-8")
    forged = re.sub(r"model_code_path: .*", "model_code_path: other.py", described)
    forge(server, version, {"MLmodel": forged, "other.py": payload, "requirements.txt": "evil\n"})
    with server.as_user(REVIEWER):
        promoted = promote(version.number, MODELS)
        files = {path.name for path in stored(server, promoted).rglob("*")}
        own = (stored(server, promoted) / "MLmodel").read_text("utf-8")
        required = (stored(server, promoted) / "requirements.txt").read_text("utf-8")
        registry_mlflow().pyfunc.load_model(CHAMPION)
    assert not trace.exists()
    assert "other.py" not in files
    assert "mlflow_model.py" in own
    assert "evil" not in required
    # Its code replaced under its own name, everything else made to fit.
    forge(server, version, {"mlflow_model.py": payload})
    with server.as_user(REVIEWER), pytest.raises(RegistryError, match="is not the one of this ins"):
        promote(version.number, MODELS)
    assert not trace.exists()


def test_a_version_whose_files_are_elsewhere_is_not_read_with_the_reviewers_credentials(
    server: Server, candidate: ModelVersion, tmp_path: Path
) -> None:
    with server.as_user(PIPELINE):
        client = registry_mlflow().MlflowClient()
        forged = client.create_model_version(
            candidate.model, "s3://of-a-stranger/model", candidate.run_id, dict(candidate.tags)
        )
        copied = client.create_model_version(
            candidate.model, f"models:/{candidate.model}/{forged.version}", candidate.run_id
        )
    for number in (forged.version, copied.version):
        uri = f"models:/{candidate.model}/{number}"
        with server.as_user(REVIEWER):
            with pytest.raises(RegistryError, match=r"s3://of-a-stranger/model.*nothing was read"):
                promote(str(number), MODELS)
            with pytest.raises(RegistryError, match="nothing was read there"):
                fetch_model(uri, MODELS.candidate, Trust.from_options(), tmp_path)
            assert "nothing was read" in product1m("registry", "compare", str(number), "1", code=1)


def test_rules_and_the_mark_of_a_sample_are_not_the_pipelines_word(
    server: Server, made: TinyArtifacts, tmp_path: Path
) -> None:
    config = LENIENT.model_copy(update={"sample_data": True})
    with server.as_user(PIPELINE):
        version = run_registration(made, tmp_path / "out", config)
        client = registry_mlflow().MlflowClient()
        client.set_model_version_tag(version.model, version.number, "sample_data", "false")
        client.set_model_version_tag(version.model, version.number, "gate", "passed")
    with server.as_user(REVIEWER):
        with pytest.raises(RegistryError, match="it was trained on sample data"):
            promote(version.number, MODELS)
        # The evidence brings lenient rules along; the reviewer's count.
        strict = LENIENT.model_copy(update={"min_baseline_lead": 0.9})
        with pytest.raises(RegistryError, match=r"lead over image only: expected interval above"):
            promote(version.number, MODELS, "why not", strict, overrides=["sample"])


@pytest.mark.parametrize(
    "name",
    ["artifacts/model/serving.json", "evidence.json", "mlflow_model.py", "MLmodel", "champion.sig",
     "other.py"],
)  # fmt: skip
def test_nobody_but_a_reviewer_writes_where_a_champion_is(
    server: Server, champion: ModelVersion, name: str
) -> None:
    for user in (PIPELINE, OUTSIDER):
        assert put(server, user, champion, name, b"{}") == 403


def test_what_is_done_to_a_candidate_later_does_not_matter(
    server: Server, candidate: ModelVersion, champion: ModelVersion, tmp_path: Path
) -> None:
    path = stored(server, candidate) / "artifacts/model/serving.json"
    content = path.read_bytes()
    assert put(server, PIPELINE, candidate, "artifacts/model/serving.json", b"{}") == 200
    with server.as_user(REVIEWER):
        uri = f"models:/{champion.model}/{champion.number}"
        folder = fetch_model(uri, MODELS.candidate, Trust.from_options(), tmp_path)
    path.write_bytes(content)
    assert json.loads((folder / "artifacts/model/serving.json").read_text("utf-8"))["weights"]


def test_who_can_write_to_the_store_itself_is_noticed_before_anything_is_loaded(
    server: Server, champion: ModelVersion, made: TinyArtifacts
) -> None:
    path = stored(server, champion) / "artifacts/model/serving.json"
    content = path.read_bytes()
    uri = f"models:/{champion.model}/{champion.number}"
    photo = str(made.root / "dataset" / "images" / "queries-9.jpg")
    path.write_bytes(content + b" ")
    try:
        with server.as_user(REVIEWER):
            refused = product1m("search", photo, "--title", "x", "--model", uri, code=1)
            assert "changed: artifacts/model/serving.json" in refused
            assert "nothing was loaded" in refused
            with pytest.raises(RegistryError, match=r"changed: artifacts/model/serving\.json"):
                registry_mlflow().pyfunc.load_model(uri)
    finally:
        path.write_bytes(content)
    with server.as_user(REVIEWER):
        assert "gallery-" in product1m("search", photo, "--title", "x", "--model", uri)


def test_a_champion_that_mlflows_page_made_is_marked_and_not_loaded(
    server: Server, candidate: ModelVersion, champion: ModelVersion, made: TinyArtifacts
) -> None:
    photo = ["search", str(made.root / "dataset" / "images" / "queries-9.jpg"), "--title", "x"]
    with server.as_user(REVIEWER):
        client = registry_mlflow().MlflowClient()
        for source in (candidate, champion):
            # As the button "Promote model" does: the tags are copied too.
            copied = client.create_model_version(
                MODELS.champion, source.uri, source.run_id, tags=dict(source.tags)
            )
            client.set_registered_model_alias(MODELS.champion, "champion", copied.version)
            listed = product1m("registry", "list").splitlines()
            (line,) = [line for line in listed if line.endswith("champion")]
            assert "NOT MADE BY PROMOTE" in line
            assert "NOT MADE BY PROMOTE" in product1m("registry", "show", "champion").split("\n")[0]
            refused = product1m(*photo, code=1)
            assert "neither promote nor rollback made it champion" in refused
            assert "--allow-unsigned" in refused
        assert "gallery-" in product1m(*photo, "--allow-unsigned")
        back = rollback("made by hand", MODELS)
        made_right = [v for v in list_versions(MODELS.champion) if v.tags.get("act")]
        assert int(back.tags["restored"]) < int(copied.version)
        assert back.number == made_right[0].number
        assert "gallery-" in product1m(*photo)
        client.set_registered_model_alias(MODELS.champion, "champion", champion.number)
        assert "ALIAS MOVED BY HAND" in product1m("registry", "show", "champion").split("\n")[0]
        assert "neither promote nor rollback" in product1m(*photo, code=1)
        client.set_registered_model_alias(MODELS.champion, "champion", back.number)


def test_an_account_without_a_role_may_create_and_read_nothing(server: Server) -> None:
    def refused(act: str, **values: Any) -> None:
        with pytest.raises(Exception, match=r"(?i)permission"):
            call_auth_api(act, "POST", **values)

    for user in (OUTSIDER, PIPELINE, REVIEWER):
        with server.as_user(user):
            refused("registered-models/create", version=2, name=f"of {user}")
            refused("experiments/create", version=2, name=f"of {user}")
            # An experiment over somebody else's files.
            refused(
                "experiments/create", version=2, name="x", artifact_location="mlflow-artifacts:/2"
            )
            refused(
                "gateway/secrets/create", secret_name="s", secret_value={"k": "v"}, provider="p"
            )
    with server.as_user(OUTSIDER):
        client = registry_mlflow().MlflowClient()
        assert client.search_experiments() == []
        assert list(client.search_registered_models()) == []


def test_a_candidate_model_made_anew_does_not_inherit_a_rejection(
    server: Server, candidate: ModelVersion, made: TinyArtifacts, tmp_path: Path
) -> None:
    with server.as_user(REVIEWER):
        record = acts.reject(candidate.number, "worse", MODELS).rejection
        # As it was recorded once: by number alone.
        words = json.dumps({name: record[name] for name in ("by", "at", "reason")})
        client = registry_mlflow().MlflowClient()
        client.set_registered_model_tag(MODELS.champion, "rejected.1", words)
    with server.as_user(PIPELINE):
        client = registry_mlflow().MlflowClient()
        client.rename_registered_model(MODELS.candidate, "put-away")
        with pytest.raises(Exception, match=r"(?i)permission"):
            client.create_registered_model(MODELS.candidate)
    with server.as_user("admin"):
        # The rejected files under another name are still rejected.
        away = show("put-away", candidate.number, ModelNames("put-away", MODELS.champion))
        assert away.rejection["reason"] == "worse"
        registry_mlflow().MlflowClient().create_registered_model(MODELS.candidate)
        version = run_registration(made, tmp_path / "out", LENIENT)
        assert version.number == "1"
        assert show(version.model, version.number, MODELS).rejection == {}
        client = registry_mlflow().MlflowClient()
        again = client.create_model_version(
            MODELS.candidate,
            f"models:/{candidate.model_id}",
            candidate.run_id,
            tags=dict(candidate.tags),
            model_id=candidate.model_id,
        )
        assert show(MODELS.candidate, str(again.version), MODELS).rejection["reason"] == "worse"
        assert download(version.uri, "MLmodel", tmp_path).is_file()
