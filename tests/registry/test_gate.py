"""The gate's rules, each on evidence where the answer is plain."""

import numpy as np
import pytest

from product1m.artifacts.manifest import Summary
from product1m.config import RegistrationConfig
from product1m.evaluation.methods import BASELINES
from product1m.registry.evidence import EVIDENCE, Champion, Evidence, rules_for
from product1m.registry.gate import decide

QUERIES = [f"q{number}" for number in range(60)]
RULES = RegistrationConfig(min_map_at_10=0.4, chance_map_loss=0.0)
AHEAD = {"mean": 0.05, "low": 0.01, "high": 0.09}


def evidence(**changes: object) -> Evidence:
    """Every query at 0.5; every rule passes without a champion."""
    values: dict[str, object] = {
        "ap": dict.fromkeys(QUERIES, 0.5),
        "slices": {"products": {query: str(2 + n % 2) for n, query in enumerate(QUERIES)}},
        "leads": dict.fromkeys(BASELINES, AHEAD),
        "index_recall": 0.99,
        "served_agreement": 1.0,
        "queries": "same",
        "gallery": "same",
        "bootstrap": {"num_bootstrap": 200, "confidence": 0.95, "seed": 0},
        "rules": RULES.model_dump(),
    }
    return Evidence.model_validate(values | changes)


def outcomes(candidate: Evidence, champion: Champion | None = None) -> dict[str, str]:
    return {rule.name: rule.outcome for rule in decide(candidate, champion).rules}


PRODUCTS = dict.fromkeys(QUERIES, 4)


def test_products_found_may_not_fall_behind_the_champion() -> None:
    rule = "products found, not behind the champion"
    champion = Champion("7", evidence(found=dict.fromkeys(QUERIES, 3), products=PRODUCTS))
    for found, outcome in ((3, "pass"), (4, "pass"), (2, "fail")):
        candidate = evidence(found=dict.fromkeys(QUERIES, found), products=PRODUCTS)
        assert outcomes(candidate, champion)[rule] == outcome
    one_lost = {query: 3 - (query == "q0") for query in QUERIES}  # of 240 products
    gate = decide(evidence(found=one_lost, products=PRODUCTS), champion)
    (shown,) = [entry for entry in gate.rules if entry.name == rule]
    assert shown.value == pytest.approx(-1 / 240)
    assert shown.outcome == "pass"
    unknown = Champion("7", evidence())
    candidate = evidence(found=dict.fromkeys(QUERIES, 3), products=PRODUCTS)
    assert outcomes(candidate, unknown)[rule] == "not compared"
    assert rule not in outcomes(evidence(), champion)


def test_a_required_box_precision_must_be_known_and_reached() -> None:
    rule = "boxes that lie on a product"
    rules = RegistrationConfig(min_box_precision=0.9).model_dump()
    share = {"mean": 0.92, "low": 0.85, "high": 0.95}
    assert outcomes(evidence(rules=rules))[rule] == "fail"
    assert outcomes(evidence(rules=rules, detection={"precision": share}))[rule] == "pass"
    low = {"precision": {**share, "mean": 0.89}}
    assert outcomes(evidence(rules=rules, detection=low))[rule] == "fail"
    assert rule not in outcomes(evidence())


OURS = {"name": "backbone", "source": "package:efficientnet-lite0", "license": "Apache-2.0"}
THEIRS = {"name": "text model", "source": "/models/bert", "license": "unknown"}


@pytest.mark.parametrize(
    ("pretrained", "allowed", "failure"),
    [
        ([OURS], ["MIT", "apache-2.0"], ""),
        ([], ["MIT"], ""),
        ([OURS], ["MIT"], "backbone package:efficientnet-lite0: Apache-2.0"),
        ([OURS, THEIRS], ["Apache-2.0", "unknown"], "text model /models/bert: unknown"),
        (None, ["MIT"], "unknown: registered without a record of its weights"),
    ],
)
def test_each_pretrained_weight_needs_a_license_of_the_list(
    pretrained: list[dict[str, str]] | None, allowed: list[str], failure: str
) -> None:
    rules = RULES.model_copy(update={"allowed_licenses": tuple(allowed)}).model_dump()
    gate = decide(evidence(pretrained=pretrained, rules=rules), None)
    assert [(rule.name, rule.found) for rule in gate.failures()] == (
        [("licenses", failure)] if failure else []
    )
    assert "licenses" not in outcomes(evidence(pretrained=pretrained))


def test_without_a_champion_the_absolute_rules_decide_and_that_is_said() -> None:
    gate = decide(evidence(), None)
    assert gate.verdict == "passed"
    assert gate.champion == ""
    assert gate.failures() == []
    assert gate.rules[-1].found == "there is no champion yet"
    assert gate.rules[0].found == "0.500 [0.500, 0.500]"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"ap": dict.fromkeys(QUERIES, 0.399)}, "strict mAP@10"),
        ({"index_recall": 0.949}, "index recall@100"),
        ({"served_agreement": 0.89}, "serves what was evaluated"),
        ({"image_only_change": -0.01}, "image-only mAP@10 gained by the backbone"),
        ({"leaked_photos": 0.001}, "train or gallery photos leaked"),
        ({"dev_photos_in_test": 0.051}, "dev photos in test"),
        ({"quarantine": {"train": 0.01, "gallery": 0.06, "queries": 0.0}}, "quarantined items"),
        (
            {"leads": {**dict.fromkeys(BASELINES, AHEAD), "image": {**AHEAD, "low": -0.001}}},
            "lead over image only",
        ),
        (
            {"leads": {**dict.fromkeys(BASELINES, AHEAD), "image_text": {**AHEAD, "low": 0.0}}},
            "lead over image + text, no CAPTURE",
        ),
    ],
)
def test_one_number_below_its_floor_fails_the_gate_and_is_named(
    changes: dict[str, object], rule: str
) -> None:
    gate = decide(evidence(**changes), None)
    assert gate.verdict == "failed"
    assert [failure.name for failure in gate.failures()] == [rule]


@pytest.mark.parametrize(
    ("loss", "outcome"), [(-0.02, "pass"), (0.0, "pass"), (0.009, "pass"), (0.011, "fail")]
)
def test_the_champion_may_be_missed_by_a_hundredth(loss: float, outcome: str) -> None:
    # Every query loses alike, so the interval is the loss itself.
    champion = Champion("3", evidence(ap=dict.fromkeys(QUERIES, 0.5 + loss)))
    assert outcomes(evidence(), champion)["not behind the champion"] == outcome


def test_a_loss_counts_with_its_interval() -> None:
    # Half the queries gain 0.2, half lose 0.2: no mean loss, but nothing is sure.
    torn = {query: 0.7 if number % 2 else 0.3 for number, query in enumerate(QUERIES)}
    gate = decide(evidence(slices={}), Champion("3", evidence(ap=torn)))
    rule = next(rule for rule in gate.rules if rule.name == "not behind the champion")
    assert rule.found.startswith("+0.000 [-0.0")
    assert rule.outcome == "fail"


def test_a_slice_that_is_sure_to_have_lost_fails_and_is_named() -> None:
    # Queries with three products lose 0.1, the others gain 0.2: better on the whole.
    champion = {query: 0.6 if number % 2 else 0.3 for number, query in enumerate(QUERIES)}
    gate = decide(evidence(), Champion("3", evidence(ap=champion)))
    (failure,) = gate.failures()
    assert failure.name == "worst slice"
    assert failure.found == "products 3 (30 queries): -0.100 [-0.100, -0.100]"
    assert gate.verdict == "failed"


def test_a_slice_of_few_queries_is_not_held_against_the_candidate() -> None:
    rare = {query: "rare" if number < 19 else "frequent" for number, query in enumerate(QUERIES)}
    champion = {query: 0.6 if rare[query] == "rare" else 0.4 for query in QUERIES}
    candidate = evidence(slices={"class_frequency": rare})
    assert outcomes(candidate, Champion("3", evidence(ap=champion)))["worst slice"] == "pass"


def test_a_champion_of_other_queries_is_not_compared_and_that_is_said() -> None:
    champion = Champion("3", evidence(queries="other", ap={"x": 0.9}))
    gate = decide(evidence(), champion)
    assert gate.verdict == "not compared"
    (rule,) = gate.failures()
    assert rule.outcome == "not compared"
    assert rule.found == (
        "champion 3 was measured on other queries and has not answered these; run registration "
        "again to measure it"
    )
    assert rule.value is None
    assert decide(evidence(index_recall=0.1), champion).verdict == "failed"
    nothing = decide(evidence(), Champion("3", None))
    assert nothing.failures()[0].found == "champion 3 has no evidence"


def test_a_champion_of_another_gallery_or_of_fewer_queries_never_passes_a_candidate() -> None:
    ahead = dict.fromkeys(QUERIES, 0.4)
    gate = decide(evidence(), Champion("3", evidence(gallery="larger", ap=ahead)))
    assert gate.verdict == "not compared"
    assert gate.failures()[0].found.startswith("champion 3 was measured on another gallery and has")
    fewer = dict.fromkeys(QUERIES[1:], 0.4)
    gate = decide(evidence(), Champion("3", evidence(ap=fewer)))
    assert gate.verdict == "not compared"
    remeasured = {"version": "3", "evidence_digest": "abc", "ap": fewer, "top": {}}
    other = Champion("7", evidence(gallery="larger"), {f"digest.{EVIDENCE}": "abc"})
    assert decide(evidence(champion=remeasured), other).verdict == "not compared"


def test_where_few_groups_decide_more_loss_is_allowed() -> None:
    # 60 queries in 9 groups: 0.3 over the square root of 9 is 0.1.
    rules = RegistrationConfig(max_map_loss=0.01, chance_map_loss=0.3).model_dump()
    groups = {query: number % 9 for number, query in enumerate(QUERIES)}
    plan = {"num_bootstrap": 200, "confidence": 0.95, "seed": 0, "groups": groups}
    candidate = evidence(rules=rules, bootstrap=plan, slices={})
    for loss, outcome in ((0.099, "pass"), (0.101, "fail")):
        champion = Champion("3", evidence(ap=dict.fromkeys(QUERIES, 0.5 + loss)))
        assert outcomes(candidate, champion)["not behind the champion"] == outcome


@pytest.mark.parametrize(("num_groups", "per_group"), [(61, 4), (589, 11)])
def test_an_equally_good_model_mostly_passes_and_a_worse_one_mostly_fails(
    num_groups: int, per_group: int
) -> None:
    """Between two trainings, groups differ by 0.08 and queries by 0.12, about as in the sample."""
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(num_groups), per_group)
    names = [f"q{number}" for number in range(len(groups))]
    numbers = dict(zip(names, groups.tolist(), strict=True))
    plan = {"num_bootstrap": 100, "confidence": 0.95, "seed": 0, "groups": numbers}
    rules = RegistrationConfig().model_dump()

    def passed(loss: float) -> float:
        results = []
        for _ in range(60):
            noise = generator.normal(0, 0.08, num_groups)[groups]
            theirs = 0.5 + noise + generator.normal(loss, 0.12, len(groups))
            champion = evidence(ap=dict(zip(names, theirs.tolist(), strict=True)))
            candidate = evidence(
                ap=dict.fromkeys(names, 0.5), rules=rules, bootstrap=plan, slices={}
            )
            results.append(outcomes(candidate, Champion("3", champion))["not behind the champion"])
        return results.count("pass") / len(results)

    assert passed(0.0) >= 0.8
    assert passed(3 * 0.3 / num_groups**0.5) <= 0.1


def test_a_champion_measured_anew_on_these_queries_is_compared() -> None:
    own = evidence(queries="other", ap={"x": 0.9})
    remeasured = {
        "version": "3",
        "evidence_digest": "abc",
        "ap": dict.fromkeys(QUERIES, 0.45),
        "top": {},
    }
    gate = decide(evidence(champion=remeasured), Champion("7", own, {f"digest.{EVIDENCE}": "abc"}))
    rule = next(rule for rule in gate.rules if rule.name == "not behind the champion")
    assert rule.found == "+0.050 [+0.050, +0.050], champion measured again on these queries"
    assert gate.champion_map_at_10 == pytest.approx(0.45)
    # Another champion since: what was measured says nothing about it.
    other = decide(evidence(champion=remeasured), Champion("8", own, {f"digest.{EVIDENCE}": "xyz"}))
    assert other.verdict == "not compared"


def test_a_champion_that_cannot_answer_these_queries_is_not_compared_and_why_is_said() -> None:
    candidate = evidence(champion_failure="index.faiss: damaged")
    gate = decide(candidate, Champion("3", evidence(queries="other", ap={"x": 0.9})))
    assert gate.verdict == "not compared"
    assert gate.failures()[0].found.endswith("and could not answer these: index.faiss: damaged")


def test_every_rule_has_its_number_and_its_limit() -> None:
    champion = Champion("3", evidence(ap=dict.fromkeys(QUERIES, 0.45)))
    rules = {rule.name: rule for rule in decide(evidence(leaked_photos=0.2), champion).rules}
    assert all(rule.limit is not None and rule.value is not None for rule in rules.values())
    assert (rules["train or gallery photos leaked"].value, rules["dev photos in test"].limit) == (
        0.2,
        0.05,
    )
    gain = rules["not behind the champion"]
    assert (gain.value, gain.low, gain.high, gain.limit) == pytest.approx((0.05,) * 3 + (-0.01,))


def test_slices_are_listed_with_the_greatest_loss_first() -> None:
    # Queries of two products lose 0.1, those of three gain 0.2.
    champion = {query: 0.6 if n % 2 == 0 else 0.3 for n, query in enumerate(QUERIES)}
    slices = decide(evidence(), Champion("3", evidence(ap=champion))).slices
    assert [(change.name, change.num_queries) for change in slices] == [("2", 30), ("3", 30)]
    assert [change.gain.mean for change in slices] == pytest.approx([-0.1, 0.2])
    assert [change.champion for change in slices] == pytest.approx([0.6, 0.3])


def test_evidence_of_a_rule_that_is_gone_since_is_still_read() -> None:
    rules = RegistrationConfig().model_dump() | {"min_of_old": 0.3}
    bootstrap = {"num_bootstrap": 200, "confidence": 0.95, "seed": 0, "depth": 10}
    assert evidence(rules=rules, bootstrap=bootstrap).rules.max_map_loss == 0.01


def test_a_version_is_of_sample_data_if_any_of_its_lists_or_the_configuration_says_so() -> None:
    def lineage(**of_sample: bool) -> dict[str, Summary]:
        lists = {
            f"ingestion/{part}": Summary(step="ingestion", part=part, details={"sample_data": mark})
            for part, mark in of_sample.items()
        }
        return lists | {"evaluation": Summary(step="evaluation", details={"sample_data": True})}

    mine, theirs = RegistrationConfig(), RegistrationConfig(sample_data=True, min_map_at_10=0.1)
    assert not rules_for(mine, lineage(train=False, gallery=False)).sample_data
    assert rules_for(mine, lineage(train=False, gallery=True)).sample_data
    assert rules_for(mine, {"ingestion/train": Summary(step="ingestion")}).sample_data is False
    rules = rules_for(theirs, lineage(train=False))
    assert (rules.sample_data, rules.min_map_at_10) == (True, 0.1)
