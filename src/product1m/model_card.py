"""The page a reviewer decides on: a version's description, in Markdown."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

from product1m.artifacts import Summary
from product1m.config import RegistrationConfig
from product1m.gate import BASELINES, Champion, Evidence, Gate
from product1m.retrieval.statistics import Interval

MAX_CHARS = 5000
"""Width of the description's column in MLflow's database."""
OTHERS = {
    "joint": "joint tokens (the paper)",
    "joint_streams": "joint + streams (first author)",
    "streams": "streams, two towers",
    "random": "random",
    "oracle": "oracle",
}


def write_card(
    lineage: Mapping[str, Summary],
    scores: Mapping[str, Any],
    evidence: Evidence,
    gate: Gate,
    champion: Champion | None,
    provenance: Mapping[str, str],
) -> str:
    """Render the page.

    Args:
        lineage: summaries of every step and part, the evaluation included, by key.
        scores: the evaluation's `metrics.json`.
        evidence: what the gate was decided on.
        gate: its verdict.
        champion: the version it was held against.
        provenance: `git_revision`, `pipeline_run`, `mlflow_run`.
    """
    environment = jinja2.Environment(  # noqa: S701  it is Markdown, not HTML
        trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = resources.files("product1m").joinpath("model_card.md.jinja").read_text("utf-8")
    return environment.from_string(text).render(
        gate=gate,
        sample_data=evidence.rules.sample_data,
        champion_model=evidence.rules.champion_model,
        served_agreement=evidence.served_agreement,
        fusion=", ".join(f"{name} {weight:.2f}" for name, weight in scores["fusion"].items()),
        scores=_score_rows(scores),
        num_queries=len(evidence.ap),
        rpn=_rpn(lineage["rpn_training"].metrics),
        index=lineage["indexing"].metrics,
        factory=lineage["indexing"].config["factory"],
        steps=_step_rows(lineage),
        num_train=int(lineage["ingestion/train"].metrics["items"]),
        num_scenes=lineage["background_synthesis/scenes"].config["num_scenes"],
        code_version=lineage["evaluation"].code_version,
        seed=lineage["evaluation"].config["seed"],
        changes=_changes(lineage, champion, provenance["git_revision"]),
        limits=_limits(lineage, scores, evidence.rules),
        **provenance,
    )


def shorten(card: str) -> str:
    """Cut a page that does not fit MLflow's column, at a line's end."""
    if len(card) <= MAX_CHARS:
        return card
    more = "\n\n… cut; the whole card is `model_card.md` among the version's files.\n"
    kept = card[: MAX_CHARS - len(more)]
    return kept[: kept.rfind("\n")] + more


def _score_rows(scores: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for method, name in {"shipped": "**shipped**", **BASELINES, **OTHERS}.items():
        interval = Interval(**scores["intervals"][method])
        lead = scores["differences"].get(method)
        rows.append(
            {
                "name": name,
                "strict": f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]",
                "official": f"{scores['test'][method]['official']['10']['mAP']:.3f}",
                "lead": f"{lead['mean']:+.3f} [{lead['low']:+.3f}, {lead['high']:+.3f}]"
                if lead
                else "",
            }
        )
    return rows


def _rpn(metrics: Mapping[str, float]) -> str:
    key = "recall@0.5/36"
    return (
        f"{metrics[key]:.3f} (whole image {metrics[f'whole_image/{key}']:.3f}, "
        f"GrabCut box {metrics[f'grabcut_box/{key}']:.3f})"
    )


def _step_rows(lineage: Mapping[str, Summary]) -> list[dict[str, str]]:
    return [
        {
            "key": key,
            "digest": f"`{summary.digest[:12]}`",
            "minutes": f"{summary.seconds / 60:.1f}",
        }
        for key, summary in lineage.items()
    ]


def _changes(lineage: Mapping[str, Summary], champion: Champion | None, git_revision: str) -> str:
    """What is not as it was when the champion was made; empty without a champion."""
    if champion is None:
        return ""
    others = [
        key
        for key, summary in lineage.items()
        if champion.tags.get(f"digest.{key}") != summary.digest
    ]
    before = champion.tags.get("git_revision", "unknown")
    return f"{', '.join(others) or 'no artifact'}; git {before} → {git_revision}"


def _limits(
    lineage: Mapping[str, Summary], scores: Mapping[str, Any], rules: RegistrationConfig
) -> list[str]:
    queries = lineage["ingestion/queries"].metrics
    limits = [
        "It finds products of its gallery only; anything else gets its nearest neighbour.",
        "Titles and photos unlike those it was trained on are not covered by these figures.",
    ]
    if rules.sample_data:
        limits.insert(0, "The sample split's figures say nothing about real photos.")
    if queries["queries_with_a_label_not_in_gallery"]:
        limits.append(
            f"{queries['queries_with_a_label_not_in_gallery']:.0f} queries ask for a product that "
            "the gallery lacks."
        )
    leaks = {
        name: queries[name]
        for name in ("train_photos_in_queries", "train_captions_in_queries", "test_captions_in_dev")
    }
    if any(leaks.values()):
        listed = ", ".join(f"{name.replace('_', ' ')} {count:.0f}" for name, count in leaks.items())
        limits.append(f"Leaks between lists: {listed}.")
    if scores["differences"]["joint"]["low"] > 0:
        limits.append("The paper's own embedding alone ranks worse than what ships.")
    return limits
