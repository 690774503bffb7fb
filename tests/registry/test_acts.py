"""A reviewer's acts: promote, override, roll back, in a real MLflow."""

import contextlib
import json
import logging
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from product1m.cli.app import app
from product1m.config import RegistrationConfig
from product1m.errors import RegistryError
from product1m.evaluation.statistics import Interval
from product1m.registry import acts, champion_files
from product1m.registry.champion_files import Promotion, make_champion
from product1m.registry.claims import Source
from product1m.registry.compare import compare
from product1m.registry.roles import ModelNames
from product1m.registry.rules import read_rules
from product1m.registry.signing import Signer, signer
from product1m.registry.version_files import as_champion
from product1m.registry.versions import ModelVersion, champion_among, list_versions, show
from product1m.serving.asking import ask_apart
from product1m.telemetry.mlflow_client import registry_mlflow
from tests.support.worlds.registered_model import (
    MlflowStore,
    promote,
    register_changed_copy,
    rollback,
    run_registration,
)
from tests.support.worlds.tiny_world import TinyArtifacts

pytestmark = [
    pytest.mark.usefixtures("store", "asked_here"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # mlflow warns about itself
]

STRICT = RegistrationConfig(min_baseline_lead=0.9, sample_data=True, champion_model="compared")


def names(champion: str) -> ModelNames:
    """A champion model of the test's own."""
    return ModelNames(STRICT.candidate_model, champion)


@pytest.fixture(scope="module")
def sample(
    made: TinyArtifacts,
    registered: ModelVersion,
    mlflow_store: MlflowStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> ModelVersion:
    """A second candidate: of sample data, failing its gate, with the first one as champion."""
    with mlflow_store.active():
        promote(registered.number, names("compared"), "to compare with", by="ann")
        return run_registration(made, tmp_path_factory.mktemp("second") / "out", STRICT)


def test_a_promoted_version_becomes_champion_with_who_when_and_why(
    registered: ModelVersion,
) -> None:
    models = names("promoted")
    assert champion_among(list_versions("promoted")) is None
    first = promote(registered.number, models, " ahead everywhere ", by="ann")
    assert (first.model, first.number, first.aliases) == ("promoted", "1", ("champion",))
    assert first.tags["by"] == "ann"
    assert first.tags["reason"] == "ahead everywhere"
    assert first.tags["promoted_from"] == f"product1m-candidate/{registered.number}"
    assert first.tags["previous_champion"] == "none"
    assert first.tags["at"].endswith("Z")
    assert first.tags["champion_state"] == "done"
    assert not any(key.startswith("override") for key in first.tags)
    # First who and why, then the card with the picture of what it describes.
    assert first.description.startswith("**Promoted by ann** at 20")
    assert "ahead everywhere. Gate at that time: **PASSED**" in first.description
    assert f"name={registered.model}&version={registered.number})" in first.description
    second = promote(registered.number, models, "again", by="bob")
    assert second.tags["previous_champion"] == "1"
    assert show("promoted", "1").aliases == ()
    crowned = champion_among(list_versions("promoted"))
    assert crowned is not None
    champion = as_champion(crowned)
    assert champion.version == "2"
    assert champion.evidence is not None
    assert len(champion.evidence.ap) == 12  # the test queries


def test_a_promoted_model_answers_under_its_alias(registered: ModelVersion) -> None:
    promote(registered.number, names("asked"), "to ask it", by="ann")
    model = registry_mlflow().pyfunc.load_model("models:/asked@champion")
    assert len(model.predict(model.input_example)) == 1


def test_a_promotion_needs_a_reason_and_a_version_that_exists(
    registered: ModelVersion,
) -> None:
    with pytest.raises(RegistryError, match="a reason is needed"):
        promote(registered.number, names("unreasoned"), "  ")
    with pytest.raises(RegistryError, match=r"product1m-candidate: no version '99'; it has"):
        promote("99", names("unreasoned"), "why")
    assert list_versions("unreasoned") == []
    with pytest.raises(RegistryError, match="no version 'champion'; it has no versions"):
        show("unreasoned", "champion")


def test_a_reviewers_list_of_licenses_refuses_a_version_and_names_the_weights(
    registered: ModelVersion, tmp_path: Path
) -> None:
    assert "backbone package:efficientnet-lite0: Apache-2.0." in registered.description
    file = tmp_path / "rules.yaml"
    limits = "min_baseline_lead: -1, allowed_licenses"
    file.write_text(f"registration: {{{limits}: [MIT, BSD-3-Clause]}}")
    review = acts.Review("good", read_rules(str(file)), signer(None))
    with pytest.raises(RegistryError) as refused:
        acts.promote(registered.number, names("licensed"), review)
    message = str(refused.value)
    assert "licenses: expected MIT, BSD-3-Clause, found backbone package:efficientnet" in message
    file.write_text(f"registration: {{{limits}: [apache-2.0]}}")
    review = acts.Review("good", read_rules(str(file)), signer(None))
    promoted = acts.promote(registered.number, names("licensed"), review)
    assert promoted.tags["gate"] == "passed"


def test_a_sample_version_says_so_in_capitals_and_is_compared_with_the_champion(
    sample: ModelVersion,
) -> None:
    assert sample.description.startswith("**SAMPLE DATA: THIS VERSION WAS TRAINED ON A SAMPLE")
    assert "**Gate: FAILED** against champion version 1" in sample.description
    words = " ".join(sample.description.replace("\u00a0", " ").split())
    assert "| pass | not behind the champion | interval above -0.087 | +0.000 [" in words
    assert "| **FAIL** | lead over image only | interval above +0.900 |" in words
    assert "## Changed since champion version 1" in sample.description
    assert "- artifacts: all the same" in sample.description
    assert "- data: queries: the same, `" in sample.description
    assert sample.tags["sample_data"] == "true"
    assert f"{sample.promote_command}`" in sample.description
    assert "--rules sample --override-sample" in sample.promote_command
    assert sample.tags["gate"] == "failed"
    assert sample.tags["gate_rules_not_passed"].startswith("lead over image only, ")
    assert "challenger" in sample.aliases


def test_sample_data_and_a_failed_gate_are_overridden_one_by_one_and_recorded(
    sample: ModelVersion,
) -> None:
    models = names("overridden")
    with pytest.raises(RegistryError) as refused:
        promote(sample.number, models, "why not", STRICT, by="ann")
    message = str(refused.value)
    assert "it was trained on sample data" in message
    assert "lead over image only: expected interval above +0.900, found" in message
    assert "add --override-sample --override-gate" in message
    with pytest.raises(RegistryError, match="add --override-gate") as refused:
        promote(sample.number, models, "why not", STRICT, overrides=["sample"])
    assert "sample data" not in str(refused.value)
    with pytest.raises(RegistryError, match="trained on sample data"):
        promote(sample.number, models, "why not", STRICT, overrides=["gate"])
    assert list_versions("overridden") == []
    version = promote(
        sample.number, models, "a rehearsal", STRICT, by="ann", overrides=["sample", "gate"]
    )
    assert version.tags["reason"] == "a rehearsal"
    assert version.tags["override_sample"] == "it was trained on sample data"
    assert version.tags["override_gate"].startswith("lead over image only: expected")
    assert version.tags["promotion_gate"] == "failed"


def test_a_rejected_candidate_says_by_whom_and_is_not_promoted(sample: ModelVersion) -> None:
    models = names("rejecting")
    with pytest.raises(RegistryError, match="a reason is needed"):
        acts.reject(sample.number, "", models)
    rejected = acts.reject(sample.number, "worse on gift sets", models, by="bob")
    assert (rejected.rejection["by"], rejected.rejection["reason"]) == ("bob", "worse on gift sets")
    assert rejected.tags["rejected_reason"] == "worse on gift sets"
    with pytest.raises(RegistryError, match=r"bob rejected it at 20.*: worse on gift sets"):
        promote(sample.number, models, "oh", overrides=["sample", "gate"])
    overrides: list[acts.Objection] = ["sample", "gate", "rejection"]
    version = promote(sample.number, models, "bob agreed", overrides=overrides)
    assert version.tags["override_rejection"].startswith("bob rejected it at ")
    # Another champion model's reviewers decide for themselves.
    assert show(sample.model, sample.number, names("elsewhere")).rejection == {}


def test_a_version_whose_files_were_changed_is_not_promoted(
    registered: ModelVersion, store: MlflowStore
) -> None:
    path = store.files(registered) / "artifacts/model/index/index.faiss"
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b" " + content[-1:])
    try:
        with pytest.raises(RegistryError, match=r"index\.faiss is changed"):
            promote(registered.number, names("tampered"), "looks good", by="ann")
    finally:
        path.write_bytes(content)
    assert list_versions("tampered") == []


def test_rolling_back_restores_the_previous_champion_and_deletes_nothing(
    registered: ModelVersion,
) -> None:
    models = names("rolled")
    with pytest.raises(RegistryError, match="rolled: has no champion to roll back"):
        rollback("complaints", models)
    for reason in ("first", "second", "third"):
        promote(registered.number, models, reason, by="ann")
    restored = rollback("complaints", models, by="bob")
    assert (restored.number, restored.aliases) == ("4", ("champion",))
    assert restored.tags["restored"] == "2"
    assert (restored.tags["by"], restored.tags["reason"]) == ("bob", "complaints")
    assert restored.tags["previous_champion"] == "3"
    # Once more goes one further back, not forth to what was just rolled back.
    assert rollback("still", models).tags["restored"] == "1"
    with pytest.raises(RegistryError, match="rolled version 5 has no previous champion"):
        rollback("and still", models)
    forth = rollback("it was the network", models, by="bob", to="3")
    assert (forth.number, forth.tags["restored"]) == ("6", "3")
    assert [version.number for version in list_versions("rolled")] == list("654321")
    with pytest.raises(RegistryError, match="rolled version 6 is the champion already"):
        rollback("once more", models, to="6")
    model = registry_mlflow().pyfunc.load_model("models:/rolled@champion")
    assert len(model.predict(model.input_example)) == 1


def test_a_version_that_does_not_answer_its_example_is_not_promoted(
    registered: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This installation is broken, the version's files are not.
    (tmp_path / "sitecustomize.py").write_text(
        "import faiss\nfaiss.read_index = faiss.deserialize_index = lambda *_: 1 / 0\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(champion_files, "ask_apart", ask_apart)
    with pytest.raises(RegistryError, match=r"does not load and answer its input (.|\n)* by zero"):
        promote(registered.number, names("unloadable"), "looks good")
    assert list_versions("unloadable") == []


def claim(store: MlflowStore, candidate: ModelVersion, model: str, age: timedelta) -> None:
    """What a promotion leaves that was killed before it moved the alias, `age` ago."""
    client = registry_mlflow().MlflowClient()
    tags = {"champion_state": "claimed", "by": "bob"}
    version = client.create_model_version(
        model, candidate.uri, candidate.run_id, tags=tags, model_id=candidate.model_id
    )
    created_ms = round((datetime.now(UTC) - age).timestamp() * 1000)
    with contextlib.closing(sqlite3.connect(store.folder / "mlflow.db")) as database:
        database.execute(
            "UPDATE model_versions SET creation_time = ? WHERE name = ? AND version = ?",
            (created_ms, model, int(version.version)),
        )
        database.commit()


def test_during_a_promotion_the_next_one_gets_an_error(
    registered: ModelVersion, store: MlflowStore
) -> None:
    models = names("claimed")
    promote(registered.number, models, "first", by="ann")
    claim(store, registered, "claimed", timedelta(minutes=9))
    with pytest.raises(
        RegistryError, match="claimed version 2 is being made champion by bob since"
    ):
        rollback("complaints", models)
    assert show("claimed", "champion").number == "1"


def test_a_promotion_that_died_is_abandoned_after_ten_minutes(
    registered: ModelVersion, store: MlflowStore, caplog: pytest.LogCaptureFixture
) -> None:
    models = names("abandoned")
    promote(registered.number, models, "first", by="ann")
    claim(store, registered, "abandoned", timedelta(minutes=11))
    with caplog.at_level(logging.WARNING):
        champion = promote(registered.number, models, "third", by="cat")
    assert (champion.number, champion.tags["previous_champion"]) == ("3", "1")
    assert "abandoned version 2: its promotion never ended" in caplog.text
    assert show("abandoned", "2").tags["champion_state"] == "abandoned"


def test_an_alias_moved_by_hand_meanwhile_ends_the_promotion(
    registered: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = names("by-others")
    for reason in ("first", "second"):
        promote(registered.number, models, reason)

    def make_and_move_the_alias(promotion: Promotion, by: Signer) -> Source:
        source = make_champion(promotion, by)
        client = registry_mlflow().MlflowClient()
        client.set_registered_model_alias("by-others", "champion", "1")
        return source

    monkeypatch.setattr(acts, "make_champion", make_and_move_the_alias)
    with pytest.raises(RegistryError, match="the champion was version 2 and is 1 now; nothing"):
        promote(registered.number, models, "third")
    assert show("by-others", "champion").number == "1"


def test_two_versions_are_compared_by_metrics_and_what_made_them(
    registered: ModelVersion, sample: ModelVersion
) -> None:
    def product1m(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["registry", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    found = json.loads(product1m("compare", registered.number, sample.number, "--json"))
    assert found["second"] == {"model": sample.model, "version": sample.number}
    assert found["gain"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert (found["config"], found["data"]) == ({}, {})
    shown = product1m("compare", registered.number, sample.number)
    assert "configuration: no differences" in shown
    assert "paired +0.000 [+0.000, +0.000]" in shown


def test_a_figure_that_differs_is_compared_with_both_intervals(
    registered: ModelVersion, made: TinyArtifacts, store: MlflowStore
) -> None:
    name = "test/official/shipped/mAR@50"
    other = {name: {"mean": 2.0, "low": 1.0, "high": 3.0}}
    files = store.files(registered)
    evidence = json.loads((files / "evidence.json").read_text("utf-8"))
    evidence["intervals"] |= other
    lineage = json.loads((files / "lineage.json").read_text("utf-8"))
    lineage["evaluation"]["metrics"][name] = 2.0
    changes = {"evidence.json": json.dumps(evidence), "lineage.json": json.dumps(lineage)}
    found = compare(registered, register_changed_copy(store, registered, "better", changes))
    (ours, theirs) = found.metrics[f"evaluation/{name}"]
    assert list(found.metrics) == [f"evaluation/{name}"]
    assert str(theirs) == "2.000 [1.000, 3.000]"
    rows = pd.read_parquet(made.evaluation / "per_query.parquet").query(
        "split == 'test' and method == 'shipped' and definition == 'official' and depth == 50"
    )
    assert isinstance(ours, Interval)
    assert ours.mean == pytest.approx(rows["recall"].mean())
    assert ours.low <= ours.mean <= ours.high
    assert json.dumps(found.as_dict()["metrics"]) == json.dumps(
        {f"evaluation/{name}": [ours.as_dict(), other[name]]}
    )


def test_the_command_line_lists_shows_promotes_rejects_and_rolls_back(
    registered: ModelVersion, tmp_path: Path
) -> None:
    def product1m(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["registry", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    client = registry_mlflow().MlflowClient()
    forged = "x\x1b[2J\n9  2026-11-27  champion"
    client.set_model_version_tag(registered.model, registered.number, "commit", forged)
    assert "x\\x1b[2J\\n9  2026-11-27  champion" in product1m("show", registered.number)
    assert "product1m-candidate" in product1m("list")
    assert registered.description.splitlines()[0] in product1m("show", registered.number)
    to = ["--champion-model", "by-hand"]
    lenient = tmp_path / "rules.yaml"
    lenient.write_text("registration:\n  min_baseline_lead: -1\n")
    for reason in ("first", "second"):
        promotion = ["--version", registered.number, "--reason", reason, "--by", "ann", *to]
        shown = product1m("promote", *promotion, "--rules", str(lenient))
    assert shown.split()[:2] == ["by-hand", "2"]
    rolled = json.loads(product1m("rollback", "--reason", "complaints", "--json", *to))
    assert (rolled["version"], rolled["tags"]["restored"]) == ("3", "1")
    rejected = product1m("reject", "--version", registered.number, "--reason", "old", *to)
    assert "rejected by" in rejected
    listed = json.loads(product1m("list", "--json", *to))
    mine = [row for row in listed if row["model"] == "by-hand"]
    assert [row["version"] for row in mine] == ["3", "2", "1"]
    assert mine[0]["aliases"] == ["champion"]
    described = json.loads(product1m("show", "champion", "--json", *to))
    assert described["tags"]["reason"] == "complaints"
    assert described["description"].startswith("**Promoted by ann**")
    nobody = CliRunner().invoke(app, ["registry", "promote", "--version", "1"])
    assert nobody.exit_code == 2
    assert "Missing option '--reason'" in nobody.output
