"""`promote --evaluate`: the reviewer's own figures decide."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from product1m.cli.app import app
from product1m.registry.version_files import read_evidence
from product1m.registry.versions import ModelVersion, show
from tests.support.worlds.registered_model import MlflowStore
from tests.support.worlds.tiny_world import TinyArtifacts

pytestmark = [
    pytest.mark.usefixtures("store", "asked_here"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # mlflow warns about itself
]


def product1m(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["registry", *arguments], catch_exceptions=False)
    assert result.exit_code in (0, 1), result.output
    return result.output


def test_the_reviewers_figures_decide_and_are_those_of_the_evaluation(
    registered: ModelVersion, store: MlflowStore, made: TinyArtifacts, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("registration:\n  min_baseline_lead: -1\n  min_map_at_10: 0.99\n")
    promotion = [
        *("promote", "--version", registered.number, "--reason", "measured", "--rules", str(rules)),
        *("--evaluate", str(made.root / "dataset"), "--champion-model", "measured"),
    ]
    refused = product1m(*promotion)
    evidence = read_evidence(registered)
    assert evidence is not None
    mean = sum(evidence.ap.values()) / len(evidence.ap)
    assert f"expected ≥ 0.990, found {mean:.3f}" in refused
    rules.write_text("registration:\n  min_baseline_lead: -1\n")
    product1m(*promotion)
    product1m(*promotion)  # the second time there is a champion to measure
    champion = show("measured", "champion")
    assert champion.tags["figures"] == "measured by the reviewer"
    measured = json.loads((store.files(champion) / "measured.json").read_text("utf-8"))
    # The same data, through ingestion, features, index and ranking once more.
    assert measured["ap"] == pytest.approx(evidence.ap)
    assert measured["champion"]["ap"] == pytest.approx(evidence.ap)
    assert measured["slices"] == evidence.slices
    assert measured["index_recall"] == evidence.index_recall
    assert measured["served_agreement"] == evidence.served_agreement
    assert measured["quarantine"] == evidence.quarantine
    assert measured["bootstrap"]["groups"].keys() >= evidence.bootstrap.groups.keys()
    for method in ("image", "text"):  # the others have weights chosen on dev queries there
        assert measured["leads"][method]["mean"] == pytest.approx(evidence.leads[method]["mean"])
