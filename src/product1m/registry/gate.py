"""The gate: rules with numbers that decide from its evidence whether a version may be promoted."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from product1m.artifacts.pretrained import UNKNOWN
from product1m.evaluation.detection_quality import BOX_PRECISION
from product1m.evaluation.methods import BASELINES, TITLES
from product1m.evaluation.statistics import (
    MAIN_METRIC,
    Interval,
    bootstrap_interval,
    bootstrap_ratios,
    paired_difference,
)
from product1m.registry.evidence import Champion, Evidence, Rules

MIN_SLICE_GROUPS = 5
"""A slice of fewer groups of queries does not count: its interval would be too narrow (ours)."""
Outcome = Literal["pass", "fail", "not compared"]
GateVerdict = Literal["passed", "failed", "not compared"]


@dataclass(frozen=True)
class Rivalry:
    """The champion's answers that a candidate is compared with, or why there are none."""

    ap: pd.Series | None
    top: Mapping[str, list[str]]
    note: str
    """A remark on the comparison, or the reason why there is none."""
    found: pd.Series | None = None
    """Products found by test query; None if unknown."""


class Rule(BaseModel):
    """One thing that was checked."""

    model_config = ConfigDict(frozen=True)

    name: str
    expected: str
    found: str
    outcome: Outcome
    value: float | None = None
    """The measured value; None if it could not be measured."""
    limit: float | None = None
    """The limit for `value`, or for the end of its interval that counts."""
    low: float | None = None
    high: float | None = None
    """The value's interval, if it has one."""


class SliceChange(BaseModel):
    """Candidate against champion on some of the queries, strict mAP@10."""

    model_config = ConfigDict(frozen=True)

    slicing: str
    name: str
    num_queries: int
    candidate: float
    champion: float
    low: float
    high: float
    """Paired interval of candidate minus champion."""

    @property
    def gain(self) -> Interval:
        """Candidate minus champion."""
        return Interval(self.candidate - self.champion, self.low, self.high)


class Gate(BaseModel):
    """`gate.json`."""

    model_config = ConfigDict(frozen=True)

    verdict: GateVerdict
    champion: str
    """Version that it was compared with; empty if there is no champion."""
    champion_map_at_10: float | None = None
    """Strict mAP@10 of the champion on the same queries."""
    rules: list[Rule]
    slices: list[SliceChange] = []
    """Every slice that is large enough, largest loss first."""

    def failures(self) -> list[Rule]:
        """The rules that did not pass."""
        return [rule for rule in self.rules if rule.outcome != "pass"]


def decide(candidate: Evidence, champion: Champion | None) -> Gate:
    """Check every rule; one failure fails the gate.

    Without a champion only the absolute rules count. If the champion's answers to the same queries
    are unknown, they can still fail the gate, but not pass it: the best verdict is `not compared`.
    """
    rival = rivalry(candidate, champion) if champion else None
    slices = _slices(candidate, rival.ap) if rival and rival.ap is not None else []
    rules = [*_absolute(candidate), *_licenses(candidate), *_relative(candidate, rival, slices)]
    outcomes = {rule.outcome for rule in rules}
    verdict: GateVerdict = (
        "failed" if "fail" in outcomes else "not compared" if len(outcomes) > 1 else "passed"
    )
    return Gate(
        verdict=verdict,
        champion=champion.version if champion else "",
        champion_map_at_10=float(rival.ap.mean()) if rival and rival.ap is not None else None,
        rules=rules,
        slices=slices,
    )


def rivalry(candidate: Evidence, champion: Champion) -> Rivalry:
    """The champion's answers to the candidate's queries, measured at its registration or again."""
    known, measured = champion.evidence, candidate.champion
    is_of_champion = measured and champion.digest and measured.evidence_digest == champion.digest
    again = measured if is_of_champion else None
    same = known and (known.queries, known.gallery) == (candidate.queries, candidate.gallery)
    if known and same and known.ap.keys() == candidate.ap.keys():
        counts = known.found or (again.found if again else {})
        return Rivalry(pd.Series(known.ap), known.top, "", _counts(counts))
    if again and again.ap.keys() == candidate.ap.keys():
        note = "champion measured again on these queries"
        return Rivalry(pd.Series(again.ap), again.top, note, _counts(again.found))
    if known is None:
        return Rivalry(None, {}, f"champion {champion.version} has no evidence")
    advice = (
        f"could not answer these: {candidate.champion_failure}"
        if candidate.champion_failure
        else "has not answered these; run registration again to measure it"
    )
    what = "on another gallery" if known.ap.keys() == candidate.ap.keys() else "on other queries"
    note = f"champion {champion.version} was measured {what} and {advice}"
    return Rivalry(None, {}, note)


def _counts(num_found: Mapping[str, int]) -> pd.Series | None:
    return pd.Series(num_found) if num_found else None


def _absolute(candidate: Evidence) -> Iterator[Rule]:
    config = candidate.rules
    score = candidate.map_at_10
    yield Rule(
        name=MAIN_METRIC,
        expected=f"≥ {config.min_map_at_10:.3f}",
        found=str(score),
        outcome=_outcome(score.mean >= config.min_map_at_10),
        value=score.mean,
        limit=config.min_map_at_10,
        low=score.low,
        high=score.high,
    )
    yield from _box_precision(candidate)
    for method in BASELINES:
        lead = Interval(**candidate.leads[method])
        yield _interval_above(f"lead over {TITLES[method]}", lead, config.min_baseline_lead)
    yield from _backbone(candidate)
    yield _at_least("index recall@100", candidate.index_recall, config.min_index_recall, ".4f")
    yield _at_least(
        "serves what was evaluated", candidate.served_agreement, config.min_served_agreement, ".2f"
    )
    yield _at_most(
        "train or gallery photos leaked", candidate.leaked_photos, config.max_leaked_photos
    )
    yield _at_most(
        "dev photos in test", candidate.dev_photos_in_test, config.max_dev_photos_in_test
    )
    worst = max(candidate.quarantine, key=lambda part: candidate.quarantine[part], default="")
    yield _at_most(
        "quarantined items",
        candidate.quarantine.get(worst, 0.0),
        config.max_quarantine_share,
        worst,
    )


def _licenses(candidate: Evidence) -> Iterator[Rule]:
    """Nothing if the rules allow all licenses; otherwise an unknown one fails too."""
    allowed = candidate.rules.allowed_licenses
    if not allowed:
        return
    names = {name.casefold() for name in allowed} - {UNKNOWN}
    refused = [w for w in candidate.pretrained or () if w.license.casefold() not in names]
    if candidate.pretrained is None:
        found = f"{UNKNOWN}: registered without a record of its weights"
    else:
        listed = refused or candidate.pretrained
        found = "; ".join(map(str, listed)) or "no pretrained weights"
    passed = candidate.pretrained is not None and not refused
    yield Rule(name="licenses", expected=", ".join(allowed), found=found, outcome=_outcome(passed))


def _relative(
    candidate: Evidence, rival: Rivalry | None, slices: list[SliceChange]
) -> Iterator[Rule]:
    config = candidate.rules
    name, limit = "not behind the champion", -_allowed_loss(candidate)
    expected = f"interval above {limit:+.3f}"
    if rival is None:
        reason = "there is no champion yet"
        yield Rule(name=name, expected=expected, found=reason, outcome="pass", limit=limit)
        return
    if rival.ap is None:
        yield Rule(
            name=name, expected=expected, found=rival.note, outcome="not compared", limit=limit
        )
        return
    gain = paired_difference(pd.Series(candidate.ap), rival.ap, candidate.bootstrap)
    yield _interval_above(name, gain, limit, rival.note)
    yield from _products_found(candidate, rival)
    yield _worst_slice(config, slices)


def _backbone(candidate: Evidence) -> Iterator[Rule]:
    """A trained backbone may not find products worse by image alone."""
    change = candidate.image_only_change
    if change is not None:
        yield _at_least("image-only mAP@10 gained by the backbone", change, 0.0, "+.3f")


def _box_precision(candidate: Evidence) -> Iterator[Rule]:
    """Nothing if it is unknown and nothing is required."""
    name, limit = "boxes that lie on a product", candidate.rules.min_box_precision
    if BOX_PRECISION in candidate.detection:
        share = Interval(**candidate.detection[BOX_PRECISION])
        yield Rule(
            name=name,
            expected=f"≥ {limit:.3f}",
            found=str(share),
            outcome=_outcome(share.mean >= limit),
            value=share.mean,
            limit=limit,
            low=share.low,
            high=share.high,
        )
    elif limit > 0:
        reason = "unknown: the queries have no true boxes"
        yield Rule(name=name, expected=f"≥ {limit:.3f}", found=reason, outcome="fail", limit=limit)


def _products_found(candidate: Evidence, rival: Rivalry) -> Iterator[Rule]:
    """Share of products found, against the champion's; nothing if the candidate's is unknown."""
    if not candidate.found:
        return
    name = "products found, not behind the champion"
    limit = -max(candidate.rules.max_found_loss, _allowed_loss(candidate))
    expected = f"interval above {limit:+.3f}"
    ours = pd.Series(candidate.found)
    if rival.found is None or set(rival.found.index) != set(ours.index):
        reason = "the champion's are unknown"
        yield Rule(name=name, expected=expected, found=reason, outcome="not compared", limit=limit)
        return
    counts = pd.DataFrame({"gain": ours - rival.found, "products": pd.Series(candidate.products)})
    ratios = {"gain": ("gain", "products")}
    gain = bootstrap_ratios(counts, ratios, candidate.bootstrap)["gain"]
    yield _interval_above(name, gain, limit)


def _allowed_loss(candidate: Evidence) -> float:
    """The non-inferiority margin: `max_map_loss`, more where few groups of queries decide.

    Two trainings of equal quality differ by chance, the less the more groups there are. At this
    margin an equally good candidate passes with probability 0.8 or more (ours).
    """
    rules, groups = candidate.rules, candidate.bootstrap.group_of(candidate.ap)
    return max(rules.max_map_loss, rules.chance_map_loss / float(np.sqrt(groups.max() + 1)))


def _slices(candidate: Evidence, theirs: pd.Series) -> list[SliceChange]:
    ours = pd.Series(candidate.ap)
    theirs = theirs.reindex(ours.index)
    gains = []
    for slicing, members in candidate.slices.items():
        for name, gain in (ours - theirs).groupby(pd.Series(members).reindex(ours.index)):
            num_groups = candidate.bootstrap.group_of(gain.index).max() + 1
            if len(gain) >= candidate.rules.min_slice_queries and num_groups >= MIN_SLICE_GROUPS:
                interval = bootstrap_interval(gain, candidate.bootstrap)
                gains.append(
                    SliceChange(
                        slicing=slicing,
                        name=str(name),
                        num_queries=len(gain),
                        candidate=float(ours[gain.index].mean()),
                        champion=float(theirs[gain.index].mean()),
                        low=interval.low,
                        high=interval.high,
                    )
                )
    return sorted(gains, key=lambda change: change.candidate - change.champion)


def _worst_slice(config: Rules, slices: list[SliceChange]) -> Rule:
    """The slice whose loss is most certain."""
    name, limit = "worst slice", -config.max_slice_loss
    expected = f"no interval below {limit:+.3f}"
    if not slices:
        reason = f"no slice has {config.min_slice_queries} queries in {MIN_SLICE_GROUPS} groups"
        return Rule(name=name, expected=expected, found=reason, outcome="pass", limit=limit)
    worst = min(slices, key=lambda change: change.high)
    return Rule(
        name=name,
        expected=expected,
        found=f"{worst.slicing} {worst.name} ({worst.num_queries} queries): {worst.gain.signed}",
        outcome=_outcome(worst.high >= limit),
        value=worst.gain.mean,
        limit=limit,
        low=worst.low,
        high=worst.high,
    )


def _interval_above(name: str, interval: Interval, limit: float, note: str = "") -> Rule:
    return Rule(
        name=name,
        expected=f"interval above {limit:+.3f}",
        found=interval.signed + (f", {note}" if note else ""),
        outcome=_outcome(interval.low > limit),
        value=interval.mean,
        limit=limit,
        low=interval.low,
        high=interval.high,
    )


def _at_least(name: str, value: float, limit: float, shown: str) -> Rule:
    return Rule(
        name=name,
        expected=f"≥ {limit:{shown}}",
        found=f"{value:{shown}}",
        outcome=_outcome(value >= limit),
        value=value,
        limit=limit,
    )


def _at_most(name: str, share: float, limit: float, where: str = "") -> Rule:
    return Rule(
        name=name,
        expected=f"≤ {limit:.1%}",
        found=f"{share:.1%}" + (f" of {where}" if where and share else ""),
        outcome=_outcome(share <= limit),
        value=share,
        limit=limit,
    )


def _outcome(passed: bool | np.bool_) -> Outcome:
    return "pass" if passed else "fail"
