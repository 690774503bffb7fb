"""What an evaluation's artifact holds, on the tiny world."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.data.regions import FeatureSet
from product1m.evaluation.methods import CAPTURE_ALONE, SHIPPED, WHOLE_PHOTO, WITHOUT_CAPTURE
from product1m.evaluation.statistics import BootstrapPlan, bootstrap_interval
from product1m.retrieval.crop_block import CROP
from product1m.retrieval.embedding import FUSABLE, OCR
from product1m.retrieval.search import Searcher
from tests.support.worlds import tiny_world
from tests.support.worlds.evaluation_files import (
    read_json,
    read_list,
)
from tests.support.worlds.tiny_world import EVALUATION, TinyArtifacts

BLOCKS = [block for block in FUSABLE if block not in (OCR, CROP)]
"""Of an index whose gallery was not read."""
FUSED_OR_SINGLE = [SHIPPED, *CAPTURE_ALONE, *WITHOUT_CAPTURE]
METHODS = [
    *FUSED_OR_SINGLE,
    *(name + WHOLE_PHOTO for name in FUSED_OR_SINGLE),
    "merge_round_robin",
    "merge_score_sorted",
    "merge_reciprocal_rank",
    "nearest_dev_titles",
    "random",
    "oracle",
]


def test_the_artifact_holds_every_product_of_an_evaluation(tiny_evaluation: Artifact) -> None:
    tiny_evaluation.verify()
    assert {
        "metrics.json",
        "fusion.json",
        "per_query.parquet",
        "slices.parquet",
        "dev/retrieval_id_list.txt",
        "test/retrieval_id_list.txt",
        "report.html",
        "differences.png",
        "fusion_surface.png",
        "fusion_trials.parquet",
        "instances.parquet",
        "latency.json",
    } <= tiny_evaluation.manifest.files.keys()


def test_every_method_is_measured_on_both_splits_in_both_definitions(
    tiny_evaluation: Artifact,
) -> None:
    metrics = read_json(tiny_evaluation, "metrics.json")
    for split in ("dev", "test"):
        assert list(metrics[split]) == METHODS
        for scores in metrics[split].values():
            assert set(scores) == {"official", "strict"}
            assert list(scores["strict"]) == ["10", "50", "100"]
            assert set(scores["official"]["10"]) == {"mAP", "mAR", "Prec"}
    assert list(metrics["fusion"])[: len(BLOCKS)] == BLOCKS
    assert list(metrics["differences"]) == METHODS[1:]


def test_the_index_is_asked_with_the_boxes_and_weights_that_ship(tiny_evaluation: Artifact) -> None:
    assert tiny_evaluation.manifest.metrics["index/recall@100"] == 1.0  # Flat


def test_the_oracle_tops_and_random_ends_every_table(tiny_evaluation: Artifact) -> None:
    strict = read_json(tiny_evaluation, "metrics.json")["test"]
    scores = {method: strict[method]["strict"]["10"]["mAP"] for method in METHODS}
    assert scores["oracle"] == pytest.approx(1.0)
    assert max(scores, key=lambda method: scores[method]) == "oracle"
    assert scores["shipped"] > 2 * scores["random"]


def test_the_lists_ap_counted_by_hand_is_the_shipped_metric(
    tiny_evaluation: Artifact, tiny_queries: FeatureSet, tiny_searcher: Searcher
) -> None:
    label = {
        item: labels[0] for item, labels in tiny_searcher.gallery.rows[["id", "labels"]].values
    }
    listed = read_list(tiny_evaluation)
    aps = []
    columns = (tiny_queries.rows[name].tolist() for name in ("id", "labels", "split"))
    for query, asked, split in zip(*columns, strict=True):
        if split == "test":
            hits = [label[item] in asked for item in listed[query][:10]]
            precisions = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits)) if hits[n]]
            relevant = sum(of_item in asked for of_item in label.values())
            aps.append(sum(precisions) / min(relevant, 10))
    found = read_json(tiny_evaluation, "metrics.json")["test"]["shipped"]["strict"]["10"]["mAP"]
    assert found == pytest.approx(np.mean(aps))
    assert tiny_evaluation.manifest.metrics["test/strict/shipped/mAP@10"] == found


@pytest.mark.parametrize("split", ["dev", "test"])
def test_the_list_of_a_split_is_in_the_released_format(
    tiny_evaluation: Artifact, tiny_queries: FeatureSet, split: str
) -> None:
    text = tiny_evaluation.file(f"{split}/retrieval_id_list.txt").read_text("utf-8")
    assert " " not in text
    assert "\n\n" not in text
    listed = read_list(tiny_evaluation, split)
    assert sorted(listed) == sorted(tiny_queries.rows.query("split == @split")["id"])
    assert all(len(ids) == len(set(ids)) == EVALUATION.depth for ids in listed.values())


def test_per_query_rows_average_to_the_metrics(tiny_evaluation: Artifact) -> None:
    rows = pd.read_parquet(tiny_evaluation.file("per_query.parquet"))
    metrics = read_json(tiny_evaluation, "metrics.json")
    for split, method, definition in (("test", "image", "strict"), ("dev", "oracle", "official")):
        chosen = rows[
            (rows["split"] == split)
            & (rows["method"] == method)
            & (rows["definition"] == definition)
            & (rows["depth"] == 50)
        ]
        assert len(chosen) == {"dev": 14, "test": 26}[split]
        assert chosen["ap"].mean() == pytest.approx(metrics[split][method][definition]["50"]["mAP"])


def test_differences_are_shipped_minus_the_other_on_the_same_queries(
    tiny_evaluation: Artifact,
) -> None:
    metrics = read_json(tiny_evaluation, "metrics.json")
    for method, interval in metrics["differences"].items():
        means = [metrics["test"][m]["strict"]["10"]["mAP"] for m in ("shipped", method)]
        assert interval["mean"] == pytest.approx(means[0] - means[1])
        assert interval["low"] <= interval["mean"] <= interval["high"]


def test_intervals_draw_queries_with_the_same_labels_together(
    tiny_evaluation: Artifact, tiny_queries: FeatureSet
) -> None:
    scores = pd.read_parquet(tiny_evaluation.file("per_query.parquet"))
    kept = scores.query("method == 'text' and definition == 'strict' and depth == 10")
    ap = kept[kept["split"] == "test"].set_index("query_id")["ap"].sort_index()
    labels = dict(zip(tiny_queries.rows["id"], map(list, tiny_queries.rows["labels"]), strict=True))
    plan = BootstrapPlan.from_config(EVALUATION)  # its groups have tests of their own
    together = bootstrap_interval(ap, plan.for_labels(labels)).as_dict()
    one_by_one = bootstrap_interval(ap, plan).as_dict()
    interval = read_json(tiny_evaluation, "metrics.json")["intervals"]["text"]
    assert interval == pytest.approx(together)
    assert interval != pytest.approx(one_by_one)


def test_every_figure_has_an_interval_around_its_mean(tiny_evaluation: Artifact) -> None:
    metrics = read_json(tiny_evaluation, "metrics.json")
    for method in METHODS:
        for definition in ("official", "strict"):
            for depth, means in metrics["test"][method][definition].items():
                for name, mean in means.items():
                    interval = metrics["test_intervals"][method][definition][depth][name]
                    assert interval["mean"] == pytest.approx(mean)
                    assert interval["low"] <= mean <= interval["high"]
    for method, interval in metrics["intervals"].items():
        assert interval == metrics["test_intervals"][method]["strict"]["10"]["mAP"]


def test_gains_of_blocks_add_up_to_the_shipped_ranking(tiny_evaluation: Artifact) -> None:
    metrics = read_json(tiny_evaluation, "metrics.json")
    shipped = metrics["test"]["shipped"]["strict"]["10"]["mAP"]
    without, adding = metrics["blocks"]["without"], metrics["blocks"]["adding"]
    parts = list(metrics["fusion"])  # the blocks, and checks if the dev queries gave them weights
    assert [row["block"] for row in without] == parts
    for row in without:
        assert row["blocks"] == [part for part in parts if part != row["block"]]
        assert row["gain"]["mean"] == pytest.approx(shipped - row["score"]["mean"])
    assert sorted(row["block"] for row in adding) == sorted(parts)
    assert [len(row["blocks"]) for row in adding] == list(range(1, len(parts) + 1))
    first = adding[0]["block"]
    assert adding[0]["score"]["mean"] == metrics["test"][first]["strict"]["10"]["mAP"]
    assert adding[-1]["score"]["mean"] == pytest.approx(shipped)
    assert sum(row["gain"]["mean"] for row in adding) == pytest.approx(shipped)


def test_detection_is_counted_from_instances_and_labels(
    tiny_evaluation: Artifact, tiny_queries: FeatureSet
) -> None:
    instances = pd.read_parquet(tiny_evaluation.file("instances.parquet"))
    test = tiny_queries.rows[tiny_queries.rows["split"] == "test"]
    assert instances["query_id"].drop_duplicates().tolist() == test["id"].tolist()
    found = instances.groupby("query_id").size()
    errors = [
        found[query] - len(labels) for query, labels in zip(test["id"], test["labels"], strict=True)
    ]
    figures = read_json(tiny_evaluation, "metrics.json")["detection"]
    assert figures["error"]["mean"] == pytest.approx(np.mean(errors))
    assert figures["exact"]["mean"] == pytest.approx(np.mean(np.array(errors) == 0))
    assert "recall" not in figures  # these queries' boxes are not known


def test_every_stage_of_a_query_is_timed(tiny_evaluation: Artifact) -> None:
    times = read_json(tiny_evaluation, "latency.json")
    stages = ["embedding", "search", "shared_points", "match_scores", "merge", "total"]
    assert list(times) == stages
    assert all(0 < stage["p50"] <= stage["p95"] for stage in times.values())
    assert tiny_evaluation.manifest.metrics["latency/total_ms_p95"] == times["total"]["p95"]


def test_the_title_alone_ranks_the_same_for_an_instance_and_the_whole_photo(
    tiny_evaluation: Artifact,
) -> None:
    metrics = read_json(tiny_evaluation, "metrics.json")["test"]
    assert metrics["text"] == metrics["text_whole_photo"]


def test_baselines_without_capture_have_no_capture_in_their_weights(
    tiny_evaluation: Artifact,
) -> None:
    fusions = read_json(tiny_evaluation, "fusion.json")
    assert set(fusions) == {
        f"{name}{view}" for name in ("shipped", "image_text") for view in ("", "_whole_photo")
    }
    for name in ("image_text", "image_text_whole_photo"):
        assert fusions[name]["weights"]["joint"] == fusions[name]["weights"]["streams"] == 0
        assert max(fusions[name]["weights"].values()) == 1


def test_counts_say_what_was_asked_and_found(tiny_evaluation: Artifact) -> None:
    metrics = tiny_evaluation.manifest.metrics
    assert (metrics["dev/num_queries"], metrics["test/num_queries"]) == (14, 26)
    assert metrics["test/num_queries_lacking_labels"] == 0
    assert metrics["test/instances_per_query"] == metrics["test/labels_per_query"]  # clear photos
    assert 2 <= metrics["test/labels_per_query"] <= 3


def test_the_same_inputs_give_the_same_digest(
    tiny_artifacts: TinyArtifacts, tiny_evaluation: Artifact, tmp_path: Path
) -> None:
    metrics = tiny_world.evaluate(tiny_artifacts, tmp_path / "again")
    again = open_artifact(tmp_path / "again", "evaluation")
    assert again.manifest.metrics == metrics
    figures = [
        {
            name: value
            for name, value in evaluation.manifest.metrics.items()
            if "latency" not in name
        }
        for evaluation in (again, tiny_evaluation)
    ]
    assert figures[0] == figures[1]
    assert (
        again.digest == tiny_evaluation.digest
    )  # measured times are in report.html, which is not in it
