"""A pipeline API and a Kubernetes API on this machine, as environment and kubeconfig name them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.cluster.follow import Pace
from tests.support.servers.kfp_server import KfpServer, serving

FAST = Pace(poll_s=0.01, report_s=0.0, patience_s=0.5)


@pytest.fixture
def kfp_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KfpServer]:
    for name in [name for name in os.environ if name.startswith("KF_PIPELINES_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("pipelines.cluster.api.BACKOFF_S", 0.01)
    monkeypatch.setattr("pipelines.cluster.follow.PACE", FAST)
    monkeypatch.setenv("PRODUCT1M_GIT_REVISION", "0123456789abcdef")
    with serving() as started:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", started.url)
        kubeconfig = {
            "clusters": [{"name": "test", "cluster": {"server": started.url}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        monkeypatch.setattr(
            "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION",
            str(tmp_path / "kubeconfig"),
        )
        yield started
