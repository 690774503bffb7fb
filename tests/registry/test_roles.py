"""Who may do what, and who is first, at a real MLflow server with basic auth."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from product1m.cli.app import app
from product1m.config import RegistrationConfig
from product1m.errors import Product1MError, RegistryError
from product1m.registry import acts
from product1m.registry import roles as registry_roles
from product1m.registry import versions as registry
from tests.support.servers.mlflow_server import PASSWORDS, Server, running_server
from tests.support.worlds.registered_model import LENIENT, run_registration
from tests.support.worlds.tiny_world import TinyArtifacts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # mlflow warns about itself

PIPELINE, REVIEWER, OUTSIDER = "product1m-pipeline", "product1m-reviewer", "outsider"
CONFIG = RegistrationConfig()


def set_up_roles() -> str:
    """As a Kubernetes Job does it: names and passwords from the environment."""
    result = CliRunner().invoke(
        app,
        ["registry", "set-up-roles"],
        env={
            "PRODUCT1M_PIPELINE_PASSWORD": PASSWORDS[PIPELINE],
            "PRODUCT1M_REVIEWER_PASSWORD": PASSWORDS[REVIEWER],
        },
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server where the roles were set up, and a user without any."""
    with running_server(tmp_path_factory.mktemp("server")) as started:
        with started.as_user("admin"):
            set_up_roles()
            user = registry_roles.Identity(OUTSIDER, PASSWORDS[OUTSIDER])
            registry_roles._ensure_user(user)
        yield started


@pytest.fixture(scope="module")
def candidate(
    server: Server, made: TinyArtifacts, tmp_path_factory: pytest.TempPathFactory
) -> registry.Version:
    """Registered over HTTP by the pipeline's identity."""
    with server.as_user(PIPELINE):
        return run_registration(made, tmp_path_factory.mktemp("candidate") / "out", LENIENT)


def test_setting_up_roles_again_changes_nothing_and_mends_what_was_changed(server: Server) -> None:
    with server.as_user("admin"):
        first = set_up_roles()
        (role,) = [
            row["id"]
            for row in registry_roles._call("roles/list", workspace="default")["roles"]
            if row["name"] == PIPELINE
        ]
        surplus = {"resource_type": "registered_model", "resource_pattern": "product1m"}
        (grant,) = [
            row
            for row in registry_roles._call("roles/permissions/list", role_id=role)[
                "role_permissions"
            ]
            if surplus.items() <= row.items()
        ]
        registry_roles._call(
            "roles/permissions/update",
            "PATCH",
            role_permission_id=grant["id"],
            permission="MANAGE",
        )
        assert set_up_roles() == first
        grants = registry_roles._call("roles/permissions/list", role_id=role)["role_permissions"]
    found = {(row["resource_type"], row["resource_pattern"]): row["permission"] for row in grants}
    assert found["registered_model", "product1m"] == "READ"
    assert found["registered_model", "product1m-candidate"] == "EDIT"
    assert len(found) == 3
    assert "product1m-reviewer   EDIT   registered_model product1m" in first.splitlines()


def test_the_pipeline_registers_and_cannot_promote(
    server: Server, candidate: registry.Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "verify_version", lambda version: None)
    assert "challenger" in candidate.aliases
    with server.as_user(PIPELINE):
        with pytest.raises(RegistryError, match=r"\(user product1m-pipeline\).*[Pp]ermission"):
            acts.promote(candidate.number, "I say so", CONFIG)
        client = registry.quiet_mlflow().MlflowClient()
        with pytest.raises(Exception, match=r"(?i)permission"):
            client.set_registered_model_tag("product1m", "rejected.1", "{}")
    with server.as_user("admin"):
        assert registry.list_versions("product1m") == []


def test_a_reviewer_promotes_rejects_and_rolls_back_and_cannot_register(
    server: Server,
    candidate: registry.Version,
    made: TinyArtifacts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with server.as_user(REVIEWER):
        champion = acts.promote(candidate.number, "ahead everywhere", CONFIG)
        assert champion.aliases == ("champion",)
        # Nobody said who: it is the user the server knows.
        assert champion.tags["by"] == REVIEWER
        # Its files were fetched and asked; once is enough for a test.
        monkeypatch.setattr(acts, "verify_version", lambda version: None)
        rejected = acts.reject(candidate.number, "too late", CONFIG)
        assert rejected.rejection["by"] == REVIEWER
        assert "rejected_by" not in rejected.tags  # the candidate's page is not a reviewer's
        acts.promote(candidate.number, "yet", CONFIG, overrides=["rejection"])
        assert acts.rollback("complaints", CONFIG).tags["restored"] == champion.number
        with pytest.raises(Product1MError, match=r"(?i)permission"):
            run_registration(made, tmp_path / "out", LENIENT)
        client = registry.quiet_mlflow().MlflowClient()
        with pytest.raises(Exception, match=r"(?i)permission"):
            client.set_model_version_tag(candidate.model, candidate.number, "gate", "passed")


def test_an_outsider_can_do_neither(
    server: Server, candidate: registry.Version, made: TinyArtifacts, tmp_path: Path
) -> None:
    with server.as_user(OUTSIDER):
        with pytest.raises(RegistryError):
            acts.promote(candidate.number, "why not", CONFIG)
        with pytest.raises(Product1MError, match=r"(?i)permission"):
            run_registration(made, tmp_path / "out", LENIENT)
        client = registry.quiet_mlflow().MlflowClient()
        with pytest.raises(Exception, match=r"(?i)permission"):
            client.get_model_version(candidate.model, candidate.number)
        for role in (PIPELINE, REVIEWER):
            with pytest.raises(Exception, match=r"(?i)permission"):
                registry_roles._call("roles/create", "POST", workspace="default", name=f"{role}-2")


RACER = """
import json, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from product1m.registry import acts
from product1m.config import RegistrationConfig
from product1m.errors import RegistryError

me, others, number, champion = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]

def wait_at_the_line(version):
    me.touch()  # decided, not yet done; the model was asked elsewhere
    while not all(Path(other).exists() for other in others):
        time.sleep(0.005)

acts.verify_version = wait_at_the_line
config = RegistrationConfig(champion_model=champion)
try:
    version = acts.promote(number, "a race", config, by=me.name)
    print(json.dumps({"won": version.number}))
except RegistryError as error:
    print(json.dumps({"told": str(error)}))
"""


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(
    server: Server, candidate: registry.Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "verify_version", lambda version: None)
    with server.as_user("admin"):
        first = acts.promote(
            candidate.number, "first", RegistrationConfig(champion_model="raced"), by="ann"
        )
    lines = [tmp_path / name for name in ("bob", "cat")]
    environment = os.environ | server.environment("admin")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(line), json.dumps([str(other) for other in lines]),
             candidate.number, "raced"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for line in lines
    ]  # fmt: skip
    outputs = [racer.communicate(timeout=300) for racer in racers]
    results = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    (won,) = [result["won"] for result in results if "won" in result]
    (told,) = [result["told"] for result in results if "told" in result]
    assert "another act came first: raced version 2 (promotion by " in told
    assert won == "2"
    with server.as_user("admin"):
        winner, loser = registry.show("raced", "2"), registry.show("raced", "3")
    assert winner.aliases == ("champion",)
    assert winner.tags["previous_champion"] == first.number
    assert (winner.tags["champion_state"], loser.tags["champion_state"]) == ("done", "lost")
    assert loser.aliases == ()
    assert {winner.tags["by"], loser.tags["by"]} == {"bob", "cat"}
    # What lost is nothing to go back to.
    with server.as_user("admin"), pytest.raises(RegistryError, match=r"never champion \(lost\)"):
        acts.rollback("x", RegistrationConfig(champion_model="raced"), to="3")
