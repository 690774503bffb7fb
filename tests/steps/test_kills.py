"""Steps killed at any file operation, and once more while they recover, end like undisturbed ones.

The fast tests kill a small step and others at some operations; `make faults` kills every step at
every operation that leaves something else on the disk, and prints how many attempts there were.
"""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kills.campaign import Campaign, campaign
from tests.support.kills.scenarios import FACTS
from tests.support.servers.s3_server import S3Server
from tests.support.worlds.tiny_world import TinyArtifacts

STEPS = (
    "ingestion",
    "ingestion_into_storage",
    "background_synthesis",
    "rpn_training",
    "feature_extraction",
    "capture_pretraining",
    "indexing",
    "evaluation",
    "mlflow_store",
    "registration",
    "promotion",
    "catalogue_add",
    "catalogue_remove",
    "catalogue_erase",
    "refresh",
    "erasure",
    "data_state",
)
ON_S3 = ("ingestion_into_s3", "catalogue_add", "catalogue_remove", "catalogue_erase")


@pytest.fixture(scope="module")
def attempts(made: TinyArtifacts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with campaign(made.root, tmp_path_factory.mktemp("kills")) as running:
        yield running


@pytest.mark.parametrize(
    ("scenario", "every"), [("small_training", 6), ("ingestion", 6), ("catalogue_erase", 6)]
)
def test_a_killed_step_ends_like_an_undisturbed_one(
    scenario: str, every: int, attempts: Campaign
) -> None:
    report = attempts.run(scenario, every=every, replacing=scenario not in FACTS)
    assert report.attempts > 5
    assert not report.failures, str(report)


def test_a_killed_registration_and_a_killed_promotion_leave_nothing(
    attempts: Campaign, tmp_path: Path
) -> None:
    # The version is registered, its artifact is not there yet: the next run finishes it.
    killed = attempts.ask("registration", tmp_path, "os.rename out")
    assert killed["signal"] == signal.SIGKILL
    finished = attempts.ask("promotable", tmp_path)
    assert not finished["error"], finished["error"]
    assert finished["facts"]["artifact"]["version"] == "1"
    assert list(finished["facts"]["versions"]) == ["1"]
    # Some of the champion's files are at MLflow, and copies of all in the temporary folder.
    killed = attempts.ask("promotion", tmp_path, "open run/mlflow-artifacts/")
    assert killed["signal"] == signal.SIGKILL
    promoted = attempts.ask("promotion", tmp_path)
    assert not promoted["error"], promoted["error"]
    assert promoted["facts"]["champion"]["champion_state"] == "done"
    for facts in (finished["facts"], promoted["facts"]):
        assert (facts["running"], facts["models"], facts["files"]) == ([], [], [])
    assert not any((tmp_path / "tmp").glob("*/*"))


@pytest.mark.slow
@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("scenario", ["small_training", *STEPS])
def test_a_step_killed_at_every_operation_ends_like_an_undisturbed_one(
    scenario: str, replacing: bool, attempts: Campaign
) -> None:
    if replacing and scenario in FACTS:
        pytest.skip("MLflow and catalogues keep every version, so nothing is replaced")
    report = attempts.run(scenario, replacing=replacing)
    sys.stdout.write(f"{report}\n")
    assert not report.failures, "\n".join([str(report), *report.failures])


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ON_S3)
def test_a_writer_to_s3_killed_at_every_request_ends_like_an_undisturbed_one(
    scenario: str, made: TinyArtifacts, s3: S3Server, tmp_path: Path
) -> None:
    with campaign(made.root, tmp_path / "kills", s3) as running:
        report = running.run(scenario)
    sys.stdout.write(f"on S3: {report}\n")
    assert not report.failures, "\n".join([str(report), *report.failures])
