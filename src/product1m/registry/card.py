"""What a reviewer reads before deciding: a version's description (Markdown) and page (HTML)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2

from product1m.artifacts.manifest import Summary
from product1m.evaluation.detection_quality import FIGURES, SHARES
from product1m.evaluation.match_figures import FIGURES as MATCH_FIGURES
from product1m.evaluation.methods import (
    BASELINES,
    CAPTURE_ALONE,
    ENDS_OF_SCALE,
    SHIPPED,
    TITLES,
)
from product1m.evaluation.report.html import html_templates
from product1m.evaluation.statistics import Interval
from product1m.registry.compare import config_differences
from product1m.registry.evidence import Champion, Evidence, Rules
from product1m.registry.gate import Gate, SliceChange
from product1m.registry.pictures import Case

MAX_LISTED = 5
"""Slices and configuration changes in the description; the page has all (ours)."""
DATA = ("train", "gallery", "queries")
LISTED_METHODS = (SHIPPED, *BASELINES, *CAPTURE_ALONE, *ENDS_OF_SCALE)
"""The rankings that a description lists, in this order."""


@dataclass(frozen=True)
class Subject:
    """Everything a description is written from."""

    lineage: Mapping[str, Summary]
    """Summaries of every step and part, the evaluation included, by key."""
    scores: Mapping[str, Any]
    """The evaluation's `metrics.json`."""
    evidence: Evidence
    gate: Gate
    champion: Champion | None
    champion_lineage: Mapping[str, Summary]
    """Empty without a champion, or if it was registered without lineage."""
    provenance: Mapping[str, str]
    """`git_revision`, `pipeline_run`, `mlflow_run`."""
    cases: Sequence[Case]
    """The queries of the picture."""
    thumbnails_mib: float
    """Size of the version's gallery thumbnails, 0 if it has none."""


def write_card(subject: Subject) -> str:
    """The description, in Markdown; its links name the files beside it."""
    environment = jinja2.Environment(  # noqa: S701  it is Markdown, not HTML
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return _render(environment, "model_card.md.jinja", subject)


def write_page(subject: Subject) -> str:
    """The full page as one HTML file: every slice, every change, every digest, the pictures."""
    return _render(html_templates(), "model_page.html.jinja", subject)


def _render(environment: jinja2.Environment, template: str, subject: Subject) -> str:
    text = resources.files("product1m.registry").joinpath("templates", template).read_text("utf-8")
    lineage, evidence, scores = subject.lineage, subject.evidence, subject.scores
    return environment.from_string(text).render(
        gate=subject.gate,
        rules=evidence.rules,
        candidate=evidence.map_at_10,
        compared=subject.gate.champion_map_at_10 is not None,
        served_agreement=evidence.served_agreement,
        fusion=", ".join(f"{name} {weight:.2f}" for name, weight in scores["fusion"].items()),
        scores=_score_rows(scores),
        num_queries=len(evidence.ap),
        products=_product_rows(scores),
        matches=_match_rows(scores),
        calibration_error=scores.get("match_score", {}).get("calibration_error"),
        slices=[_slice_row(change) for change in subject.gate.slices],
        max_listed=MAX_LISTED,
        rpn=_rpn(lineage["rpn_training"].metrics),
        index=lineage["indexing"].metrics,
        factory=lineage["indexing"].config["factory"],
        thumbnails_mib=subject.thumbnails_mib,
        lineage=lineage,
        num_train=int(lineage["ingestion/train"].metrics["items"]),
        num_scenes=_num_scenes(lineage["background_synthesis/scenes"]),
        code_version=lineage["evaluation"].code_version,
        seed=lineage["evaluation"].config["seed"],
        changes=_changes(subject),
        config_changes=_config_changes(subject),
        pretrained=evidence.pretrained,
        limits=_limits(lineage, scores, evidence.rules),
        cases=subject.cases,
        **subject.provenance,
    )


def _score_rows(scores: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for method in [name for name in LISTED_METHODS if name in scores["intervals"]]:
        interval = Interval(**scores["intervals"][method])
        lead = scores["differences"].get(method)
        rows.append(
            {
                "name": f"**{TITLES[method]}**" if method == SHIPPED else TITLES[method],
                "strict": str(interval),
                "official": f"{scores['test'][method]['official']['10']['mAP']:.3f}",
                "lead": Interval(**lead).signed if lead else "",
            }
        )
    return rows


def _product_rows(scores: Mapping[str, Any]) -> list[dict[str, str]]:
    """Products found and boxes; empty if the queries' true boxes are unknown."""
    known = scores.get("detection", {})
    return [
        {"name": name, "share": str(Interval(**known[name])), "meaning": FIGURES[name]}
        for name in SHARES
        if name in known
    ]


def _match_rows(scores: Mapping[str, Any]) -> list[dict[str, str]]:
    """The figures of match scores; empty if none could be fitted."""
    known = scores.get("match_score", {})
    return [
        {"name": name.replace("_", " "), "share": str(Interval(**known[name])), "meaning": meaning}
        for name, meaning in MATCH_FIGURES.items()
        if name in known
    ]


def _slice_row(change: SliceChange) -> dict[str, str]:
    return {
        "name": f"{change.slicing.replace('_', ' ')} {change.name}",
        "queries": str(change.num_queries),
        "candidate": f"{change.candidate:.3f}",
        "champion": f"{change.champion:.3f}",
        "gain": change.gain.signed,
    }


def _rpn(metrics: Mapping[str, float]) -> str:
    first, many = "recall@0.5/1", "recall@0.5/36"
    return (
        f"{metrics[many]:.3f} (the 36 most usual places {metrics[f'usual_places/{many}']:.3f}); "
        f"of one proposal {metrics[first]:.3f} (whole image {metrics[f'whole_image/{first}']:.3f}, "
        f"GrabCut box {metrics[f'grabcut_box/{first}']:.3f})"
    )


def _changes(subject: Subject) -> list[dict[str, str]]:
    """What changed since the champion was made; empty without a champion."""
    if subject.champion is None:
        return []
    tags, before = subject.champion.tags, subject.champion_lineage
    revision = tags.get("git_revision", "unknown"), subject.provenance["git_revision"]
    rows = [{"what": "git", "how": f"`{revision[0][:12]}..{revision[1][:12]}`"}]
    if revision[0] == revision[1]:
        rows[0]["how"] = f"the same, `{revision[0][:12]}`"
    for part in DATA:
        new = subject.lineage[f"ingestion/{part}"]
        old = before.get(f"ingestion/{part}")
        digests = [
            str(data.details.get("content", "?"))[:12] if data else "unknown" for data in (old, new)
        ]
        counts = [f"{data.metrics['items']:.0f} items" if data else "" for data in (old, new)]
        how = f"the same, `{digests[1]}`"
        if digests[0] != digests[1]:
            how = f"`{digests[0]}` {counts[0]} → `{digests[1]}` {counts[1]}"
        rows.append({"what": f"data: {part}", "how": how})
    made_anew = [
        key
        for key, summary in subject.lineage.items()
        if key not in before or before[key].digest != summary.digest
    ]
    return [*rows, {"what": "artifacts", "how": ", ".join(made_anew) or "all the same"}]


def _config_changes(subject: Subject) -> list[str]:
    """`section.key: before → after`; empty if the champion has no lineage to compare with."""
    if not subject.champion_lineage:
        return []
    changes = config_differences(subject.champion_lineage, subject.lineage)
    return [f"{key}: {before} → {after}" for key, (before, after) in changes.items()]


def _num_scenes(scenes: Summary) -> int:
    return int(sum(scenes.metrics[f"scenes/{split}"] for split in ("train", "held_out")))


def _limits(lineage: Mapping[str, Summary], scores: Mapping[str, Any], rules: Rules) -> list[str]:
    queries = lineage["ingestion/queries"].metrics
    limits = [
        "It finds only products of its gallery; other products get the most similar item.",
        "Titles and photos unlike those it was trained on are not covered by these figures.",
    ]
    if rules.sample_data:
        limits.insert(0, "The sample split's figures say nothing about real photos.")
    if queries["queries_with_a_label_not_in_gallery"]:
        limits.append(
            f"{queries['queries_with_a_label_not_in_gallery']:.0f} queries show a product that is "
            "not in the gallery."
        )
    leaks = {
        name: queries[name]
        for name in ("train_photos_in_queries", "train_captions_in_queries", "test_captions_in_dev")
    }
    if any(leaks.values()):
        listed = ", ".join(f"{name.replace('_', ' ')} {count:.0f}" for name, count in leaks.items())
        limits.append(f"Leaks between lists: {listed}.")
    joint = scores["differences"].get("joint")
    if joint and joint["low"] > 0:
        limits.append("The paper's own embedding alone ranks worse than what ships.")
    return limits
