"""May a version become champion? Rules with numbers, on evidence that travels with it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from product1m.config import EvaluationConfig, RegistrationConfig
from product1m.retrieval.statistics import Interval, bootstrap_interval, paired_difference

EVIDENCE = "evidence.json"
BASELINES = {
    "image": "raw image features",
    "text": "titles alone",
    "image_text": "image + text without CAPTURE",
    "shipped_whole_photo": "the whole photo",
}
"""Rankings that the shipped one has to lead, and their names for a reader."""

Outcome = Literal["pass", "fail", "not compared"]
Verdict = Literal["passed", "failed", "not compared"]


class Evidence(BaseModel):
    """What a version was measured to do; stored with it as `evidence.json`."""

    model_config = ConfigDict(frozen=True)

    ap: dict[str, float]
    """Strict AP@10 of the shipped ranking, by test query."""
    slices: dict[str, dict[str, str]]
    """Slicing (`products`, `brand`, …) to test query to slice."""
    leads: dict[str, dict[str, float]]
    """Shipped minus method, strict mAP@10, paired: mean, low, high."""
    index_recall: float
    served_agreement: float
    """Of the registered model with the evaluation, see `examples.agreement`."""
    queries: str
    """Content digest of the queries it was measured on."""
    gallery: str
    """Content digest of the gallery they were answered from."""
    bootstrap: EvaluationConfig
    """How intervals are made."""
    rules: RegistrationConfig
    """What it was registered under; a later check holds it against the same."""

    @property
    def map_at_10(self) -> Interval:
        """Strict mAP@10 of the shipped ranking."""
        return bootstrap_interval(pd.Series(self.ap), self.bootstrap)


@dataclass(frozen=True)
class Champion:
    """The version to beat."""

    version: str
    evidence: Evidence | None
    """None where it was registered without any."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Of its version: digests, revision, …"""


class Rule(BaseModel):
    """One thing that was checked."""

    model_config = ConfigDict(frozen=True)

    name: str
    expected: str
    found: str
    outcome: Outcome


class Gate(BaseModel):
    """`gate.json`."""

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    champion: str
    """Version compared with; empty where there is none."""
    rules: list[Rule]

    def failures(self) -> list[Rule]:
        """What stands against it."""
        return [rule for rule in self.rules if rule.outcome != "pass"]


def decide(candidate: Evidence, champion: Champion | None) -> Gate:
    """Check every rule; one failure fails the gate.

    Without a champion the absolute rules decide. With one that was measured on other queries they
    decide only against: the verdict is then at best `not compared`.
    """
    rules = [*_absolute(candidate), *_relative(candidate, champion)]
    outcomes = {rule.outcome for rule in rules}
    verdict: Verdict = (
        "failed" if "fail" in outcomes else "not compared" if len(outcomes) > 1 else "passed"
    )
    return Gate(verdict=verdict, champion=champion.version if champion else "", rules=rules)


def _absolute(candidate: Evidence) -> Iterator[Rule]:
    config = candidate.rules
    score = candidate.map_at_10
    yield _rule(
        "strict mAP@10",
        f"≥ {config.min_map_at_10:.3f}",
        f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]",
        score.mean >= config.min_map_at_10,
    )
    for method, name in BASELINES.items():
        lead = Interval(**candidate.leads[method])
        yield _rule(
            f"lead over {name}",
            f"interval above {config.min_baseline_lead:+.3f}",
            _signed(lead),
            lead.low > config.min_baseline_lead,
        )
    yield _rule(
        "index recall@100",
        f"≥ {config.min_index_recall:.3f}",
        f"{candidate.index_recall:.4f}",
        candidate.index_recall >= config.min_index_recall,
    )
    yield _rule(
        "serves what was evaluated",
        f"≥ {config.min_served_agreement:.2f} of the first ten",
        f"{candidate.served_agreement:.2f}",
        candidate.served_agreement >= config.min_served_agreement,
    )


def _relative(candidate: Evidence, champion: Champion | None) -> Iterator[Rule]:
    config = candidate.rules
    name = "not behind the champion"
    expected = f"interval above {-config.max_map_loss:+.3f}"
    if champion is None:
        yield _rule(name, expected, "there is no champion yet", True)
        return
    reason = _incomparable(candidate, champion)
    if reason:
        yield Rule(name=name, expected=expected, found=reason, outcome="not compared")
        return
    assert champion.evidence is not None
    ours, theirs = pd.Series(candidate.ap), pd.Series(champion.evidence.ap)
    gain = paired_difference(ours, theirs, candidate.bootstrap)
    found = _signed(gain)
    if champion.evidence.gallery != candidate.gallery:
        found += ", on another gallery"
    yield _rule(name, expected, found, gain.low > -config.max_map_loss)
    yield _worst_slice(candidate, ours - theirs.reindex(ours.index))


def _incomparable(candidate: Evidence, champion: Champion) -> str:
    if champion.evidence is None:
        return f"champion {champion.version} has no evidence"
    if champion.evidence.queries != candidate.queries:
        return f"champion {champion.version} was measured on other queries"
    return ""


def _worst_slice(candidate: Evidence, gain: pd.Series) -> Rule:
    """The slice that is surest to have lost."""
    config = candidate.rules
    intervals = {}
    for slicing, members in candidate.slices.items():
        for name, values in gain.groupby(pd.Series(members).reindex(gain.index)):
            if len(values) >= config.min_slice_queries:
                label = f"{slicing} {name} ({len(values)} queries)"
                intervals[label] = bootstrap_interval(values, candidate.bootstrap)
    expected = f"no interval below {-config.max_slice_loss:+.3f}"
    if not intervals:
        found = f"no slice has {config.min_slice_queries} queries"
        return _rule("worst slice", expected, found, True)
    worst = min(intervals, key=lambda label: intervals[label].high)
    return _rule(
        "worst slice",
        expected,
        f"{worst}: {_signed(intervals[worst])}",
        intervals[worst].high >= -config.max_slice_loss,
    )


def _rule(name: str, expected: str, found: str, passed: bool | np.bool_) -> Rule:
    outcome: Outcome = "pass" if passed else "fail"
    return Rule(name=name, expected=expected, found=found, outcome=outcome)


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
