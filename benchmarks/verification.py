"""Measure what checking the first answers by local features would bring, on a finished run.

A pack that is photographed again keeps its printing. Points of a box and of a gallery photo (SIFT)
are paired by their descriptors, and RANSAC keeps the pairs that one turn, scale and shift explains.
How much their number counts is chosen on the dev queries. The pipeline does not do this yet.

    python benchmarks/verification.py build/sample
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int64, UInt8

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.artifacts.manifest import MANIFEST
from product1m.config import EvaluationConfig
from product1m.data.items import ItemTable
from product1m.data.photos import Photo, resize_photo
from product1m.data.regions import FeatureSet
from product1m.evaluation.artifact_files import shipped_weights
from product1m.evaluation.box_products import box_products
from product1m.evaluation.metrics import GroundTruth, score_queries
from product1m.evaluation.statistics import MAIN_DEPTH, BootstrapPlan, bootstrap_interval
from product1m.evaluation.variants import true_boxes
from product1m.retrieval.merging import merge
from product1m.retrieval.search import QueryVectors, Searcher, SearchSettings
from product1m.telemetry.progress import track

CHECKED = 20
"""First answers of a box that are checked."""
TRIED_WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
"""What the logarithm of the number of shared points adds to a similarity of at most 1."""
CHANCE_POINTS = 3
"""Points that photos of different products share by chance; they do not count."""
GALLERY_POINTS, QUERY_POINTS = 280, 1500
"""Points kept of a photo; 280 with their descriptors take 37 KB."""
GALLERY_SIDE_PX = 400
"""Longer side of a gallery photo whose points are looked for: it shows one product."""
MIN_CONTRAST = 0.02
"""Half of OpenCV's default, because products in a room are small and dim."""
MAX_RATIO = 0.8
"""A pair counts if the second best descriptor is this much farther away (Lowe, IJCV 2004)."""
MAX_DISTANCE = 0.022
"""From where RANSAC expects a point, relative to the extent of the item's points."""
MIN_PAIRS, MAX_SCALE = 4, 5.0
"""Fewer pairs, or a larger change of scale, say nothing."""


@dataclass(frozen=True)
class LocalFeatures:
    """Points of a photo in a fixed order, which RANSAC's result depends on."""

    points_xy: Float32[np.ndarray, "P 2"]
    """Pixels of the photo."""
    descriptors: UInt8[np.ndarray, "P 128"]

    def inside(self, box_xyxy: Float32[np.ndarray, "4"]) -> "LocalFeatures":
        """The points in a box."""
        low, high = box_xyxy[:2], box_xyxy[2:]
        rows = ((self.points_xy >= low) & (self.points_xy <= high)).all(axis=1)
        return LocalFeatures(self.points_xy[rows], self.descriptors[rows])


@dataclass(frozen=True)
class Checked:
    """The rankings of all boxes, and what their first answers share with them."""

    queries: QueryVectors
    similarities: Float64[np.ndarray, "I N"]
    """Weighted means of cosines."""
    positions: Int64[np.ndarray, "I N"]
    strengths: Float64[np.ndarray, "I C"]
    """Logarithms of the numbers of shared points, of the first answers."""

    def ranked(self, weight: float) -> tuple[Float64[np.ndarray, "I N"], Int64[np.ndarray, "I N"]]:
        """Similarities and gallery rows, the first answers in their new order."""
        similarities, positions = self.similarities.copy(), self.positions.copy()
        similarities[:, : self.strengths.shape[1]] += weight * self.strengths
        order = np.argsort(-similarities, axis=1, kind="stable")
        return (
            np.take_along_axis(similarities, order, axis=1),
            np.take_along_axis(positions, order, axis=1),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="output folder of a run")
    inputs = artifacts_of(parser.parse_args().run)
    config = EvaluationConfig.model_validate(inputs["evaluation"].manifest.config)
    settings = SearchSettings.from_config(config)
    searcher = Searcher.load(inputs["index"], inputs["capture"], settings)
    features = FeatureSet(inputs["query_features"])
    truth = GroundTruth.from_rows(features.rows, searcher.gallery.rows)
    queries = searcher.embed(features)
    weights = shipped_weights(inputs["evaluation"])
    checked = check(searcher, queries, weights, inputs)
    right = right_first_answers(checked, searcher, features, truth)
    plan, splits = BootstrapPlan.from_config(config), features.rows["split"].to_numpy()
    dev, test = (np.flatnonzero(splits == split) for split in ("dev", "test"))
    scores = {weight: precision(checked, searcher, truth, weight) for weight in TRIED_WEIGHTS}
    for weight, ap in scores.items():
        print(
            f"weight {weight:4.2f}: strict mAP@{MAIN_DEPTH} {ap[dev].mean():.3f} dev, "
            f"{ap[test].mean():.3f} test; first answers right of boxes on products "
            f"{share(right[weight], dev):.3f} dev, {share(right[weight], test):.3f} test"
        )
    chosen = max(scores, key=lambda weight: scores[weight][dev].mean())
    gain = bootstrap_interval(scores[chosen][test] - scores[0.0][test], plan)
    print(f"chosen on dev: {chosen}; gain in strict mAP@{MAIN_DEPTH} on test {gain.signed}")


def artifacts_of(run: Path) -> dict[str, Artifact]:
    """The evaluation of a run and its inputs by name."""
    manifests = {path.parent: json.loads(path.read_text()) for path in run.rglob(MANIFEST)}
    folder = max(
        (folder for folder, manifest in manifests.items() if manifest["step"] == "evaluation"),
        key=lambda folder: (folder / MANIFEST).stat().st_mtime,
    )
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


def check(
    searcher: Searcher,
    queries: QueryVectors,
    weights: Mapping[str, float],
    inputs: Mapping[str, Artifact],
) -> Checked:
    """Rank the gallery for every box and count what the first answers share with it."""
    similarities, positions = searcher.nearest(
        queries.box_vectors, weights, searcher.settings.depth
    )
    photos, gallery = ItemTable(inputs["queries"]), ItemTable(inputs["gallery"])
    started = time.process_time()
    items = {
        row: local_features(gallery.photo(row), GALLERY_POINTS, GALLERY_SIDE_PX)
        for row in track(np.unique(positions[:, :CHECKED]).tolist(), "points of the gallery")
        if row >= 0
    }
    gallery_ms = 1000 * (time.process_time() - started) / len(items)
    counts = np.zeros((len(positions), min(CHECKED, positions.shape[1])), np.int64)
    query_s = pair_s = 0.0
    for query, boxes in enumerate(track(queries.boxes, "checking answers")):
        started = time.process_time()
        points = local_features(photos.photo(query), QUERY_POINTS)
        query_s += time.process_time() - started
        started = time.process_time()
        for place, box in enumerate(boxes.boxes_xyxy):
            row, inside = int(queries.starts[query]) + place, points.inside(box)
            counts[row] = [
                num_shared(inside, items[item]) if item >= 0 else 0
                for item in positions[row, : counts.shape[1]].tolist()
            ]
        pair_s += time.process_time() - started
    query_ms, pair_ms = 1000 * query_s / len(queries.boxes), 1000 * pair_s / len(counts)
    print(
        f"on one core: {gallery_ms:.0f} ms a gallery photo, {query_ms:.0f} ms a query photo, "
        f"{pair_ms:.1f} ms a box with its first {counts.shape[1]} answers"
    )
    strengths = np.log1p(np.maximum(counts - CHANCE_POINTS, 0))
    total = sum(weights.values())
    return Checked(queries, similarities.astype(np.float64) / total, positions, strengths)


def local_features(photo: Photo, max_points: int, max_side_px: int | None = None) -> LocalFeatures:
    """The strongest points of a photo, by position."""
    scale = min(1.0, (max_side_px or max(photo.shape)) / max(photo.shape[:2]))
    gray = cv2.cvtColor(resize_photo(photo, scale) if scale < 1 else photo, cv2.COLOR_RGB2GRAY)
    sift = cv2.SIFT.create(nfeatures=max_points, contrastThreshold=MIN_CONTRAST)
    found, descriptors = sift.detectAndCompute(gray, None)
    if not found:
        return LocalFeatures(np.empty((0, 2), np.float32), np.empty((0, 128), np.uint8))
    points = np.array([point.pt for point in found], np.float32) / np.float32(scale)
    order = np.lexsort((*descriptors.T[:2], points[:, 1], points[:, 0]))
    return LocalFeatures(points[order], descriptors[order].astype(np.uint8))


def num_shared(query: LocalFeatures, item: LocalFeatures) -> int:
    """Number of an item's points that a box has in the same arrangement."""
    if min(len(query.points_xy), len(item.points_xy)) < MIN_PAIRS:
        return 0
    similarity = _rooted(query.descriptors) @ _rooted(item.descriptors).T
    rows, best = np.arange(len(similarity)), similarity.argmax(axis=1)
    nearest = 2 - 2 * similarity[rows, best]
    similarity[rows, best] = -np.inf
    clear = np.flatnonzero(nearest < MAX_RATIO**2 * (2 - 2 * similarity.max(axis=1)))
    if len(clear) < MIN_PAIRS:
        return 0
    extent = float(np.ptp(item.points_xy, axis=0).max())
    moved, kept = cv2.estimateAffinePartial2D(
        query.points_xy[clear],
        item.points_xy[best[clear]],
        method=cv2.RANSAC,
        ransacReprojThreshold=max(MAX_DISTANCE * extent, 1.0),
        maxIters=500,
    )
    if moved is None or not 1 / MAX_SCALE < np.hypot(*moved[:, 0]) < MAX_SCALE:
        return 0
    return len(np.unique(best[clear][kept[:, 0] > 0]))


def _rooted(descriptors: UInt8[np.ndarray, "P 128"]) -> Float32[np.ndarray, "P 128"]:
    """Products of these are Hellinger similarities (RootSIFT: Arandjelović, CVPR 2012)."""
    wide = descriptors.astype(np.float32)
    return np.asarray(np.sqrt(wide / np.maximum(wide.sum(axis=1, keepdims=True), 1)))


def precision(
    checked: Checked, searcher: Searcher, truth: GroundTruth, weight: float
) -> Float64[np.ndarray, " Q"]:
    """Strict AP@10 of every query's merged ranking."""
    similarities, positions = checked.ranked(weight)
    rankings = searcher.named(similarities, positions)
    starts, ids = checked.queries.starts, checked.queries.query_ids
    merged = {
        query: merge(
            rankings[starts[row] : starts[row + 1]],
            searcher.settings.depth,
            searcher.settings.merge,
        )
        for row, query in enumerate(ids)
    }
    scores = score_queries(merged, truth, "strict", (MAIN_DEPTH,)).set_index("query_id")["ap"]
    return scores.reindex(ids).to_numpy()


def right_first_answers(
    checked: Checked, searcher: Searcher, features: FeatureSet, truth: GroundTruth
) -> dict[float, pd.DataFrame]:
    """By weight: query and whether the first answer is right, for every box on a product."""
    products = box_products(checked.queries, true_boxes(features), truth)
    flat = [(query, own) for query, boxes in enumerate(products) for own in boxes]
    labels = [row[0] for row in searcher.gallery.rows["labels"]]
    tables = {}
    for weight in TRIED_WEIGHTS:
        first = checked.ranked(weight)[1][:, 0]
        rows = [(q, labels[item] in own) for (q, own), item in zip(flat, first, strict=True) if own]
        tables[weight] = pd.DataFrame(rows, columns=["query", "right"])
    return tables


def share(right: pd.DataFrame, queries: Int64[np.ndarray, " Q"]) -> float:
    """Of the boxes of some queries."""
    return float(right.loc[right["query"].isin(queries), "right"].mean())


if __name__ == "__main__":
    main()
