"""What is killed at the registry: a pipeline run that registers, and a reviewer who promotes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.local.mlflow_run import start_run
from product1m.artifacts.folder import open_artifact
from product1m.registry import acts, champion_files
from product1m.registry.loading import fetch_signed
from product1m.registry.rules import installed_rules
from product1m.registry.signing import PRIVATE_KEY, Signer, new_key, trust_in
from product1m.registry.versions import champion_among, list_versions
from product1m.storage.scratch import scratch_folder
from product1m.telemetry.environment import environment_set
from product1m.telemetry.mlflow_client import registry_mlflow
from product1m.telemetry.mlflow_files import sqlite_uri
from tests.support.worlds.registered_model import LENIENT, ask_here, models_of, run_registration
from tests.support.worlds.tiny_world import TinyArtifacts

MODELS = models_of(LENIENT)


def create_store(_world: Path, sandbox: Path) -> None:
    """A run that creates MLflow's database, and ends."""
    (sandbox / "run").mkdir(exist_ok=True)
    run = start_run(sandbox / "run", {})
    with environment_set(run.environment), run.ended():
        pass


def created(sandbox: Path) -> dict[str, Any]:
    """Runs that nobody ended, and files that belong to nothing."""
    with store_of(sandbox):
        files = sorted(path.name for path in (sandbox / "run").iterdir())
        return {"files": files, **left(sandbox)}


def register(world: Path, sandbox: Path) -> None:
    """A pipeline run that only registers, into a store of its own."""
    (sandbox / "run").mkdir(exist_ok=True)
    run = start_run(sandbox / "run", {})
    with environment_set(run.environment), run.ended():
        run_registration(TinyArtifacts(world), sandbox / "out", LENIENT)


def prepare_promotion(world: Path, sandbox: Path) -> None:
    """A registered version, and a reviewer's key."""
    register(world, sandbox)
    new_key(sandbox / "keys")


def promote(_world: Path, sandbox: Path) -> None:
    """A reviewer promotes the first version; the model answers in this process, which is faster."""
    setattr(champion_files, "ask_apart", ask_here)  # noqa: B010  mypy sees no export
    review = acts.Review("good", installed_rules(), _signer(sandbox), overrides=("gate", "sample"))
    with store_of(sandbox):
        acts.promote("1", MODELS, review)


def registered(sandbox: Path) -> dict[str, Any]:
    """What a user finds after a registration, without what differs in every run."""
    with store_of(sandbox):
        artifact = open_artifact(sandbox / "out", "registration")
        artifact.verify()
        versions = {
            version.number: _comparable(version.tags) for version in list_versions(MODELS.candidate)
        }
        return {"artifact": artifact.manifest.details, "versions": versions, **left(sandbox)}


def promoted(sandbox: Path) -> dict[str, Any]:
    """What a user finds after a promotion: a champion that is signed."""
    with store_of(sandbox):
        champion = champion_among(list_versions(MODELS.champion, MODELS))
        assert champion is not None
        assert not champion.warning
        with scratch_folder() as scratch:
            fetch_signed(champion, trust_in(_signer(sandbox), scratch), scratch)
        return {"champion": _comparable(champion.tags), **left(sandbox)}


def _signer(sandbox: Path) -> Signer:
    return Signer(sandbox / "keys" / PRIVATE_KEY)


@contextmanager
def store_of(sandbox: Path) -> Iterator[None]:
    """Talk to the MLflow store of a sandbox within the block."""
    with environment_set({"MLFLOW_TRACKING_URI": sqlite_uri(sandbox / "run" / "mlflow.db")}):
        yield


def _comparable(tags: Any) -> dict[str, str]:
    """Tags that are the same in every run."""
    names = re.compile(
        r"digest\.(?!files)|gate|sample_data|registration|champion_state|promoted_from"
    )
    return {name: value for name, value in tags.items() if names.match(name)}


def left(sandbox: Path, *names: str) -> dict[str, list[str]]:
    """Runs that nobody ended, models that no version shows, and files of such models.

    `names` are the registered models that count, instead of candidate and champion.
    """
    client = registry_mlflow().MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    running = [
        r.info.run_name for r in client.search_runs(experiments, "attributes.status = 'RUNNING'")
    ]
    own = names or (MODELS.candidate, MODELS.champion)
    shown = {v.model_id for name in own for v in list_versions(name)}
    models = [m.name for m in client.search_logged_models(experiments) if m.model_id not in shown]
    folders = (sandbox / "run" / "mlflow-artifacts").glob("**/models/*/artifacts/*")
    files = [path.name for path in folders if path.parent.parent.name not in shown]
    return {"running": running, "models": models, "files": files}
