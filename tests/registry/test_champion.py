"""A champion that was measured on other queries meets a candidate on today's."""

import json
import logging
import shutil
from pathlib import Path

import pandas as pd
import pytest

from product1m.artifacts.folder import open_artifact
from product1m.data.items import ItemTable
from product1m.errors import RegistryError
from product1m.registry import compare
from product1m.registry.version_files import read_evidence
from product1m.registry.versions import ModelVersion
from product1m.steps import feature_extraction, ingestion
from product1m.telemetry.mlflow_client import registry_mlflow
from tests.support.worlds import tiny_chain
from tests.support.worlds.registered_model import (
    LENIENT,
    MlflowStore,
    models_of,
    promote,
    run_registration,
)
from tests.support.worlds.tiny_world import TinyArtifacts

pytestmark = [
    pytest.mark.usefixtures("store", "asked_here"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # mlflow warns about itself
]


def strict_ap_at_10(ranking: list[str], wanted: list[str], label_of: dict[str, str]) -> float:
    """Precision at every hit among the first ten, over the hits there could be."""
    relevant = sum(label in wanted for label in label_of.values())
    hits, total = 0, 0.0
    for rank, item in enumerate(ranking[:10], start=1):
        if label_of[item] in wanted:
            hits += 1
            total += hits / rank
    return total / min(relevant, 10)


def served_answers(
    address: str, other_queries: TinyArtifacts, made: TinyArtifacts
) -> dict[str, tuple[list[str], float]]:
    """Ranking and AP of every test query, from a model as it is served, photo by photo."""
    model = registry_mlflow().pyfunc.load_model(address)
    queries = ItemTable(open_artifact(other_queries.queries, "ingestion", "queries"))
    gallery = ItemTable(open_artifact(made.gallery, "ingestion", "gallery")).rows
    label_of = {row["id"]: row["labels"][0] for row in gallery.to_dict("records")}
    answers = {}
    for place, row in enumerate(queries.rows.to_dict("records")):
        if row["split"] == "test":
            asked = pd.DataFrame({"photo": [queries.encoded(place)], "title": [row["caption"]]})
            ranking = model.predict(asked, params={"top_k": 10})["ids"].iloc[0]
            answers[row["id"]] = ranking, strict_ap_at_10(ranking, row["labels"], label_of)
    return answers


@pytest.fixture(scope="module")
def other_queries(made: TinyArtifacts, tmp_path_factory: pytest.TempPathFactory) -> TinyArtifacts:
    """The same models evaluated on other queries: half as many, with other titles."""
    root = tmp_path_factory.mktemp("other")
    data = shutil.copytree(made.root / "dataset", root / "dataset")
    lines = (data / "queries.jsonl").read_text("utf-8").splitlines()[::2]
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row["caption"] = f"{row['labels'][0]} new"
    (data / "queries.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    ingestion.run(str(data), root / "t", root / "g", root / "queries", tiny_chain.CONFIG.ingestion)
    for name in ("rpn", "capture", "index", "gallery"):
        (root / name).symlink_to(made.root / name)
    other = TinyArtifacts(root)
    feature_extraction.run(
        other.queries, other.rpn, other.queries_features, tiny_chain.CONFIG.feature_extraction
    )
    tiny_chain.evaluate(other, other.evaluation)
    return other


def test_a_champion_of_other_queries_answers_these_first(
    made: TinyArtifacts,
    registered: ModelVersion,
    other_queries: TinyArtifacts,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = LENIENT.model_copy(update={"champion_model": "of-other-queries", "max_map_loss": 1.0})
    champion = promote(registered.number, models_of(config), "first")
    with caplog.at_level(logging.INFO):
        version = run_registration(other_queries, tmp_path / "out", config)
    assert "of-other-queries version 1 was measured on other queries" in caplog.text
    evidence = read_evidence(version)
    assert evidence is not None
    assert evidence.champion is not None
    assert evidence.champion.version == champion.number

    answers = served_answers("models:/of-other-queries@champion", other_queries, made)
    expected = {query: ap for query, (_, ap) in answers.items()}
    assert evidence.champion.ap == pytest.approx(expected)
    assert evidence.champion.top == {query: ranking for query, (ranking, _) in answers.items()}
    assert 0 < len(expected) < 12

    gate = json.loads((tmp_path / "out" / "gate.json").read_text("utf-8"))
    rule = next(rule for rule in gate["rules"] if rule["name"] == "not behind the champion")
    assert rule["outcome"] == "pass"
    assert "champion measured again on these queries" in rule["found"]
    mean = sum(expected.values()) / len(expected)
    assert gate["champion_map_at_10"] == pytest.approx(mean)
    assert rule["value"] == pytest.approx(evidence.map_at_10.mean - mean)
    assert "- data: queries: `" in version.description
    compared = compare.compare(registered, version)
    assert compared.gain is None
    assert compared.data["queries/items"] == (18.0, 9.0)


def test_a_champion_that_cannot_be_run_keeps_no_successor_out(
    registered: ModelVersion,
    other_queries: TinyArtifacts,
    store: MlflowStore,
    tmp_path: Path,
) -> None:
    config = LENIENT.model_copy(update={"champion_model": "unreadable"})
    champion = promote(registered.number, models_of(config), "first")
    serving = store.files(champion) / "artifacts" / "model" / "serving.json"
    content = serving.read_bytes()
    serving.write_text("{}")
    try:
        version = run_registration(other_queries, tmp_path / "out", config)
    finally:
        serving.write_bytes(content)
    assert version.tags["gate"] == "not compared"
    assert "and could not answer these: " in version.description
    assert "serving.json: not a serving configuration" in version.description
    with pytest.raises(RegistryError, match="add --override-gate"):
        promote(version.number, models_of(config), "why not")
