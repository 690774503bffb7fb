"""What checking first answers by shared points costs and brings, on a finished run.

    python benchmarks/shared_points.py build/sample

Times are of one core. The table ranks the test queries with every weight that evaluation tried on
the dev queries; the weight that ships is the one that these elected.
"""

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.artifacts.manifest import MANIFEST
from product1m.config import EvaluationConfig, FeatureExtractionConfig
from product1m.data.items import ItemTable
from product1m.data.regions import FeatureSet
from product1m.detection.points import PointFinder
from product1m.errors import PipelineError
from product1m.evaluation.artifact_files import shipped_weights
from product1m.evaluation.metrics import GroundTruth, score_queries
from product1m.evaluation.statistics import MAIN_DEPTH, BootstrapPlan, bootstrap_interval
from product1m.retrieval.search import Searcher, SearchSettings
from product1m.retrieval.shared_points import POINTS_WEIGHT, Matcher, PreparedItems

TIMED = 50
"""Photos of each kind that are timed."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="output folder of a run")
    inputs = artifacts_of(parser.parse_args().run)
    cv2.setNumThreads(1)
    print_costs(inputs)
    print_scores(inputs)


def artifacts_of(run: Path) -> dict[str, Artifact]:
    """The newest evaluation of a run and its inputs by name."""
    manifests = {path.parent: json.loads(path.read_text()) for path in run.rglob(MANIFEST)}
    folder = max(
        (folder for folder, manifest in manifests.items() if manifest["step"] == "evaluation"),
        key=lambda folder: (folder / MANIFEST).stat().st_mtime,
        default=None,
    )
    if folder is None:
        raise PipelineError(f"{run}: no evaluation below it; run the pipeline first")
    by_digest = {manifest["digest"]: folder for folder, manifest in manifests.items()}
    named = {
        name: by_digest[digest]
        for name, digest in manifests[folder]["inputs"].items()
        if digest in by_digest
    }
    return {
        name: open_artifact(path, manifests[path]["step"], manifests[path]["part"])
        for name, path in (named | {"evaluation": folder}).items()
    }


def print_costs(inputs: dict[str, Artifact]) -> None:
    """Milliseconds of finding and matching points."""
    config = FeatureExtractionConfig.model_validate(inputs["query_features"].manifest.config)
    for part in ("gallery", "queries"):
        items, finder = ItemTable(inputs[part]), PointFinder.from_config(config, part)
        if finder is None:
            raise PipelineError("the run looked for no points: feature_extraction.gallery_points=0")
        photos = [items.photo(row) for row in range(min(TIMED, len(items)))]
        started = time.process_time()
        counts = [len(finder.find(photo)) for photo in photos]
        spent = 1000 * (time.process_time() - started) / len(photos)
        print(f"{part}: {spent:.0f} ms a photo, {np.mean(counts):.0f} points")
    searcher, queries = _searcher(inputs), FeatureSet(inputs["query_features"])
    vectors, table = searcher.embed(queries), searcher.gallery.points
    assert table is not None
    weights = dict.fromkeys(searcher.layout.widths, 1.0)
    nearest = searcher.nearest(vectors.box_vectors, weights, searcher.settings.checked)
    started = time.process_time()
    for query in range(min(TIMED, len(queries))):
        points = queries.points(query)
        own = vectors.boxes[query].boxes_xyxy
        matcher = Matcher([points.inside(box) for box in own], PreparedItems(table))
        for place in range(len(own)):
            matcher.count(place, nearest.positions[int(vectors.starts[query]) + place])
    spent = 1000 * (time.process_time() - started) / vectors.starts[query + 1]
    print(f"matching: {spent:.1f} ms a box with its first {searcher.settings.checked} answers")
    size = inputs["index"].file("points.arrow").stat().st_size / len(table)
    print(f"index: {size / 1000:.1f} KB an item")


def print_scores(inputs: dict[str, Artifact]) -> None:
    """Strict mAP@10 by weight."""
    config = EvaluationConfig.model_validate(inputs["evaluation"].manifest.config)
    searcher, features = _searcher(inputs), FeatureSet(inputs["query_features"])
    queries, shipped = searcher.embed(features), shipped_weights(inputs["evaluation"])
    truth = GroundTruth.from_rows(features.rows, searcher.gallery.rows)
    plan = BootstrapPlan.from_config(config).for_labels(truth.query_labels)
    splits = features.rows["split"].to_numpy()
    chosen = shipped.get(POINTS_WEIGHT, 0.0)
    without = None
    for weight in sorted({0.0, *config.points_weights, chosen}):
        rankings = searcher.rank(queries, shipped | {POINTS_WEIGHT: weight}, whole_photo=False)
        scores = score_queries(rankings, truth, "strict", (MAIN_DEPTH,)).set_index("query_id")
        ap = scores["ap"].reindex(queries.query_ids)
        without = ap if without is None else without
        dev, test = (ap[splits == split] for split in ("dev", "test"))
        gain = bootstrap_interval((ap - without)[splits == "test"], plan)
        mark = " <- elected on dev" if weight == chosen else ""
        print(
            f"weight {weight:.4g}: strict mAP@{MAIN_DEPTH} {dev.mean():.3f} dev, "
            f"{test.mean():.3f} test, gain {gain.signed}{mark}"
        )


def _searcher(inputs: dict[str, Artifact]) -> Searcher:
    config = EvaluationConfig.model_validate(inputs["evaluation"].manifest.config)
    settings = SearchSettings.from_config(config, inputs["query_features"])
    return Searcher.load(inputs["index"], inputs["capture"], settings)


if __name__ == "__main__":
    main()
