"""Register the models of the tiny chain, for tests of registration and registry."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from product1m.artifacts.folder import open_artifact
from product1m.config import EvaluationConfig, RegistrationConfig
from product1m.evaluation.statistics import BootstrapPlan
from product1m.registry import acts
from product1m.registry.evidence import Rules
from product1m.registry.roles import ModelNames
from product1m.registry.rules import ReviewRules
from product1m.registry.signing import signer
from product1m.registry.versions import ModelVersion, show
from product1m.serving.model_folder import CODE
from product1m.serving.signatures import (
    Trust,
    remove_bytecode,
    require_signed,
    signature_of,
)
from product1m.steps import registration
from product1m.telemetry.environment import environment_set
from product1m.telemetry.mlflow_client import registry_mlflow
from tests.support.worlds.tiny_world import TinyArtifacts

LENIENT = RegistrationConfig(min_baseline_lead=-1)
"""A model of two epochs on eight products beats no baseline."""


@dataclass(frozen=True)
class MlflowStore:
    """An MLflow store on SQLite with an experiment of its own."""

    folder: Path
    experiment: str = ""

    @classmethod
    def create(cls, folder: Path) -> "MlflowStore":
        """Create the database."""
        with cls(folder).active():
            client = registry_mlflow().MlflowClient()
            return cls(folder, client.create_experiment("tests", (folder / "files").as_uri()))

    @contextmanager
    def active(self) -> Iterator[None]:
        """Use this store within the block."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{self.folder / 'mlflow.db'}")
            patch.setenv("MLFLOW_EXPERIMENT_ID", self.experiment)
            patch.delenv("MLFLOW_RUN_ID", raising=False)
            yield

    def files(self, version: ModelVersion) -> Path:
        """Folder of a candidate version's files."""
        client = registry_mlflow().MlflowClient()
        source = client.get_model_version(version.model, version.number).source
        (folder,) = self.folder.rglob(source.removeprefix("models:/"))
        return folder / "artifacts"


def run_registration(made: TinyArtifacts, folder: Path, config: RegistrationConfig) -> ModelVersion:
    """Register the artifacts; return the version."""
    inputs = (made.rpn, made.capture, made.index, made.evaluation, made.queries, made.gallery)
    registration.run(*inputs, folder, config)
    details = open_artifact(folder, "registration").manifest.details
    return show(details["name"], details["version"])


def promote(
    which: str,
    models: ModelNames,
    reason: str = "good",
    rules: RegistrationConfig = LENIENT,
    **changes: Any,
) -> ModelVersion:
    """Promote as a reviewer does who has a key; the tiny models pass the default rules."""
    limits = Rules.model_validate(rules.model_dump())
    own = ReviewRules(limits, BootstrapPlan.from_config(EvaluationConfig()))
    return acts.promote(which, models, acts.Review(reason, own, signer(None), **changes))


def ask_here(folder: Path, trust: Trust, title: str) -> list[list[str]]:
    """What `ask_apart` does, in this process; for tests that promote often."""
    require_signed(folder, signature_of(folder), trust, title)
    with environment_set({"PRODUCT1M_ALLOW_UNSIGNED": "true"}):
        model = registry_mlflow().pyfunc.load_model(str(folder))
        answered = [list(ids) for ids in model.predict(model.input_example)["ids"]]
    remove_bytecode(folder / CODE.name)
    assert all(answered)
    return answered


def rollback(reason: str, models: ModelNames, **changes: Any) -> ModelVersion:
    """Roll back as a reviewer does."""
    return acts.rollback(reason, models, Trust.from_options(), **changes)


def models_of(config: RegistrationConfig) -> ModelNames:
    """Names of the two models of a configuration."""
    return ModelNames(config.candidate_model, config.champion_model)


def register_changed_copy(
    store: MlflowStore, version: ModelVersion, name: str, changes: Mapping[str, str]
) -> ModelVersion:
    """Register a version's files again as the first version of `name`, some with another text."""
    folder = shutil.copytree(store.files(version), store.folder / f"copy-for-{name}")
    for file, text in changes.items():
        (folder / file).write_text(text, "utf-8")
    client = registry_mlflow().MlflowClient()
    client.create_registered_model(name)
    client.create_model_version(name, str(folder), tags=dict(version.tags))
    return show(name, "1")
