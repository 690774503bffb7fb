import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.config import FeatureExtractionConfig, IngestionConfig
from product1m.data.class_names import write_classes
from product1m.data.regions import FeatureSet, Regions, write_instances
from product1m.errors import ArtifactError, RetrievalError
from product1m.evaluation.methods import FIXED
from product1m.retrieval.embedding import FUSABLE, normalize
from product1m.retrieval.instances import find_instances
from product1m.retrieval.search import Searcher, SearchSettings
from tests.support.worlds import tiny_world
from tests.support.worlds.tiny_world import EVALUATION, TinyArtifacts

SETTINGS = SearchSettings.from_config(EVALUATION)
FUSED_OR_SINGLE = ["shipped", "joint", "joint_streams", "streams", "image", "text", "image_text"]
METHODS = [
    *FUSED_OR_SINGLE,
    *(f"{name}_whole_photo" for name in FUSED_OR_SINGLE),
    "merge_round_robin",
    "merge_score_sorted",
    "merge_reciprocal_rank",
    "random",
    "oracle",
]


@pytest.fixture(scope="module")
def done(tiny_artifacts: TinyArtifacts) -> Artifact:
    return open_artifact(tiny_artifacts.evaluation, "evaluation")


@pytest.fixture(scope="module")
def searcher(tiny_artifacts: TinyArtifacts) -> Searcher:
    index = open_artifact(tiny_artifacts.index, "indexing")
    capture = open_artifact(tiny_artifacts.capture, "capture_pretraining")
    return Searcher.load(index, capture, SETTINGS)


@pytest.fixture(scope="module")
def queries(tiny_artifacts: TinyArtifacts) -> FeatureSet:
    return FeatureSet(open_artifact(tiny_artifacts.queries_features, "feature_extraction"))


def read_json(artifact: Artifact, name: str) -> Any:
    return json.loads(artifact.file(name).read_text("utf-8"))


def read_list(artifact: Artifact) -> dict[str, list[str]]:
    lines = artifact.file("retrieval_id_list.txt").read_text("utf-8").splitlines()
    return {line.split(",")[0]: line.split(",")[1:] for line in lines}


def test_the_artifact_holds_every_product_of_an_evaluation(done: Artifact) -> None:
    done.verify()
    assert {
        "metrics.json",
        "fusion.json",
        "per_query.parquet",
        "slices.parquet",
        "retrieval_id_list.txt",
        "report.html",
        "differences.png",
        "fusion_surface.png",
        "fusion_trials.parquet",
        "instances.parquet",
        "latency.json",
    } <= done.manifest.files.keys()


def test_every_method_is_measured_on_both_splits_in_both_definitions(done: Artifact) -> None:
    metrics = read_json(done, "metrics.json")
    for split in ("dev", "test"):
        assert list(metrics[split]) == METHODS
        for scores in metrics[split].values():
            assert set(scores) == {"official", "strict"}
            assert list(scores["strict"]) == ["10", "50", "100"]
            assert set(scores["official"]["10"]) == {"mAP", "mAR", "Prec"}
    assert list(metrics["fusion"]) == list(FUSABLE)
    assert list(metrics["differences"]) == METHODS[1:]


def test_the_oracle_tops_and_random_ends_every_table(done: Artifact) -> None:
    strict = read_json(done, "metrics.json")["test"]
    scores = {method: strict[method]["strict"]["10"]["mAP"] for method in METHODS}
    assert scores["oracle"] == pytest.approx(1.0)
    assert max(scores, key=lambda method: scores[method]) == "oracle"
    assert scores["shipped"] > 2 * scores["random"]


def test_the_lists_ap_counted_by_hand_is_the_shipped_metric(
    done: Artifact, queries: FeatureSet, searcher: Searcher
) -> None:
    label = {item: labels[0] for item, labels in searcher.gallery.rows[["id", "labels"]].values}
    listed = read_list(done)
    aps = []
    columns = (queries.rows[name].tolist() for name in ("id", "labels", "split"))
    for query, asked, split in zip(*columns, strict=True):
        hits = [label[item] in asked for item in listed[query][:10]]
        precisions = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits)) if hits[n]]
        relevant = sum(of_item in asked for of_item in label.values())
        if split == "test":
            aps.append(sum(precisions) / min(relevant, 10))
    found = read_json(done, "metrics.json")["test"]["shipped"]["strict"]["10"]["mAP"]
    assert found == pytest.approx(np.mean(aps))
    assert done.manifest.metrics["test/strict/shipped/mAP@10"] == found


def test_the_list_is_in_the_released_format(done: Artifact, queries: FeatureSet) -> None:
    text = done.file("retrieval_id_list.txt").read_text("utf-8")
    assert " " not in text
    assert "\n\n" not in text
    listed = read_list(done)
    assert sorted(listed) == sorted(queries.rows["id"])
    assert all(len(ids) == len(set(ids)) == EVALUATION.depth for ids in listed.values())


def test_a_single_search_gives_the_ranking_of_the_evaluation(
    done: Artifact, queries: FeatureSet, searcher: Searcher
) -> None:
    weights = read_json(done, "fusion.json")["shipped"]["weights"]
    listed = read_list(done)
    captions: list[str] = queries.rows["caption"].tolist()
    for row, query in enumerate(queries.rows["id"].tolist()):
        found = searcher.search(captions[row], queries.regions(row), weights)
        assert found.merged == listed[query]
        assert len(found.rankings) == len(found.instances)


def test_an_instance_ranks_by_weighted_block_cosines(
    done: Artifact, queries: FeatureSet, searcher: Searcher
) -> None:
    weights = {"image": 1.0, "text": 0.4, "streams": 0.7}
    regions, title = queries.regions(0), queries.rows["caption"][0]
    found = searcher.search(title, regions, weights)
    view = find_instances(regions, SETTINGS.boxes).views(regions)[0]
    blocks = searcher.encoder.encode([title], [view])
    gallery = searcher.gallery.vectors(np.arange(len(searcher.gallery)))
    scores = sum(
        weight * gallery[:, searcher.layout.columns(block)] @ blocks[block][0]
        for block, weight in weights.items()
    )
    best = np.argsort(-scores)[:5]
    assert [item for item, _ in found.rankings[0][:5]] == [searcher.gallery.ids[i] for i in best]
    assert [s for _, s in found.rankings[0][:5]] == pytest.approx(scores[best].tolist(), abs=1e-5)


def test_the_first_authors_ranking_takes_products_of_joint_and_of_stream_tokens(
    done: Artifact, queries: FeatureSet, searcher: Searcher, tiny_artifacts: TinyArtifacts
) -> None:
    gallery = FeatureSet(open_artifact(tiny_artifacts.gallery_features, "feature_extraction"))
    every = [gallery.regions(row) for row in range(len(gallery))]

    def embedding(titles: list[str], views: list[Regions]) -> np.ndarray:
        tokens = searcher.encoder.capture.embed(titles, views)
        joint = normalize(tokens.joint_text * tokens.joint_image)
        streams = normalize(tokens.stream_text) * normalize(tokens.stream_image)
        return np.concatenate([joint, normalize(streams)], axis=1)

    items = embedding(gallery.rows["caption"].tolist(), every)
    regions, title = queries.regions(20), queries.rows["caption"][20]
    views = find_instances(regions, SETTINGS.boxes).views(regions)
    scores = (embedding([title] * len(views), views) @ items.T).max(axis=0)
    found = searcher.search(title, regions, FIXED["joint_streams"]).merged
    assert found[:8] == [gallery.rows["id"][item] for item in np.argsort(-scores)[:8]]


def test_per_query_rows_average_to_the_metrics(done: Artifact) -> None:
    rows = pd.read_parquet(done.file("per_query.parquet"))
    metrics = read_json(done, "metrics.json")
    for split, method, definition in (("test", "image", "strict"), ("dev", "oracle", "official")):
        chosen = rows[
            (rows["split"] == split)
            & (rows["method"] == method)
            & (rows["definition"] == definition)
            & (rows["depth"] == 50)
        ]
        assert len(chosen) == {"dev": 14, "test": 26}[split]
        assert chosen["ap"].mean() == pytest.approx(metrics[split][method][definition]["50"]["mAP"])


def test_differences_are_shipped_minus_the_other_on_the_same_queries(done: Artifact) -> None:
    metrics = read_json(done, "metrics.json")
    for method, interval in metrics["differences"].items():
        means = [metrics["test"][m]["strict"]["10"]["mAP"] for m in ("shipped", method)]
        assert interval["mean"] == pytest.approx(means[0] - means[1])
        assert interval["low"] <= interval["mean"] <= interval["high"]


def test_every_figure_has_an_interval_around_its_mean(done: Artifact) -> None:
    metrics = read_json(done, "metrics.json")
    for method in METHODS:
        for definition in ("official", "strict"):
            for depth, means in metrics["test"][method][definition].items():
                for name, mean in means.items():
                    interval = metrics["test_intervals"][method][definition][depth][name]
                    assert interval["mean"] == pytest.approx(mean)
                    assert interval["low"] <= mean <= interval["high"]
    for method, interval in metrics["intervals"].items():
        assert interval == metrics["test_intervals"][method]["strict"]["10"]["mAP"]


def test_gains_of_blocks_add_up_to_the_shipped_ranking(done: Artifact) -> None:
    metrics = read_json(done, "metrics.json")
    shipped = metrics["test"]["shipped"]["strict"]["10"]["mAP"]
    without, adding = metrics["blocks"]["without"], metrics["blocks"]["adding"]
    assert [row["block"] for row in without] == list(FUSABLE)
    for row in without:
        assert row["blocks"] == [block for block in FUSABLE if block != row["block"]]
        assert row["gain"]["mean"] == pytest.approx(shipped - row["score"]["mean"])
    assert sorted(row["block"] for row in adding) == sorted(FUSABLE)
    assert [len(row["blocks"]) for row in adding] == [1, 2, 3, 4]
    first = adding[0]["block"]
    assert adding[0]["score"]["mean"] == metrics["test"][first]["strict"]["10"]["mAP"]
    assert adding[-1]["score"]["mean"] == pytest.approx(shipped)
    assert sum(row["gain"]["mean"] for row in adding) == pytest.approx(shipped)


def test_detection_is_counted_from_instances_and_labels(
    done: Artifact, queries: FeatureSet
) -> None:
    instances = pd.read_parquet(done.file("instances.parquet"))
    test = queries.rows[queries.rows["split"] == "test"]
    assert instances["query_id"].drop_duplicates().tolist() == test["id"].tolist()
    found = instances.groupby("query_id").size()
    errors = [found[query] - len(of) for query, of in zip(test["id"], test["labels"], strict=True)]
    figures = read_json(done, "metrics.json")["detection"]
    assert figures["error"]["mean"] == pytest.approx(np.mean(errors))
    assert figures["exact"]["mean"] == pytest.approx(np.mean(np.array(errors) == 0))
    assert "recall" not in figures  # these queries' boxes are not known


def test_every_stage_of_a_query_is_timed(done: Artifact) -> None:
    times = read_json(done, "latency.json")
    assert list(times) == ["embedding", "search", "merge", "total"]
    for stage in times.values():
        assert 0 < stage["p50"] <= stage["p95"] < 10_000
    parts = [times[stage]["p50"] for stage in ("embedding", "search", "merge")]
    assert max(parts) < times["total"]["p50"] < 3 * sum(parts)
    assert done.manifest.metrics["latency/total_ms_p95"] == times["total"]["p95"]


def test_with_the_found_boxes_for_true_ones_the_oracle_ranks_as_shipped(
    tiny_artifacts: TinyArtifacts, queries: FeatureSet, tmp_path: Path
) -> None:
    rows, vectors = [], []
    for query in range(len(queries)):
        regions = queries.regions(query)
        for row in find_instances(regions, SETTINGS.boxes).rows:
            rows.append((query, *regions.boxes_xyxy[row].tolist()))
            vectors.append(regions.features[row])
    table = pd.DataFrame(rows, columns=["scene", "x1", "y1", "x2", "y2"])
    world = with_queries(tiny_artifacts, tmp_path, instances=(table, np.stack(vectors)))
    metrics = tiny_world.evaluate(world, tmp_path / "evaluation")
    done = open_artifact(tmp_path / "evaluation", "evaluation")
    scores = read_json(done, "metrics.json")
    for split in ("dev", "test"):
        assert scores[split]["oracle_boxes"] == scores[split]["shipped"]
    assert scores["detection"]["recall"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert scores["detection"]["precision"]["mean"] == 1.0
    assert metrics["num_queries_with_boxes"] == 40
    assert "Left out: oracle_boxes" not in done.file("report.html").read_text("utf-8")


def test_true_boxes_of_some_queries_only_make_no_method_and_the_report_says_so(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    table = pd.DataFrame([(39, 0, 0, 50, 50)], columns=["scene", "x1", "y1", "x2", "y2"])
    vectors = np.zeros((1, tiny_world.FEATURE_DIM), np.float16)
    world = with_queries(tiny_artifacts, tmp_path, instances=(table, vectors))
    tiny_world.evaluate(world, tmp_path / "evaluation")
    done = open_artifact(tmp_path / "evaluation", "evaluation")
    assert "oracle_boxes" not in read_json(done, "metrics.json")["test"]
    report = done.file("report.html").read_text("utf-8")
    assert "The true boxes of 1 of 26 test queries are known" in report
    assert "Left out: instance_crops; evaluation got no RPN" in report
    assert "Left out: slices by classes seen in training" in report


def test_queries_are_sliced_by_the_training_titles_that_ingestion_counted(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    world = linked(tiny_artifacts, tmp_path, without="queries")
    shutil.copytree(tiny_artifacts.queries, world.queries, symlinks=False)
    titles = {tiny_world.label(number): number % 3 for number in range(tiny_world.NUM_CLASSES)}
    write_classes(world.queries, titles)
    manifest = json.loads((world.queries / "manifest.json").read_text())
    content = (world.queries / "classes.parquet").read_bytes()
    manifest["files"]["classes.parquet"] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "num_bytes": len(content),
    }
    (world.queries / "manifest.json").write_text(json.dumps(manifest))
    tiny_world.evaluate(world, tmp_path / "evaluation")
    done = open_artifact(tmp_path / "evaluation", "evaluation")
    slices = pd.read_parquet(done.file("slices.parquet")).set_index("query_id")
    features = FeatureSet(open_artifact(world.queries_features, "feature_extraction"))
    labels = dict(zip(features.rows["id"], features.rows["labels"], strict=True))
    for query, named in slices["named_in_train"].items():
        assert named == ("yes" if all(titles[of] for of in labels[str(query)]) else "no")


def test_the_title_alone_ranks_the_same_for_an_instance_and_the_whole_photo(done: Artifact) -> None:
    metrics = read_json(done, "metrics.json")["test"]
    assert metrics["text"] == metrics["text_whole_photo"]


def test_baselines_without_capture_have_no_capture_in_their_weights(done: Artifact) -> None:
    fusions = read_json(done, "fusion.json")
    assert set(fusions) == {
        f"{name}{view}" for name in ("shipped", "image_text") for view in ("", "_whole_photo")
    }
    for name in ("image_text", "image_text_whole_photo"):
        assert fusions[name]["weights"]["joint"] == fusions[name]["weights"]["streams"] == 0
        assert max(fusions[name]["weights"].values()) == 1


def test_counts_say_what_was_asked_and_found(done: Artifact) -> None:
    metrics = done.manifest.metrics
    assert (metrics["dev/num_queries"], metrics["test/num_queries"]) == (14, 26)
    assert metrics["test/num_queries_lacking_labels"] == 0
    assert metrics["test/instances_per_query"] == metrics["test/labels_per_query"]  # clear photos
    assert 2 <= metrics["test/labels_per_query"] <= 3


def test_the_same_inputs_give_the_same_digest(
    tiny_artifacts: TinyArtifacts, done: Artifact, tmp_path: Path
) -> None:
    metrics = tiny_world.evaluate(tiny_artifacts, tmp_path / "again")
    again = open_artifact(tmp_path / "again", "evaluation")
    assert again.manifest.metrics == metrics
    figures = [
        {name: value for name, value in of.manifest.metrics.items() if "latency" not in name}
        for of in (again, done)
    ]
    assert figures[0] == figures[1]
    assert again.digest == done.digest  # measured times are in report.html, which is not in it


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
    metrics = tiny_world.evaluate(world, tmp_path / "evaluation")
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
        tiny_world.evaluate(world, tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def test_a_query_that_cannot_be_embedded_is_named_too(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    def no_title(rows: pd.DataFrame) -> None:
        rows["caption"] = rows["caption"].astype(object)
        rows.loc[22, "caption"] = None

    world = with_queries(tiny_artifacts, tmp_path, rows=no_title)
    with pytest.raises(RetrievalError, match="query 322: "):
        tiny_world.evaluate(world, tmp_path / "evaluation")


@pytest.mark.parametrize("missing", ["dev", "test"])
def test_queries_of_one_split_only_are_refused(
    tiny_artifacts: TinyArtifacts, tmp_path: Path, missing: str
) -> None:
    def one_split(rows: pd.DataFrame) -> None:
        rows["split"] = {"dev": "test", "test": "dev"}[missing]

    world = with_queries(tiny_artifacts, tmp_path, rows=one_split)
    with pytest.raises(RetrievalError, match=f"no {missing} queries among 40"):
        tiny_world.evaluate(world, tmp_path / "evaluation")


def test_a_photo_without_proposals_is_searched_as_a_whole(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    def no_scores(numbers: dict[str, np.ndarray], starts: list[int]) -> None:
        numbers["scores"][:] = 0.0

    world = with_queries(tiny_artifacts, tmp_path, features=no_scores)
    metrics = tiny_world.evaluate(world, tmp_path / "evaluation")
    assert metrics["test/instances_per_query"] == 1
    for method in FUSED_OR_SINGLE:
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
        tiny_world.evaluate(world, tmp_path / "evaluation")


def test_photos_of_other_queries_are_refused(tiny_artifacts: TinyArtifacts, tmp_path: Path) -> None:
    world = linked(tiny_artifacts, tmp_path, without="queries")
    with write_artifact(world.queries, "ingestion", IngestionConfig(), part="queries") as writer:
        tiny_world.write_photos(writer, [tiny_world.Item("1", (1,), "rose")])
    with pytest.raises(
        ArtifactError, match=r"made from ingestion/queries with digest .*; run feat"
    ):
        tiny_world.evaluate(world, tmp_path / "evaluation")


def linked(world: TinyArtifacts, folder: Path, without: str) -> TinyArtifacts:
    """The same artifacts at another place, but for one."""
    (folder / "world").mkdir()
    for artifact in world.root.iterdir():
        if artifact.name != without and not artifact.name.startswith("."):
            (folder / "world" / artifact.name).symlink_to(artifact)
    return TinyArtifacts(folder / "world")


def with_queries(
    world: TinyArtifacts,
    folder: Path,
    rows: Callable[[pd.DataFrame], None] | None = None,
    features: Callable[[dict[str, np.ndarray], list[int]], None] | None = None,
    instances: tuple[pd.DataFrame, np.ndarray] | None = None,
) -> TinyArtifacts:
    """The same artifacts with changed query rows or region numbers, or with true boxes."""
    changed = linked(world, folder, without="queries_features")
    source = open_artifact(world.queries_features, "feature_extraction")
    inputs = {
        "images": open_artifact(world.queries, "ingestion"),
        "rpn": open_artifact(world.rpn, "rpn_training"),
    }
    with write_artifact(
        changed.queries_features, "feature_extraction", FeatureExtractionConfig(), inputs, "queries"
    ) as writer:
        for name in source.manifest.files:
            shutil.copyfile(source.file(name), writer.folder / name)
        writer.details.update(source.manifest.details)
        if instances:
            write_instances(writer.folder, *instances)
        if rows:
            table = pd.read_parquet(writer.folder / "items.parquet")
            table["labels"] = table["labels"].map(list)
            rows(table)
            table.to_parquet(writer.folder / "items.parquet")
        if features:
            numbers = load_file(writer.folder / "regions-00000.safetensors")
            starts = pd.read_parquet(writer.folder / "regions.parquet")["start"].tolist()
            features(numbers, starts)
            save_file(numbers, writer.folder / "regions-00000.safetensors")
    return changed
