"""Register the models of the tiny chain, for tests of registration and registry."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from product1m.artifacts.folder import open_artifact
from product1m.config import RegistrationConfig
from product1m.registry import versions as registry
from product1m.steps import registration
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
            client = registry.quiet_mlflow().MlflowClient()
            return cls(folder, client.create_experiment("tests", (folder / "files").as_uri()))

    @contextmanager
    def active(self) -> Iterator[None]:
        """Use this store within the block."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{self.folder / 'mlflow.db'}")
            patch.setenv("MLFLOW_EXPERIMENT_ID", self.experiment)
            patch.delenv("MLFLOW_RUN_ID", raising=False)
            yield

    def files(self, version: registry.Version) -> Path:
        """Folder of a candidate version's files."""
        client = registry.quiet_mlflow().MlflowClient()
        source = client.get_model_version(version.model, version.number).source
        (folder,) = self.folder.rglob(source.removeprefix("models:/"))
        return folder / "artifacts"


def run_registration(
    made: TinyArtifacts, folder: Path, config: RegistrationConfig
) -> registry.Version:
    """Register the artifacts; return the version."""
    inputs = (made.rpn, made.capture, made.index, made.evaluation, made.queries, made.gallery)
    registration.run(*inputs, folder, config)
    details = open_artifact(folder, "registration").manifest.details
    return registry.show(details["name"], details["version"])
