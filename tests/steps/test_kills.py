"""Steps killed at any file operation, and once more while they recover, end like undisturbed ones.

The fast tests kill a small step everywhere and real steps at some operations; `make faults` kills
every step at every operation and prints how many attempts there were.
"""

import sys
from collections.abc import Iterator

import pytest

from tests.support.kills.campaign import Campaign, campaign
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
)


@pytest.fixture(scope="module")
def attempts(made: TinyArtifacts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with campaign(made.root, tmp_path_factory.mktemp("kills")) as running:
        yield running


@pytest.mark.parametrize(("scenario", "every"), [("small_training", 6), ("ingestion", 12)])
def test_a_killed_step_ends_like_an_undisturbed_one(
    scenario: str, every: int, attempts: Campaign
) -> None:
    report = attempts.run(scenario, every=every, replacing=True)
    assert report.attempts > 5
    assert not report.failures, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("scenario", ["small_training", *STEPS])
def test_a_step_killed_at_every_operation_ends_like_an_undisturbed_one(
    scenario: str, replacing: bool, attempts: Campaign
) -> None:
    report = attempts.run(scenario, replacing=replacing)
    sys.stdout.write(f"{report}\n")
    assert not report.failures, "\n".join([str(report), *report.failures])
