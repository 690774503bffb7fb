"""A cluster with Kubeflow Trainer for the tests of jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers.kubernetes_api import kubernetes_api
from tests.support.worlds.feature_artifacts import make_features
from tests.support.worlds.train_jobs import train
from tests.support.worlds.trainer_world import TrainerWorld


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(make_features(tmp_path_factory.mktemp("features")))


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainerWorld]:
    """A cluster whose nodes log a little, and whose first one writes the artifact."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("KFP_POD_NAME", "step-pod")
    monkeypatch.setenv("PRODUCT1M_WORK", str(work))
    monkeypatch.setenv("MLFLOW_RUN_ID", "run-5")
    monkeypatch.setenv("PRODUCT1M_IMAGE", "registry.example/capture@sha256:5e1f")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3same")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with kubernetes_api(tmp_path, train) as server:
        server.add_step_pod("step-pod", work)
        yield server
