"""The champion's answers to today's queries, if it was measured on others.

A comparison is paired: both models answer the same queries from the same gallery, each with all of
its own parts. So the champion's RPN reads today's photos again, its CAPTURE embeds them, and an
index, built as its own was configured, holds today's gallery.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.artifacts.manifest import Summary
from product1m.artifacts.model_parts import CAPTURE, INDEX, RPN
from product1m.capture.crop_adaptation import stored_adaptation
from product1m.capture.network import load_capture
from product1m.config import IndexingConfig
from product1m.data.items import ItemTable
from product1m.data.regions import FeatureSet
from product1m.detection.crop_cache import stored_cropper
from product1m.detection.extraction import RegionSettings
from product1m.detection.feature_sets import write_features
from product1m.detection.ocr_cache import open_reader
from product1m.detection.points import PointFinder
from product1m.detection.untrained_boxes import grabcut_of_scenes
from product1m.errors import Product1MError
from product1m.evaluation.detection_quality import DetectionQuality, detection_quality
from product1m.evaluation.methods import SHIPPED, SHIPPED_WHOLE_PHOTO
from product1m.evaluation.metrics import GroundTruth, score_queries
from product1m.evaluation.shown_boxes import shown_boxes
from product1m.evaluation.statistics import BootstrapPlan
from product1m.evaluation.variants import true_boxes
from product1m.registry.evidence import (
    DEPTH,
    Champion,
    Evidence,
    Remeasured,
    count_products,
)
from product1m.registry.version_files import as_champion, read_lineage
from product1m.registry.versions import ModelVersion, champion_among, list_versions
from product1m.retrieval.building import RECALL, IndexSettings, build_index
from product1m.retrieval.crop_block import CROP
from product1m.retrieval.query_vectors import QueryVectors
from product1m.retrieval.search import Searcher, SearchSettings
from product1m.retrieval.shared_points import POINTS_WEIGHT
from product1m.serving.model_folder import MODEL_FOLDER, ServingConfig, open_part
from product1m.storage.scratch import scratch_folder
from product1m.telemetry.mlflow_client import download

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opponent:
    """The champion that a registration compares its candidate with."""

    champion: Champion | None
    lineage: Mapping[str, Summary]
    """Summaries of the steps that made the champion."""
    remeasured: Remeasured | None = None
    failure: str = ""
    """Why it could not be measured again."""


def meet_champion(
    champion_model: str, lineage: Mapping[str, Summary], queries: Artifact, gallery: Artifact
) -> Opponent:
    """Today's champion, measured again if its evidence is from other queries.

    Args:
        champion_model: name of the registered model.
        lineage: of the candidate.
        queries: that the candidate was measured on.
        gallery: that it answered from.
    """
    version = champion_among(list_versions(champion_model))
    if version is None:
        return Opponent(None, {})
    champion = as_champion(version)
    queries_digest, gallery_digest = (
        lineage[f"ingestion/{part}"].details["content"] for part in ("queries", "gallery")
    )
    counts = lineage["ingestion/queries"].metrics
    with_products = counts.get("with_box_labels") == counts["items"]
    remeasured, failure = None, ""
    if champion.digest and needs_measuring(
        champion.evidence, queries_digest, gallery_digest, with_products
    ):
        try:
            remeasured = measure_champion(version, queries, gallery)
        except Product1MError as error:
            # A champion that this code cannot run must not keep its successor out: the gate says
            # that they were not compared, and a reviewer decides.
            failure = str(error)
            logger.error("%s could not answer today's queries: %s", version.title, error)
    return Opponent(champion, read_lineage(version), remeasured, failure)


def needs_measuring(
    evidence: Evidence | None, queries: str, gallery: str, with_products: bool = False
) -> bool:
    """Whether a champion's own evidence is from other queries or another gallery than these.

    Or, for queries whose boxes have labels (`with_products`), whether it lacks products found.
    """
    if evidence is None or (evidence.queries, evidence.gallery) != (queries, gallery):
        return True
    return with_products and not evidence.found


def measure_champion(champion: ModelVersion, queries: Artifact, gallery: Artifact) -> Remeasured:
    """Let a champion answer the test queries of an ingestion from its gallery.

    Raises ArtifactError or RetrievalError if this code cannot open its model.
    """
    logger.info(
        "%s was measured on other queries, on another gallery or without products found: it "
        "answers these now, with its own regions, embeddings and index",
        champion.title,
    )
    with scratch_folder() as scratch:
        model = download(champion.uri, f"artifacts/{MODEL_FOLDER}", scratch)
        answers = answer_by_methods(model, queries, gallery, scratch)
    top = answers.rankings[SHIPPED]
    truth = GroundTruth.from_rows(ItemTable(queries).rows, ItemTable(gallery).rows)
    scores = score_queries(top, truth, "strict", (DEPTH,))
    return Remeasured(
        version=champion.number,
        evidence_digest=as_champion(champion).digest,
        ap=dict(zip(scores["query_id"], scores["ap"], strict=True)),
        top={query: ranking[:DEPTH] for query, ranking in top.items()},
        found=count_products(answers.quality.per_query)["found"],
    )


@dataclass(frozen=True)
class Answers:
    """What a model answers to the test queries, with an index of its own kind over the gallery."""

    rankings: dict[str, dict[str, list[str]]]
    """Merged, by method and query id."""
    quality: DetectionQuality
    """Quality of its boxes."""
    index_recall: float
    """Recall of its index compared with exact search, at the depth of `RECALL`."""


def answer_by_methods(
    model: Path,
    queries: Artifact,
    gallery: Artifact,
    scratch: Path,
    others: Mapping[str, Mapping[str, float]] | None = None,
) -> Answers:
    """Answers of a model folder to the test queries: as shipped, and by whole photos.

    Args:
        model: the folder.
        queries: of an ingestion.
        gallery: of an ingestion.
        scratch: where features and index are written.
        others: other block weights to rank with, by the method's name.
    """
    serving = _without_unused_crops(ServingConfig.read(model))
    rpn, capture, own = (open_part(model, name) for name in (RPN, CAPTURE, INDEX))
    features = {
        images: _extract(images, rpn, own, serving, scratch / f"{images.manifest.part}_features")
        for images in (gallery, queries)
    }
    index, recall = _build(features[gallery], capture, _indexing_config(own), scratch / INDEX)
    searcher = Searcher.load(index, capture, SearchSettings.from_config(serving.evaluation, rpn))
    photos = FeatureSet(features[queries])
    test_rows = np.flatnonzero(photos.rows["split"] == "test").tolist()
    vectors = searcher.embed(photos).select(test_rows)
    methods = {SHIPPED: serving.weights, **(others or {})}
    ranked = {
        name: searcher.rank(vectors, weights, whole_photo=False)
        for name, weights in methods.items()
    }
    ranked[SHIPPED_WHOLE_PHOTO] = searcher.rank(vectors, serving.weights, whole_photo=True)
    return Answers(ranked, _quality(searcher, photos, vectors, test_rows, serving), recall)


def _without_unused_crops(serving: ServingConfig) -> ServingConfig:
    """Without the weight of crops if it is 0: then none are encoded, and there is no such block."""
    weights = {name: value for name, value in serving.weights.items() if value or name != CROP}
    return serving.model_copy(update={"weights": weights})


def _quality(
    searcher: Searcher,
    photos: FeatureSet,
    vectors: QueryVectors,
    test_rows: Sequence[int],
    serving: ServingConfig,
) -> DetectionQuality:
    truth = GroundTruth.from_rows(photos.rows, searcher.gallery.rows)
    known = true_boxes(photos)
    shown = shown_boxes(
        searcher, vectors, serving.weights, truth, known.select(test_rows), known.complete
    )
    plan = BootstrapPlan.from_config(serving.evaluation)
    return detection_quality(vectors.query_ids, shown, plan)


def _extract(
    images: Artifact, rpn: Artifact, index: Artifact, serving: ServingConfig, folder: Path
) -> Artifact:
    """Regions of photos, and whatever else has a weight; `index` is the model's own."""
    config = serving.feature_extraction
    inputs, part = {"images": images, "rpn": rpn}, images.manifest.part
    finder = PointFinder.from_config(config, part)
    with write_artifact(folder, "feature_extraction", config, inputs, part) as writer:
        write_features(
            images,
            rpn,
            writer,
            RegionSettings.from_config(config, grabcut_of_scenes(rpn)),
            num_workers=config.num_workers,
            shard_mib=config.shard_mib,
            reader=open_reader(config, part, rpn),
            finder=finder if serving.weights.get(POINTS_WEIGHT) else None,
            cropper=stored_cropper(index, config, part, rpn) if CROP in serving.weights else None,
        )
    return open_artifact(folder, "feature_extraction")


def _indexing_config(index: Artifact) -> IndexingConfig:
    return IndexingConfig.model_validate(index.manifest.config)


def _build(
    features: Artifact, capture: Artifact, config: IndexingConfig, folder: Path
) -> tuple[Artifact, float]:
    """The index and its recall."""
    inputs = {"gallery_features": features, "capture": capture}
    with write_artifact(folder, "indexing", config, inputs) as writer:
        settings = IndexSettings.from_config(config)
        crop_map = stored_adaptation(capture, features) if config.adapt_crops else None
        built = build_index(FeatureSet(features), load_capture(capture), settings, crop_map)
        built.write(writer.folder)
        writer.details.update(built.details)
    return open_artifact(folder, "indexing"), built.metrics[RECALL]
