"""Whether a run is needed: the catalogue is refreshed first, which measures how far it drifted."""

import json
from typing import Any

from pipelines.local.catalogue_run import CatalogueRun, run_catalogue
from pipelines.local.mlflow_run import store_of
from pipelines.local.run import LocalRun
from product1m.artifacts.atomic import write_text
from product1m.registry.versions import is_registered
from product1m.telemetry.environment import environment_set

DRIFT = "drift.json"
"""What was measured, in the output folder of a run."""


def refresh_and_measure(run: LocalRun, model: str) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Refresh the catalogue below the run's output; the signs of drift, and these as figures.

    The figure `drifted` is 1 if any sign is beyond its limit. Both are empty if there is no such
    model yet.
    """
    output = run.output.expanduser().resolve()
    with environment_set({"MLFLOW_TRACKING_URI": store_of(output)}):
        if not is_registered(model):
            return [], {}
        request = CatalogueRun(run.config, run.dataset, model, output / "catalogue", run.runner)
        made = run_catalogue(request)
    signs: list[dict[str, Any]] = list(made.details["drift"])
    figures = {sign["name"]: float(sign["value"]) for sign in signs}
    figures["drifted"] = made.metrics["drifted"]
    write_text(output / DRIFT, json.dumps({**figures, "signs": signs}, indent=1))
    return signs, figures
