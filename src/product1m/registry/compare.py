"""Two versions side by side: metrics with intervals, configuration, data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from product1m.artifacts.manifest import Summary
from product1m.evaluation.statistics import Interval, paired_difference
from product1m.registry.evidence import Evidence
from product1m.registry.version_files import read_lineage, require_evidence
from product1m.registry.versions import ModelVersion

COUNTED = ("recall", "queries_per_s", "bytes_per_item", "num_items", "AR@", "loss")
"""Parts of metric names that measure quality; other metrics count the data."""
DATA_PARTS = ("ingestion/train", "ingestion/gallery", "ingestion/queries")
Metric = float | Interval | None
"""A metric, with its interval if it has one; None if a version lacks it."""


@dataclass(frozen=True)
class VersionComparison:
    """What differs between two versions; differences are `second` minus `first`."""

    first: ModelVersion
    second: ModelVersion
    map_at_10: tuple[Interval, Interval]
    gain: Interval | None
    """Paired strict mAP@10; None if they were measured on different queries."""
    metrics: dict[str, tuple[Metric, Metric]]
    config: dict[str, tuple[Any, Any]]
    """`section.key` to both values, only where they differ."""
    data: dict[str, tuple[Any, Any]]
    """`part/what` to both values, only where they differ."""

    def as_dict(self) -> dict[str, Any]:
        """The comparison as values for JSON."""
        return {
            "first": {"model": self.first.model, "version": self.first.number},
            "second": {"model": self.second.model, "version": self.second.number},
            "strict_mAP_at_10": [interval.as_dict() for interval in self.map_at_10],
            "gain": self.gain.as_dict() if self.gain else None,
            "metrics": {
                name: [v.as_dict() if isinstance(v, Interval) else v for v in both]
                for name, both in self.metrics.items()
            },
            "config": self.config,
            "data": self.data,
        }


def compare(first: ModelVersion, second: ModelVersion) -> VersionComparison:
    """Compare the evidence and lineage of two versions."""
    evidence = require_evidence(first), require_evidence(second)
    lineages = read_lineage(first), read_lineage(second)
    return VersionComparison(
        first,
        second,
        (evidence[0].map_at_10, evidence[1].map_at_10),
        _gain(*evidence),
        {
            name: (_measured(name, before, evidence[0]), _measured(name, after, evidence[1]))
            for name, (before, after) in differences(*map(_metrics, lineages)).items()
        },
        config_differences(*lineages),
        differences(*(_data(lineage) for lineage in lineages)),
    )


def config_differences(
    first: Mapping[str, Summary], second: Mapping[str, Summary]
) -> dict[str, tuple[Any, Any]]:
    """`section.key` to its values in two lineages, only where they differ."""
    return differences(_config(first), _config(second))


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with both values; None if one side lacks the key."""
    return {
        key: (first.get(key), second.get(key))
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    }


def _gain(first: Evidence, second: Evidence) -> Interval | None:
    same = (first.queries, first.gallery) == (second.queries, second.gallery)
    if not same or first.ap.keys() != second.ap.keys():
        return None
    return paired_difference(pd.Series(second.ap), pd.Series(first.ap), second.bootstrap)


def _config(lineage: Mapping[str, Summary]) -> dict[str, Any]:
    """Every step has one section, whatever the number of its parts."""
    return {
        f"{summary.step}.{key}": value
        for summary in lineage.values()
        for key, value in summary.config.items()
    }


def _metrics(lineage: Mapping[str, Summary]) -> dict[str, float]:
    return {
        f"{key}/{name}": value
        for key, summary in lineage.items()
        if key not in DATA_PARTS
        for name, value in summary.metrics.items()
        if key == "evaluation" or any(word in name for word in COUNTED)
    }


def _measured(name: str, value: float | None, evidence: Evidence) -> Metric:
    interval = evidence.intervals.get(name.removeprefix("evaluation/"))
    return Interval(**interval) if interval else value


def _data(lineage: Mapping[str, Summary]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for key in DATA_PARTS:
        if key in lineage:
            summary = lineage[key]
            part = key.removeprefix("ingestion/")
            figures[f"{part}/content"] = str(summary.details.get("content", ""))[:12]
            figures |= {f"{part}/{name}": value for name, value in summary.metrics.items()}
    return figures
