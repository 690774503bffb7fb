"""Measure a candidate and the champion again, on the reviewer's machine and data.

A stolen pipeline identity can lie about its own figures. Here both models answer the reviewer's
queries from the reviewer's gallery, each with its own boxes, embeddings and index, run by this
installation's code; the gate decides by that.
"""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.data.items import ItemTable
from product1m.evaluation.methods import (
    FIXED,
    IMAGE,
    IMAGE_TEXT,
    SHIPPED,
    SHIPPED_WHOLE_PHOTO,
    TEXT,
)
from product1m.evaluation.metrics import GroundTruth, score_queries
from product1m.evaluation.statistics import BootstrapPlan, paired_difference
from product1m.registry.candidate_files import CandidateFiles
from product1m.registry.champion import answer_by_methods, measure_champion
from product1m.registry.evidence import DEPTH, Evidence
from product1m.registry.versions import ModelVersion

logger = logging.getLogger(__name__)

BOTH = {**FIXED[IMAGE], **FIXED[TEXT]}
"""Weights of image + text: equal ones, because the pipeline's were chosen on its own dev queries
(ours)."""


@dataclass(frozen=True)
class ReviewerData:
    """What the reviewer measures on."""

    queries: Artifact
    gallery: Artifact
    bootstrap: BootstrapPlan

    @classmethod
    def open(cls, queries: Path, gallery: Path, bootstrap: BootstrapPlan) -> "ReviewerData":
        """From the artifacts of an ingestion."""
        return cls(
            open_artifact(queries, "ingestion", "queries"),
            open_artifact(gallery, "ingestion", "gallery"),
            bootstrap,
        )

    def measure(self, files: CandidateFiles, champion: ModelVersion | None) -> Evidence:
        """The candidate's evidence with what is measured here in place of what it says.

        Measured: AP and first answers of every test query, leads over the baselines (image + text
        with equal weights, the whole photo with the shipped ones), and the champion on the same
        queries. Slices are the pipeline's, so they are left out; index recall,
        agreement and what was wrong with the training data stay as the pipeline recorded them.
        """
        truth = GroundTruth.from_rows(ItemTable(self.queries).rows, ItemTable(self.gallery).rows)
        logger.info("measuring the candidate and the champion on the test queries")
        with tempfile.TemporaryDirectory() as scratch:
            answers = answer_by_methods(
                files.model,
                self.queries,
                self.gallery,
                Path(scratch),
                {IMAGE: FIXED[IMAGE], TEXT: FIXED[TEXT], IMAGE_TEXT: BOTH},
            )
        top = answers.rankings
        ap = {method: _ap(rankings, truth) for method, rankings in top.items()}
        leads = {
            method: paired_difference(ap[SHIPPED], ap[method], self.bootstrap).as_dict()
            for method in (IMAGE, TEXT, IMAGE_TEXT, SHIPPED_WHOLE_PHOTO)
        }
        changes = {
            "ap": ap[SHIPPED].to_dict(),
            "top": {query: ranking[:DEPTH] for query, ranking in top[SHIPPED].items()},
            **answers.products,
            "detection": {},
            "leads": leads,
            "slices": {},
            "intervals": {},
            "queries": self.queries.manifest.details["content"],
            "gallery": self.gallery.manifest.details["content"],
            "champion": measure_champion(champion, self.queries, self.gallery)
            if champion
            else None,
            "champion_failure": "",
        }
        return files.evidence.model_copy(update=changes)


def _ap(rankings: Mapping[str, list[str]], truth: GroundTruth) -> pd.Series:
    scores = score_queries(dict(rankings), truth, "strict", (DEPTH,))
    return pd.Series(dict(zip(scores["query_id"], scores["ap"], strict=True)))
