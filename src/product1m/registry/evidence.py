"""Evidence: what a version was measured to do, stored with it as `evidence.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict

from product1m.artifacts.folder import Artifact
from product1m.artifacts.manifest import Summary
from product1m.artifacts.pretrained import PretrainedWeights, pretrained_in
from product1m.config import EvaluationConfig, RegistrationConfig
from product1m.data.sample_mark import SAMPLE_DATA
from product1m.detection.measuring import IMAGE_ONLY, IMAGE_ONLY_BEFORE
from product1m.evaluation.artifact_files import (
    rankings_of,
    read_metrics,
    read_per_query,
    read_products,
    read_slices,
)
from product1m.evaluation.detection_quality import PRODUCTS, PRODUCTS_FOUND
from product1m.evaluation.index_recall import SEARCHED_RECALL
from product1m.evaluation.methods import BASELINES, SHIPPED
from product1m.evaluation.results import figures
from product1m.evaluation.scoring import read_rankings
from product1m.evaluation.statistics import BootstrapPlan, Interval, bootstrap_interval

EVIDENCE = "evidence.json"
EVIDENCE_DIGEST = "digest.evidence.json"
"""Tag of a champion version."""
DEPTH = 10
"""Depth of the gate's metric and of the stored rankings."""


class Rules(RegistrationConfig):
    """The rules of a version, also of one registered with a key that no longer exists."""

    model_config = ConfigDict(extra="ignore")


def rules_for(config: RegistrationConfig, lineage: Mapping[str, Summary]) -> Rules:
    """The configuration's rules; a data set that carries the mark of a sample counts as one."""
    has_sample_data = any(
        summary.details.get(SAMPLE_DATA)
        for summary in lineage.values()
        if summary.step == "ingestion"
    )
    values = config.model_dump()
    return Rules.model_validate(values | {SAMPLE_DATA: config.sample_data or has_sample_data})


class Remeasured(BaseModel):
    """The champion's answers to the candidate's queries, from the candidate's gallery."""

    model_config = ConfigDict(frozen=True)

    version: str
    """Version of the champion model."""
    evidence_digest: str
    """Identifies the champion: copying changes a version's number, not its evidence."""
    ap: dict[str, float]
    top: dict[str, list[str]]
    found: dict[str, int] = {}
    """Same as in `Evidence`."""


class Evidence(BaseModel):
    """What a version was measured to do; stored with it as `evidence.json`."""

    model_config = ConfigDict(frozen=True)

    ap: dict[str, float]
    """Strict AP@10 of the shipped ranking, by test query."""
    top: dict[str, list[str]] = {}
    """The shipped ranking's first ten gallery ids, by test query."""
    found: dict[str, int] = {}
    """Products whose box has the right first answer, by test query; empty if the true boxes or
    their labels are unknown."""
    products: dict[str, int] = {}
    """Products in the photo, for the same queries."""
    detection: dict[str, dict[str, float]] = {}
    """The evaluation's figures of boxes and products found: mean, low, high."""
    slices: dict[str, dict[str, str]]
    """Slicing (`products`, `brand`, …) to test query to slice."""
    leads: dict[str, dict[str, float]]
    """Shipped minus method, strict mAP@10, paired: mean, low, high."""
    intervals: dict[str, dict[str, float]] = {}
    """The evaluation's figures on the test queries by name: mean, low, high."""
    index_recall: float
    image_only_change: float | None = None
    """Strict mAP@10 of pasted products by image alone after the backbone was trained, minus that
    before; None if it is frozen."""
    served_agreement: float
    """Agreement of the registered model with the evaluation, see `examples.agreement`."""
    pretrained: list[PretrainedWeights] | None = None
    """Pretrained weights that it was made with; None if it was registered without this record."""
    leaked_photos: float = 0.0
    """Train and gallery photos that are also query photos, relative to the number of queries."""
    dev_photos_in_test: float = 0.0
    """Share of test queries whose photo is also a dev query's."""
    quarantine: dict[str, float] = {}
    """List to the share of its items that was quarantined."""
    queries: str
    """Content digest of the queries it was measured on."""
    gallery: str
    """Content digest of the gallery they were answered from."""
    bootstrap: BootstrapPlan
    """How intervals are computed, with the groups of queries that have the same labels."""
    rules: Rules
    """The rules at registration; a later check applies the same ones."""
    champion: Remeasured | None = None
    """Set if the champion at that time had been measured on other queries."""
    champion_failure: str = ""
    """Why the champion could not answer these queries; empty if it did or need not."""

    @property
    def map_at_10(self) -> Interval:
        """Strict mAP@10 of the shipped ranking."""
        return bootstrap_interval(pd.Series(self.ap).sort_index(), self.bootstrap)


@dataclass(frozen=True)
class Champion:
    """The version to beat."""

    version: str
    evidence: Evidence | None
    """None if it was registered without evidence."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of the version: gate, revision, …"""

    @property
    def digest(self) -> str:
        """Digest of its evidence."""
        return self.tags.get(EVIDENCE_DIGEST, "")


def gather_evidence(
    evaluation: Artifact,
    lineage: Mapping[str, Summary],
    served_agreement: float,
    rules: Rules,
    champion: Remeasured | None = None,
    champion_failure: str = "",
) -> Evidence:
    """Collect what the gate decides on.

    Args:
        evaluation, lineage: its artifact, and the summaries of every step up to it.
        served_agreement: of the registered model with the evaluation.
        rules: that the candidate is registered under.
        champion: its answers to the candidate's queries, if it had to be measured again.
        champion_failure: why that failed.
    """
    rows = _shipped_rows(evaluation)
    ap = dict(zip(rows["query_id"], rows["ap"], strict=True))
    plan = BootstrapPlan.from_config(EvaluationConfig.model_validate(evaluation.manifest.config))
    rankings = read_rankings(evaluation.file(rankings_of("test")))
    scores = read_metrics(evaluation)
    return Evidence(
        ap=ap,
        top={query: ranking[:DEPTH] for query, ranking in rankings if query in ap},
        **count_products(read_products(evaluation)),
        detection=scores.get("detection", {}),
        slices=read_slices(evaluation),
        leads={method: scores["differences"][method] for method in BASELINES},
        intervals={f"test/{row.name}": row.value for row in figures(scores["test_intervals"])},
        index_recall=evaluation.manifest.metrics[SEARCHED_RECALL],
        image_only_change=_image_only_change(lineage),
        served_agreement=served_agreement,
        pretrained=pretrained_in(lineage),
        **data_facts(lineage),
        bootstrap=plan.as_recorded(rows),
        rules=rules,
        champion=champion,
        champion_failure=champion_failure,
    )


def _image_only_change(lineage: Mapping[str, Summary]) -> float | None:
    trained = lineage["rpn_training"].metrics if "rpn_training" in lineage else {}
    return trained[IMAGE_ONLY] - trained[IMAGE_ONLY_BEFORE] if IMAGE_ONLY in trained else None


def _shipped_rows(evaluation: Artifact) -> pd.DataFrame:
    """Strict scores at 10 of the shipped ranking, one row per test query."""
    rows = read_per_query(evaluation)
    return rows[
        (rows["split"] == "test")
        & (rows["method"] == SHIPPED)
        & (rows["definition"] == "strict")
        & (rows["depth"] == DEPTH)
    ]


def count_products(per_query: pd.DataFrame | None) -> dict[str, dict[str, int]]:
    """`found` and `products` of an `Evidence`; both empty if the true boxes have no labels.

    `per_query` is `DetectionQuality.per_query` by query id.
    """
    if per_query is None or PRODUCTS_FOUND not in per_query:
        return {"found": {}, "products": {}}
    columns = {"found": PRODUCTS_FOUND, "products": PRODUCTS}
    return {
        name: dict(zip(per_query.index, per_query[column].tolist(), strict=True))
        for name, column in columns.items()
    }


def data_facts(lineage: Mapping[str, Summary]) -> dict[str, Any]:
    """Digests of the data, and what is wrong with it, as fields of `Evidence`.

    Args:
        lineage: of the three artifacts of an ingestion at least, by key.
    """
    queries, gallery = lineage["ingestion/queries"], lineage["ingestion/gallery"]
    counts = queries.metrics
    leaked = counts["train_photos_in_queries"] + counts["gallery_photos_in_queries"]
    return {
        "leaked_photos": leaked / counts["items"],
        "dev_photos_in_test": counts["test_photos_in_dev"] / max(counts["test"], 1.0),
        "quarantine": {
            part: lineage[f"ingestion/{part}"].metrics["quarantine_share"]
            for part in ("train", "gallery", "queries")
        },
        "queries": queries.details["content"],
        "gallery": gallery.details["content"],
    }
