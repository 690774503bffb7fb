"""What the evaluation does with queries that lack something or belong elsewhere."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.config import IngestionConfig
from product1m.data.class_names import CLASSES, write_classes
from product1m.data.regions import FeatureSet
from product1m.errors import ArtifactError, RetrievalError
from product1m.evaluation.artifact_files import read_products, shipped_weights
from product1m.evaluation.methods import CAPTURE_ALONE, SHIPPED, WITHOUT_CAPTURE
from product1m.retrieval.query_boxes import choose_boxes
from tests.support.worlds import tiny_world
from tests.support.worlds.changed_manifests import rewrite_manifest
from tests.support.worlds.changed_queries import linked, with_queries
from tests.support.worlds.evaluation_files import (
    SETTINGS,
    open_searcher,
    read_json,
)
from tests.support.worlds.tiny_world import TinyArtifacts


def test_with_the_found_boxes_for_true_ones_the_oracle_ranks_as_shipped(
    tiny_artifacts: TinyArtifacts, tiny_queries: FeatureSet, tmp_path: Path
) -> None:
    rows, vectors = [], []
    for query in range(len(tiny_queries)):
        regions = tiny_queries.regions(query)
        for row in choose_boxes(regions, SETTINGS.boxes).rows:
            rows.append((query, *regions.boxes_xyxy[row].tolist()))
            vectors.append(regions.features[row])
    table = pd.DataFrame(rows, columns=["scene", "x1", "y1", "x2", "y2"])
    world = with_queries(tiny_artifacts, tmp_path, instances=(table, np.stack(vectors)))
    metrics = tiny_world.evaluate(world, tmp_path / "evaluation", tiny_world.QUICK)
    done = open_artifact(tmp_path / "evaluation", "evaluation")
    scores = read_json(done, "metrics.json")
    for split in ("dev", "test"):
        assert scores[split]["oracle_boxes"] == scores[split]["shipped"]
    assert scores["detection"]["recall"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert scores["detection"]["precision"]["mean"] == 1.0
    assert metrics["num_queries_with_boxes"] == 40
    assert "Left out: oracle_boxes" not in done.file("report.html").read_text("utf-8")


def test_products_found_are_those_whose_own_box_names_them(
    tiny_artifacts: TinyArtifacts, tiny_queries: FeatureSet, tmp_path: Path
) -> None:
    items = tiny_queries.rows
    rows, vectors = [], []
    for query, labels in enumerate(items["labels"]):
        regions = tiny_queries.regions(query)
        for row, label in enumerate(labels, start=1):  # region 1 shows the first product, …
            rows.append((query, *regions.boxes_xyxy[row].tolist(), label))
            vectors.append(regions.features[row])
    table = pd.DataFrame(rows, columns=["scene", "x1", "y1", "x2", "y2", "label"])
    world = with_queries(tiny_artifacts, tmp_path, instances=(table, np.stack(vectors)))
    metrics = tiny_world.evaluate(world, tmp_path / "evaluation", tiny_world.QUICK)
    done = open_artifact(tmp_path / "evaluation", "evaluation")

    searcher, weights = open_searcher(world), shipped_weights(done)
    label_of = dict(zip(searcher.gallery.ids, searcher.gallery.rows["labels"], strict=True))
    products, found = 0, {1: 0, 5: 0}
    for query in np.flatnonzero(items["split"] == "test").tolist():
        result = searcher.search(items["caption"][query], tiny_queries.regions(query), weights)
        shown = result.boxes.boxes_xyxy.tolist()
        for box, label in table.loc[table["scene"] == query, ["x1", "label"]].to_numpy():
            products += 1
            for depth in found:
                answers = [
                    label_of[item][0]
                    for place, ranking in zip(shown, result.rankings, strict=True)
                    if place[0] == box
                    for item, _ in ranking[:depth]
                ]
                found[depth] += label in answers
    figures = read_json(done, "metrics.json")["detection"]
    for depth, number in found.items():
        assert figures[f"products_found@{depth}"]["mean"] == pytest.approx(number / products)
        assert metrics[f"detection/products_found@{depth}"] == pytest.approx(number / products)
    counts = read_products(done)
    assert counts is not None
    assert counts["products_found@1"].sum() == found[1]
    assert "Left out: products found" not in done.file("report.html").read_text("utf-8")


def test_true_boxes_of_some_queries_only_make_no_method_and_the_report_says_so(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    table = pd.DataFrame([(39, 0, 0, 50, 50)], columns=["scene", "x1", "y1", "x2", "y2"])
    vectors = np.zeros((1, tiny_world.FEATURE_DIM), np.float16)
    world = with_queries(tiny_artifacts, tmp_path, instances=(table, vectors))
    tiny_world.evaluate(world, tmp_path / "evaluation", tiny_world.QUICK)
    done = open_artifact(tmp_path / "evaluation", "evaluation")
    assert "oracle_boxes" not in read_json(done, "metrics.json")["test"]
    report = done.file("report.html").read_text("utf-8")
    assert "true boxes of every test query; they are known for 1 of 26" in report
    assert "Left out: products found. They need the labels of the true boxes" in report
    assert "Left out: instance_crops; evaluation got no RPN" in report
    assert "Left out: slices by classes seen in training" in report


def test_queries_are_sliced_by_the_training_titles_that_ingestion_counted(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    world = linked(tiny_artifacts, tmp_path, without="queries")
    shutil.copytree(tiny_artifacts.queries, world.queries, symlinks=False)
    titles = {tiny_world.label(number): number % 3 for number in range(tiny_world.NUM_CLASSES)}
    write_classes(world.queries, titles)
    content = (world.queries / "classes.parquet").read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "num_bytes": len(content)}
    rewrite_manifest(world.queries, lambda values: values["files"].update({CLASSES: entry}))
    tiny_world.evaluate(world, tmp_path / "evaluation", tiny_world.QUICK)
    done = open_artifact(tmp_path / "evaluation", "evaluation")
    slices = pd.read_parquet(done.file("slices.parquet")).set_index("query_id")
    features = FeatureSet(open_artifact(world.queries_features, "feature_extraction"))
    labels = dict(zip(features.rows["id"], features.rows["labels"], strict=True))
    for query, named in slices["named_in_train"].items():
        assert named == ("yes" if all(titles[label] for label in labels[str(query)]) else "no")


def test_a_query_label_that_the_gallery_lacks_is_counted_and_reported(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    def lose_labels(rows: pd.DataFrame) -> None:
        tests = rows.index[rows["split"] == "test"]
        labels: list[list[str]] = rows["labels"].tolist()
        labels[tests[0]] = ["Nori lost cream"]
        labels[tests[1]] = [*labels[tests[1]], "Nori lost cream"]
        rows["labels"] = labels

    world = with_queries(tiny_artifacts, tmp_path, rows=lose_labels)
    metrics = tiny_world.evaluate(world, tmp_path / "evaluation", tiny_world.QUICK)
    assert metrics["test/num_queries_lacking_labels"] == 2
    scores = read_json(open_artifact(tmp_path / "evaluation", "evaluation"), "metrics.json")
    assert scores["test"]["oracle"]["strict"]["10"]["mAP"] == pytest.approx(1.0)
    assert scores["test"]["oracle"]["official"]["10"]["mAP"] == pytest.approx(24 / 26)
    report = (tmp_path / "evaluation" / "report.html").read_text("utf-8")
    assert "2 of 26 test queries ask for a label" in report


def test_a_damaged_query_stops_the_step_with_its_id(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    def spoil(numbers: dict[str, np.ndarray], starts: list[int]) -> None:
        numbers["features"][starts[17] + 1] = np.nan

    world = with_queries(tiny_artifacts, tmp_path, features=spoil)
    with pytest.raises(RetrievalError, match=r"query 317: a region's feature .* not a finite"):
        tiny_world.evaluate(world, tmp_path / "evaluation", tiny_world.QUICK)
    assert not (tmp_path / "evaluation").exists()


def test_a_query_that_cannot_be_embedded_is_named_too(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    def no_title(rows: pd.DataFrame) -> None:
        rows["caption"] = rows["caption"].astype(object)
        rows.loc[22, "caption"] = None

    world = with_queries(tiny_artifacts, tmp_path, rows=no_title)
    with pytest.raises(RetrievalError, match="query 322: "):
        tiny_world.evaluate(world, tmp_path / "evaluation", tiny_world.QUICK)


@pytest.mark.parametrize("missing", ["dev", "test"])
def test_queries_of_one_split_only_are_refused(
    tiny_artifacts: TinyArtifacts, tmp_path: Path, missing: str
) -> None:
    def one_split(rows: pd.DataFrame) -> None:
        rows["split"] = {"dev": "test", "test": "dev"}[missing]

    world = with_queries(tiny_artifacts, tmp_path, rows=one_split)
    with pytest.raises(RetrievalError, match=f"no {missing} queries among 40"):
        tiny_world.evaluate(world, tmp_path / "evaluation", tiny_world.QUICK)


def test_a_photo_without_proposals_is_searched_as_a_whole(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    def no_scores(numbers: dict[str, np.ndarray], starts: list[int]) -> None:
        numbers["scores"][:] = 0.0

    world = with_queries(tiny_artifacts, tmp_path, features=no_scores)
    metrics = tiny_world.evaluate(world, tmp_path / "evaluation", tiny_world.QUICK)
    assert metrics["test/instances_per_query"] == 0  # nothing is shown as a product
    for method in (SHIPPED, *CAPTURE_ALONE, *WITHOUT_CAPTURE):
        names = [f"test/strict/{name}/mAP@10" for name in (method, f"{method}_whole_photo")]
        assert metrics[names[0]] == metrics[names[1]]


def test_an_index_of_another_capture_is_refused_with_both_digests(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    world = linked(tiny_artifacts, tmp_path, without="capture")
    source = open_artifact(tiny_artifacts.capture, "capture_pretraining")
    inputs = {
        "train_features": open_artifact(world.train_features, "feature_extraction"),
        "scene_features": open_artifact(world.scenes_features, "feature_extraction"),
    }
    with write_artifact(world.capture, "capture_pretraining", tiny_world.CAPTURE, inputs) as other:
        shutil.copytree(source.folder / "tokenizer", other.folder / "tokenizer")
        weights = load_file(source.file("model.safetensors"))
        weights["log_temperature"] += 1
        save_file(weights, other.folder / "model.safetensors")
        other.details.update(source.manifest.details)
    digest = open_artifact(world.capture, "capture_pretraining").digest
    with pytest.raises(ArtifactError, match=f"digest {source.digest}, but .* {digest}; run index"):
        tiny_world.evaluate(world, tmp_path / "evaluation", tiny_world.QUICK)


def test_photos_of_other_queries_are_refused(tiny_artifacts: TinyArtifacts, tmp_path: Path) -> None:
    world = linked(tiny_artifacts, tmp_path, without="queries")
    with write_artifact(world.queries, "ingestion", IngestionConfig(), part="queries") as writer:
        tiny_world.write_photos(writer, [tiny_world.Item("1", (1,), "rose")])
    with pytest.raises(
        ArtifactError, match=r"made from ingestion/queries with digest .*; run feat"
    ):
        tiny_world.evaluate(world, tmp_path / "evaluation", tiny_world.QUICK)
