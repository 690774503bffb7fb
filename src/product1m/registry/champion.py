"""The champion's answers to today's queries, where it was measured on others.

A comparison is paired: both answer the same queries from the same gallery, each with all of its own
parts. So the champion's RPN reads today's photos anew, its CAPTURE embeds them, and an index as it
was configured to build one holds today's gallery.
"""

import logging
import tempfile
from pathlib import Path

import numpy as np

from product1m.artifacts.folder import open_artifact
from product1m.config import IndexingConfig
from product1m.data.items import ItemTable
from product1m.data.regions import FeatureSet
from product1m.evaluation.metrics import GroundTruth, score_queries
from product1m.registry.gate import EVIDENCE, Evidence, Remeasured
from product1m.registry.versions import MODEL_FOLDER, Version, download
from product1m.retrieval.search import Searcher, SearchSettings
from product1m.serving.service import CAPTURE, INDEX, RPN, SERVING, ServingConfig
from product1m.steps import feature_extraction, indexing
from product1m.telemetry.tracking import untracked

logger = logging.getLogger(__name__)

DEPTH = 10
"""Of the gate's metric and of the rankings that are kept."""


def needs_measuring(evidence: Evidence | None, queries: str, gallery: str) -> bool:
    """Whether a champion's own evidence is of other queries or another gallery than these."""
    return evidence is None or (evidence.queries, evidence.gallery) != (queries, gallery)


def measure_champion(champion: Version, queries: Path, gallery: Path) -> Remeasured:
    """Let a champion answer the test queries of an ingestion from its gallery.

    Raises ArtifactError or RetrievalError where its model cannot be opened by this code.
    """
    logger.info(
        "%s was measured on other queries or another gallery: it answers these now, with its own "
        "regions, embeddings and index",
        champion.title,
    )
    with tempfile.TemporaryDirectory() as scratch, untracked():
        model = download(champion, f"artifacts/{MODEL_FOLDER}", Path(scratch))
        top = _answers(model, queries, gallery, Path(scratch))
    truth = _truth(queries, gallery)
    scores = score_queries(top, truth, "strict", (DEPTH,))
    return Remeasured(
        version=champion.number,
        evidence_digest=champion.tags.get(f"digest.{EVIDENCE}", ""),
        ap=dict(zip(scores["query_id"], scores["ap"], strict=True)),
        top={query: ranking[:DEPTH] for query, ranking in top.items()},
    )


def _answers(model: Path, queries: Path, gallery: Path, scratch: Path) -> dict[str, list[str]]:
    """Merged rankings of the test queries."""
    serving = ServingConfig.read(model / SERVING)
    for images, name in ((gallery, "gallery_features"), (queries, "query_features")):
        feature_extraction.run(images, model / RPN, scratch / name, serving.feature_extraction)
    built = open_artifact(model / INDEX, "indexing").manifest.config
    indexing.run(
        scratch / "gallery_features",
        model / CAPTURE,
        scratch / INDEX,
        IndexingConfig.model_validate(built),
    )
    searcher = Searcher.load(
        open_artifact(scratch / INDEX, "indexing"),
        open_artifact(model / CAPTURE, "capture_pretraining"),
        SearchSettings.from_config(serving.evaluation),
    )
    features = FeatureSet(open_artifact(scratch / "query_features", "feature_extraction"))
    tested = np.flatnonzero(features.rows["split"] == "test").tolist()
    vectors = searcher.embed(features).select(tested)
    return searcher.rank(vectors, serving.weights, whole_photo=False)


def _truth(queries: Path, gallery: Path) -> GroundTruth:
    asked = ItemTable(open_artifact(queries, "ingestion", "queries")).rows
    items = ItemTable(open_artifact(gallery, "ingestion", "gallery")).rows
    return GroundTruth.of_rows(asked, items)
