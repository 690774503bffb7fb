"""What a run that succeeded left: figures, gate and model version, as MLflow knows them."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.local.figures import Figures
from product1m.errors import TrackingError
from product1m.evaluation.methods import SHIPPED, TITLES
from product1m.registry.roles import CATALOGUES
from product1m.telemetry.mlflow_client import talking_to_mlflow
from product1m.telemetry.pipeline_runs import PARENT_TAG, PIPELINE_RUN_TAG

URI_VARIABLE = "MLFLOW_TRACKING_URI"
_SCORE = re.compile(
    r"evaluation/test/(?P<definition>strict|official)/(?P<method>\w+)/(?P<name>\w+?)_at_10"
)
_LEAD = re.compile(r"evaluation/difference/(?P<method>\w+)/(?P<end>mean|low|high)")
"""Names of metrics of the registration's MLflow run."""
_SIGN = "catalogue/drift/"
"""Prefix of those metrics of the catalogue's MLflow run that are signs of drift."""


@dataclass
class Outcome:
    """What the end of a story shows."""

    figures: Figures | None = None
    results: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    advice: str = ""


def outcome_of(run_id: str, registration: str) -> Outcome:
    """What MLflow says of a pipeline run.

    Args:
        run_id: of the cluster's run; every version that it registered has it as a tag.
        registration: state of the task that registers.
    """
    uri = os.environ.get(URI_VARIABLE, "")
    if not uri:
        return Outcome(
            results={
                "figures": f"unknown here; set {URI_VARIABLE} to see figures, gate and model "
                "version"
            }
        )
    try:
        drift = _drift(uri, run_id)
        version, run = _registered(uri, run_id)
    except TrackingError as error:
        return Outcome(results={"figures": f"unknown: {error}"})
    if registration == "SKIPPED":
        return Outcome(results=drift | {"model": "not retrained: nothing is beyond its limit"})
    if version is None:
        cached = "; registration came from the cache" if registration == "CACHED" else ""
        missing = {"model": f"this run registered no version at {uri}{cached}"}
        return Outcome(results=drift | missing)
    described = _described(uri, version, run)
    return replace(described, results=drift | described.results)


def _drift(uri: str, run_id: str) -> dict[str, str]:
    """How far the catalogue that the run refreshed has moved from its model; empty if it did not.

    The limits are those of the section `catalogue`.
    """
    from mlflow import MlflowClient

    with talking_to_mlflow("looking for the run's catalogue", uri):
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(CATALOGUES)
        if experiment is None:
            return {}
        runs = client.search_runs(
            [experiment.experiment_id], f"tags.{PIPELINE_RUN_TAG} = '{run_id}'"
        )
    figures = {name: value for run in runs for name, value in run.data.metrics.items()}
    signs = [
        f"{name.removeprefix(_SIGN)} {value:.3f}"
        for name, value in sorted(figures.items())
        if name.startswith(_SIGN)
    ]
    return {"drift": ", ".join(signs)} if signs else {}


def _registered(uri: str, run_id: str) -> tuple[Any | None, Any | None]:
    """The newest version that the run registered, and the MLflow run of its registration."""
    from mlflow import MlflowClient

    with talking_to_mlflow("looking for the run's model version", uri):
        client = MlflowClient(uri)
        versions = client.search_model_versions(f"tags.{PIPELINE_RUN_TAG} = '{run_id}'")
        if not versions:
            return None, None
        version = max(versions, key=lambda version: int(version.creation_timestamp))
        return version, client.get_run(version.run_id) if version.run_id else None


def _described(uri: str, version: Any, run: Any | None) -> Outcome:
    outcome = Outcome(_figures(run.data.metrics if run is not None else {}))
    tags = version.tags
    if not outcome.figures and "strict_mAP_at_10" in tags:
        outcome.results["strict"] = f"mAP {float(tags['strict_mAP_at_10']):.3f} at 10, test queries"
    gate = tags.get("gate", "unknown")
    failures = tags.get("gate_rules_not_passed", "none")
    champion = tags.get("gate_champion", "none")
    outcome.results["gate"] = (
        f"{gate}{f' ({failures})' if failures != 'none' else ''}, "
        f"{'no champion yet' if champion == 'none' else f'against {champion}'}"
    )
    outcome.results["model"] = f"{version.name} version {version.version}"
    if uri.startswith(("http://", "https://")):
        server = uri.rstrip("/")
        page = f"{server}/#/models/{version.name}/versions/{version.version}"
        outcome.links["model page"] = page
        if run is not None:
            parent = run.data.tags.get(PARENT_TAG, run.info.run_id)
            link = f"{server}/#/experiments/{run.info.experiment_id}/runs/{parent}"
            outcome.links["MLflow run"] = link
    outcome.advice = (
        f"`product1m registry show {version.version}`, then `product1m registry promote "
        f'--version {version.version} --reason "…"` or `reject`'
    )
    return outcome


def _figures(metrics: Mapping[str, float]) -> Figures | None:
    """The figures among a run's metrics, the shipped ranking first; None without them."""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    leads: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if score := _SCORE.fullmatch(name):
            definitions = scores.setdefault(score["method"], {})
            definitions.setdefault(score["definition"], {})[score["name"]] = value
        elif lead := _LEAD.fullmatch(name):
            leads.setdefault(lead["method"], {})[lead["end"]] = value
    order = {method: number for number, method in enumerate(TITLES)}
    methods = sorted(scores, key=lambda method: order.get(method, len(order)))
    if SHIPPED not in scores:
        return None
    return Figures({method: scores[method] for method in methods}, leads)
