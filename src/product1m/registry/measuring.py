"""Measure a candidate and the champion again, on the reviewer's machine and data.

A stolen pipeline identity can lie about its own figures. Here both models answer the reviewer's
queries from the reviewer's gallery, each with its own boxes, embeddings and index, run by this
installation's code; the gate decides by that.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.data.class_names import read_train_titles
from product1m.data.items import ItemTable
from product1m.evaluation.examples import agreement, choose_examples
from product1m.evaluation.methods import BASELINES, FIXED, IMAGE, IMAGE_TEXT, SHIPPED, TEXT
from product1m.evaluation.metrics import GroundTruth, score_queries
from product1m.evaluation.slices import slices_of
from product1m.evaluation.statistics import BootstrapPlan, paired_difference
from product1m.registry.candidate_files import CandidateFiles
from product1m.registry.champion import answer_by_methods, measure_champion
from product1m.registry.evidence import DEPTH, Evidence, count_products, data_facts
from product1m.registry.versions import ModelVersion
from product1m.serving.service import SearchService
from product1m.storage.scratch import scratch_folder

logger = logging.getLogger(__name__)

BOTH = {**FIXED[IMAGE], **FIXED[TEXT]}
"""Weights of image + text: equal ones, because the pipeline's were chosen on its own dev queries
(ours)."""


@dataclass(frozen=True)
class ReviewerData:
    """What the reviewer measures on: the artifacts of an ingestion."""

    train: Artifact
    queries: Artifact
    gallery: Artifact
    bootstrap: BootstrapPlan

    @classmethod
    def open(
        cls, train: Path, gallery: Path, queries: Path, bootstrap: BootstrapPlan
    ) -> "ReviewerData":
        """Open the three artifacts."""
        return cls(
            open_artifact(train, "ingestion", "train"),
            open_artifact(queries, "ingestion", "queries"),
            open_artifact(gallery, "ingestion", "gallery"),
            bootstrap,
        )

    def measure(self, files: CandidateFiles, champion: ModelVersion | None) -> Evidence:
        """The candidate's evidence, with the figures measured here in place of its own.

        All that the gate looks at: AP and first answers of every test query, slices, leads over the
        baselines (image + text with equal weights, the whole photo with the shipped ones), recall
        of an index built here, whether the model answers photos as it was measured, leaked and
        quarantined items, and the champion on the same queries. If the reviewer's gallery is
        another one than the model's, its answers to photos are as the pipeline recorded them.
        """
        queries, gallery = ItemTable(self.queries), ItemTable(self.gallery)
        truth = GroundTruth.from_rows(queries.rows, gallery.rows)
        plan = self.bootstrap.for_labels(truth.query_labels)
        logger.info("measuring the candidate and the champion on the test queries")
        others = {IMAGE: FIXED[IMAGE], TEXT: FIXED[TEXT], IMAGE_TEXT: BOTH}
        with scratch_folder() as scratch:
            answers = answer_by_methods(files.model, self.queries, self.gallery, scratch, others)
        shipped, quality = answers.rankings[SHIPPED], answers.quality
        ap = {method: _ap(rankings, truth) for method, rankings in answers.rankings.items()}
        parts = {artifact.manifest.key: artifact.manifest for artifact in self._parts}
        changes = {
            "ap": ap[SHIPPED].to_dict(),
            "top": {query: ranking[:DEPTH] for query, ranking in shipped.items()},
            **count_products(quality.per_query),
            "detection": {name: figure.as_dict() for name, figure in quality.figures.items()},
            "leads": {
                method: paired_difference(ap[SHIPPED], ap[method], self.bootstrap).as_dict()
                for method in BASELINES
            },
            "slices": self._slices(truth, shipped, queries),
            "intervals": {},
            "index_recall": answers.index_recall,
            "served_agreement": self._agreement(files, queries, shipped),
            **data_facts(parts),
            "bootstrap": plan,
            "champion": measure_champion(champion, self.queries, self.gallery)
            if champion
            else None,
            "champion_failure": "",
        }
        return files.evidence.model_copy(update=changes)

    @property
    def _parts(self) -> tuple[Artifact, ...]:
        return self.train, self.queries, self.gallery

    def _slices(
        self, truth: GroundTruth, shipped: Mapping[str, object], queries: ItemTable
    ) -> dict[str, Any]:
        labels = {query: truth.query_labels[query] for query in shipped}
        dev = queries.rows.loc[queries.rows["split"] == "dev", "id"]
        table = slices_of(
            labels,
            truth.gallery_label.values(),
            read_train_titles(self.queries),
            [truth.query_labels[query] for query in dev],
        )
        return {name: table[name].to_dict() for name in table.columns}

    def _agreement(
        self, files: CandidateFiles, queries: ItemTable, shipped: Mapping[str, list[str]]
    ) -> float:
        """Agreement of the model's answers to photos with the rankings measured here."""
        if files.evidence.gallery != self.gallery.manifest.details["content"]:
            logger.warning("the model's gallery is another one; its answers are not compared here")
            return files.evidence.served_agreement
        positions = [row for row, query in enumerate(queries.rows["id"]) if query in shipped]
        examples = choose_examples(queries, positions, shipped)
        photos, titles = [e.photo for e in examples], [e.title for e in examples]
        answered = SearchService.load(files.model).answer(photos, titles, DEPTH)
        return agreement([answer.result.merged for answer in answered], examples, DEPTH)


def _ap(rankings: Mapping[str, list[str]], truth: GroundTruth) -> pd.Series:
    scores = score_queries(dict(rankings), truth, "strict", (DEPTH,))
    return pd.Series(dict(zip(scores["query_id"], scores["ap"], strict=True)))
