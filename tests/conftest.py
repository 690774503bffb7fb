"""Fixtures of several test files, and the order in which workers get the files."""

import gc
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.workers import made_once

# Before torch loads: a process that is forked while OpenMP has threads waits forever.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PRODUCT1M_LOG"] = "text"  # captured output is not a terminal
# Tests start dozens of processes; without compiled files each would compile torch again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
for _name in ("PRODUCT1M_TRUSTED_KEY", "PRODUCT1M_TRUSTED_ROOT", "PRODUCT1M_ALLOW_UNSIGNED"):
    os.environ.pop(_name, None)
os.fsync = lambda fd: None  # no test cuts the power, and thousands of files would wait for the disk
# The objects of torch, MLflow and KFP stay, and looking through them takes a tenth of the time.
gc.set_threshold(50_000, 20, 20)


def _stack_without_source(context: int = 0) -> list[inspect.FrameInfo]:
    """The callers, without the files and lines of their source.

    KFP reads the stack at each setting of a task. In a worker of pytest-xdist the lowest frames
    have no file, and the search for one visits all modules: 30 s a pipeline.
    """
    return [
        inspect.FrameInfo(frame, frame.f_code.co_filename, line, frame.f_code.co_name, None, None)
        for frame, line in traceback.walk_stack(sys._getframe(1))
    ]


inspect.stack = _stack_without_source

if TYPE_CHECKING:
    from product1m.artifacts.folder import Artifact
    from product1m.data.regions import FeatureSet
    from product1m.registry.versions import ModelVersion
    from product1m.retrieval.search import Searcher
    from tests.support.servers.s3_server import S3Server
    from tests.support.worlds.registered_model import MlflowStore
    from tests.support.worlds.tiny_world import TinyArtifacts


@pytest.fixture(scope="session")
def reviewer_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A reviewer's pair of keys where commands look for it."""
    from product1m.registry.signing import new_key

    home = tmp_path_factory.mktemp("config")
    new_key(home / "product1m")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(home))
        yield home / "product1m"


LONGEST = (
    "registry/test_attacks.py",
    "registry/test_acts.py",
    "training/test_distributed.py",
    "registry/",
    "steps/",
    "jobs/test_train_job.py",
    "pipelines/cluster/doctor/",
    "pipelines/ablation/test_running.py",
    "manifests/test_server.py",
    "pipelines/graph/",
)
"""Files that take the longest: started first, so that all workers end at about the same time. The
first three make what others wait for: databases, small models, nothing."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort tests by file, the longest files first."""
    tests = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(tests).as_posix()
        return next((n for n, start in enumerate(LONGEST) if name.startswith(start)), len(LONGEST))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def tiny_artifacts(tmp_path_factory: pytest.TempPathFactory) -> "TinyArtifacts":
    """A tiny data set after pretraining, indexing and evaluation; never write into it."""
    from tests.support.worlds import (
        tiny_world,  # torch and faiss load only for the tests that ask for this
    )

    def make(folder: Path) -> None:
        world = tiny_world.write_world(folder)
        tiny_world.pretrain(world)
        tiny_world.build_index(world)
        tiny_world.evaluate(world, world.evaluation)

    return tiny_world.TinyArtifacts(made_once(tmp_path_factory, "tiny-world", make))


@pytest.fixture(scope="session")
def tiny_evaluation(tiny_artifacts: "TinyArtifacts") -> "Artifact":
    """The evaluation of the tiny data set."""
    from product1m.artifacts.folder import open_artifact

    return open_artifact(tiny_artifacts.evaluation, "evaluation")


@pytest.fixture(scope="session")
def tiny_searcher(tiny_artifacts: "TinyArtifacts") -> "Searcher":
    """The index of the tiny data set, ready to search."""
    from tests.support.worlds.evaluation_files import open_searcher

    return open_searcher(tiny_artifacts)


@pytest.fixture(scope="session")
def tiny_queries(tiny_artifacts: "TinyArtifacts") -> "FeatureSet":
    """The features of the queries of the tiny data set."""
    from tests.support.worlds.evaluation_files import query_features

    return query_features(tiny_artifacts)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> "TinyArtifacts":
    """A tiny data set after every step before registration; never write into it."""
    from tests.support.worlds import tiny_chain
    from tests.support.worlds.tiny_world import TinyArtifacts

    return TinyArtifacts(made_once(tmp_path_factory, "tiny-chain", tiny_chain.run_chain))


@pytest.fixture(scope="session")
def mlflow_databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Databases of a fresh MLflow server on which the roles were set up; copy them."""
    from tests.support.servers.mlflow_roles import make_databases

    return made_once(tmp_path_factory, "mlflow-databases", make_databases)


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory, reviewer_keys: Path) -> "MlflowStore":
    """A database for the session; the fixture `store` sets the environment to it."""
    from tests.support.worlds.registered_model import MlflowStore

    return MlflowStore.create(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def store(mlflow_store: "MlflowStore") -> Iterator["MlflowStore"]:
    """The session's MLflow store, set in the environment during one test."""
    with mlflow_store.active():
        yield mlflow_store


@pytest.fixture(scope="session")
def registered(
    made: "TinyArtifacts",
    mlflow_store: "MlflowStore",
    tmp_path_factory: pytest.TempPathFactory,
) -> "ModelVersion":
    """The tiny models, registered as the first candidate version."""
    from tests.support.worlds.registered_model import LENIENT, run_registration

    with mlflow_store.active():
        return run_registration(made, tmp_path_factory.mktemp("registered") / "out", LENIENT)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["S3Server"]:
    """A real S3 server for the session; the fixture `s3` sets the environment to it."""
    from tests.support.servers.s3_server import running_server

    with running_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: "S3Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "S3Server":
    """The session's S3 server, set in the environment during one test with its own scratch."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PRODUCT1M_SCRATCH", str(tmp_path / "scratch"))
    return s3_server
