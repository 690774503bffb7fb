"""Who may do what, and who is first, at a real MLflow server with basic auth."""

import json
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from product1m.catalogue.registering import live_version, register_catalogue
from product1m.errors import Product1MError, RegistryError
from product1m.registry import acts
from product1m.registry.access import call_auth_api
from product1m.registry.champion_files import make_champion
from product1m.registry.claims import Source
from product1m.registry.roles import CATALOGUE, PIPELINE, REVIEWER, ModelNames
from product1m.registry.versions import ModelVersion, list_versions, show
from product1m.telemetry.mlflow_client import registry_mlflow
from tests.support.servers.mlflow_roles import OUTSIDER, set_up_roles
from tests.support.servers.mlflow_server import Server
from tests.support.worlds import small_catalogue
from tests.support.worlds.registered_model import LENIENT, promote, rollback, run_registration
from tests.support.worlds.tiny_world import TinyArtifacts

pytestmark = [
    pytest.mark.usefixtures("asked_here"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # mlflow warns about itself
]

MODELS = ModelNames(LENIENT.candidate_model, LENIENT.champion_model)
RACED = ModelNames(LENIENT.candidate_model, "raced")


@pytest.fixture(scope="module")
def catalogue(made: TinyArtifacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue that passed its checks."""
    folder = tmp_path_factory.mktemp("catalogue")
    model = small_catalogue.write_model(made, folder / "model")
    shop = small_catalogue.copy_gallery(made, folder / "shop")
    small_catalogue.refresh(shop, model, folder / "index", folder / "cache")
    return folder / "index"


def test_setting_up_roles_again_corrects_only_what_was_changed(server: Server) -> None:
    with server.as_user("admin"):
        first = set_up_roles()
        (role,) = [
            row["id"]
            for row in call_auth_api("roles/list", workspace="default")["roles"]
            if row["name"] == PIPELINE
        ]
        surplus = {"resource_type": "registered_model", "resource_pattern": "product1m"}
        (grant,) = [
            row
            for row in call_auth_api("roles/permissions/list", role_id=role)["role_permissions"]
            if surplus.items() <= row.items()
        ]
        call_auth_api(
            "roles/permissions/update",
            "PATCH",
            role_permission_id=grant["id"],
            permission="MANAGE",
        )
        assert set_up_roles() == first
        grants = call_auth_api("roles/permissions/list", role_id=role)["role_permissions"]
    found = {(row["resource_type"], row["resource_pattern"]): row["permission"] for row in grants}
    assert found["registered_model", "product1m"] == "READ"
    assert found["registered_model", "product1m-candidate"] == "EDIT"
    assert len(found) == 4
    assert "product1m-reviewer   EDIT   registered_model product1m" in first.splitlines()


def test_the_pipeline_registers_and_cannot_promote(server: Server, candidate: ModelVersion) -> None:
    assert "challenger" in candidate.aliases
    with server.as_user(PIPELINE):
        with pytest.raises(RegistryError, match=r"\(user product1m-pipeline\).*[Pp]ermission"):
            promote(candidate.number, MODELS, "I say so")
        client = registry_mlflow().MlflowClient()
        with pytest.raises(Exception, match=r"(?i)permission"):
            client.set_registered_model_tag("product1m", "rejected.1", "{}")
    with server.as_user("admin"):
        assert list_versions("product1m") == []


def test_a_reviewer_promotes_rejects_and_rolls_back_and_cannot_register(
    server: Server,
    candidate: ModelVersion,
    made: TinyArtifacts,
    tmp_path: Path,
) -> None:
    with server.as_user(REVIEWER):
        champion = promote(candidate.number, MODELS, "ahead everywhere")
        assert champion.aliases == ("champion",)
        # No name was given: it is the user that the server knows.
        assert champion.tags["by"] == REVIEWER
        rejected = acts.reject(candidate.number, "too late", MODELS)
        assert rejected.rejection["by"] == REVIEWER
        assert "rejected_by" not in rejected.tags  # the candidate's page is not a reviewer's
        promote(candidate.number, MODELS, "yet", overrides=["rejection"])
        assert rollback("complaints", MODELS).tags["restored"] == champion.number
        with pytest.raises(Product1MError, match=r"(?i)permission"):
            run_registration(made, tmp_path / "out", LENIENT)
        client = registry_mlflow().MlflowClient()
        with pytest.raises(Exception, match=r"(?i)permission"):
            client.set_model_version_tag(candidate.model, candidate.number, "gate", "passed")


def test_a_refresh_of_the_catalogue_moves_live_and_nothing_else(
    server: Server, candidate: ModelVersion, catalogue: Path
) -> None:
    name = MODELS.catalogue
    with server.as_user(CATALOGUE):
        assert register_catalogue(catalogue, name) == "1"
        assert register_catalogue(catalogue, name) == "1"  # the same content
        live = live_version(name)
        assert live is not None
        client = registry_mlflow().MlflowClient()
        for model, alias in ((MODELS.champion, "champion"), (MODELS.candidate, "challenger")):
            with pytest.raises(Exception, match=r"(?i)permission"):
                client.set_registered_model_alias(model, alias, "1")
            with pytest.raises(Exception, match=r"(?i)permission"):
                client.create_model_version(model, f"models:/{live.model_id}")
        with pytest.raises(Exception, match=r"(?i)permission"):
            client.log_model_artifact(candidate.model_id, str(catalogue / "manifest.json"))
    for other in (PIPELINE, OUTSIDER):
        with server.as_user(other), pytest.raises(Exception, match=r"(?i)permission"):
            registry_mlflow().MlflowClient().set_registered_model_alias(name, "live", "1")


def test_an_outsider_can_do_neither(
    server: Server, candidate: ModelVersion, made: TinyArtifacts, tmp_path: Path
) -> None:
    with server.as_user(OUTSIDER):
        with pytest.raises(RegistryError):
            promote(candidate.number, MODELS, "why not")
        with pytest.raises(Product1MError, match=r"(?i)permission"):
            run_registration(made, tmp_path / "out", LENIENT)
        client = registry_mlflow().MlflowClient()
        with pytest.raises(Exception, match=r"(?i)permission"):
            client.get_model_version(candidate.model, candidate.number)
        for role in (PIPELINE, REVIEWER):
            with pytest.raises(Exception, match=r"(?i)permission"):
                call_auth_api("roles/create", "POST", workspace="default", name=f"{role}-2")


def race(me: Path, other: Path, candidate: str, result: Path) -> None:
    """Promote in a process of its own; nobody moves the alias before both have decided."""

    def make_and_wait(*arguments: Any) -> Source:
        made = make_champion(*arguments)
        me.touch()  # decided, not yet done
        while not other.exists():
            time.sleep(0.005)
        return made

    pytest.MonkeyPatch().setattr(acts, "make_champion", make_and_wait)
    try:
        version = promote(candidate, RACED, "a race", by=me.name)
        result.write_text(json.dumps({"won": version.number}))
    except RegistryError as error:
        result.write_text(json.dumps({"refused": str(error)}))


def test_of_two_promotions_at_once_one_wins_and_the_other_gets_an_error(
    server: Server, candidate: ModelVersion, tmp_path: Path
) -> None:
    bob, cat = tmp_path / "bob", tmp_path / "cat"
    files = [tmp_path / "bob.json", tmp_path / "cat.json"]
    start = get_context("fork").Process
    with server.as_user("admin"):
        first = promote(candidate.number, RACED, "first", by="ann")
        racers = [
            start(target=race, args=(me, other, candidate.number, result))
            for me, other, result in ((bob, cat, files[0]), (cat, bob, files[1]))
        ]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join(300)
            racer.kill()  # does nothing to one that has ended
    results = [json.loads(file.read_text()) for file in files]
    (won,) = [result["won"] for result in results if "won" in result]
    (refused,) = [result["refused"] for result in results if "refused" in result]
    assert "someone else was faster: raced version 2 (promotion by " in refused
    assert won == "2"
    with server.as_user("admin"):
        winner, loser = show("raced", "2"), show("raced", "3")
    assert winner.aliases == ("champion",)
    assert winner.tags["previous_champion"] == first.number
    assert (winner.tags["champion_state"], loser.tags["champion_state"]) == ("done", "lost")
    assert loser.aliases == ()
    assert {winner.tags["by"], loser.tags["by"]} == {"bob", "cat"}
    # What lost is nothing to go back to.
    with server.as_user("admin"), pytest.raises(RegistryError, match=r"never champion \(lost\)"):
        rollback("x", RACED, to="3")
