"""Run the training pipeline on this machine: check data, one MLflow run, verified summary."""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from kfp.dsl.base_component import BaseComponent
from pydantic import TypeAdapter

from pipelines.graph.data import data_name, data_parameters
from pipelines.graph.preflight import check_data, check_models, check_writable
from pipelines.graph.training import training_pipeline
from pipelines.local.code import KeyedByCode, step_digest
from pipelines.local.containers import Containers, StepImages
from pipelines.local.kfp_local import run_graph, shown_names
from pipelines.local.mlflow_run import TrackedRun, start_run
from pipelines.local.price import expected_seconds
from pipelines.local.processes import only_run, steps_end_with_run
from pipelines.local.record import SUMMARY, RunRecord, recorded
from pipelines.local.summary import RunSummary, summarize, verified
from product1m.config import STEPS, Config
from product1m.errors import PipelineError, redacted
from product1m.telemetry.logs import VARIABLE as LOG_VARIABLE

Runner = Literal["subprocess", "docker"]
"""A step runs in a process of this environment, or in a container of its image."""
STATE = ("dataset_digest", "backgrounds_digest")
"""Outputs of the graph that are the state of the data."""
SPIN_COUNT = "20000"
"""How often an idle OpenMP thread checks for work before it sleeps (ours). OpenMP's default never
sleeps, which makes a step more than ten times slower on a busy machine. Sleeping at once makes
feature extraction a quarter slower on an idle machine. This value avoids both."""


@dataclass(frozen=True)
class LocalRun:
    """Request for a run: configuration, data, output folder."""

    config: Config
    preset: str
    dataset: str
    output: Path
    backgrounds: str = ""
    """Folder of background photos; if empty, `backgrounds/` of the data set if it exists."""
    use_cache: bool = True
    runner: Runner = "subprocess"
    drift: Mapping[str, float] = field(default_factory=dict)
    """What made a run with `--when drifted` train, by sign; empty otherwise."""


def run_training(run: LocalRun) -> RunSummary:
    """Run the pipeline and write `run.json` and `summary.json`.

    Raises DatasetError or PipelineError; the latter names the failed step and the reason.
    """
    check_models(run.config)
    check_data(run.config, run.dataset, run.backgrounds)
    arguments = data_parameters(run.dataset, run.backgrounds)
    output = output_folder(run.output, arguments)
    check_writable(output)
    in_containers = run.runner == "docker"
    images = StepImages.locked() if in_containers else None
    containers = Containers(output, _folders(arguments, run.config)) if in_containers else None
    work = output / "work"
    work.mkdir(parents=True, exist_ok=True)
    with only_run(output, work), steps_end_with_run():
        name = f"{data_name(arguments['dataset_uri'])} {run.preset}"
        tracked = start_run(output, {"preset": run.preset, **arguments}, name)
        pipeline = training_pipeline(run.config, KeyedByCode(images))
        absolute = replace(run, output=output, dataset=arguments["dataset_uri"])
        request = TypeAdapter(LocalRun).dump_python(absolute, mode="json")
        mlflow = {"tracking_uri": redacted(tracked.uri), "run_id": tracked.run_id}
        with tracked.ended() as metrics:
            code = {step: step_digest(step) for step in STEPS}
            with recorded(output, request, shown_names(pipeline), mlflow, code):
                summary = _run(run, pipeline, arguments, output, tracked, containers)
            metrics.update(summary.cached_metrics)
        return summary


def request_of(record: RunRecord) -> LocalRun:
    """The request of a recorded run, for a new run."""
    return TypeAdapter(LocalRun).validate_python(record.request)


def output_folder(path: Path, arguments: Mapping[str, str]) -> Path:
    """Make the folder absolute; PipelineError if it is inside the data."""
    output = path.expanduser().resolve()
    for name in ("dataset_uri", "backgrounds_uri"):
        if arguments[name] and output.is_relative_to(arguments[name]):
            raise PipelineError(
                f"{output}: is inside {arguments[name]}, so a run would change its own data; "
                "use another --output"
            )
    return output


def step_environment(output: Path, tracked: TrackedRun) -> dict[str, str]:
    """Environment variables for the steps; logs are text because the run shows them."""
    return {
        **tracked.environment,
        LOG_VARIABLE: os.environ.get(LOG_VARIABLE, "text"),
        "PRODUCT1M_WORK": str(output / "work"),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", SPIN_COUNT),
    }


def cache_name(tracked: TrackedRun, output: Path) -> str:
    """Name of the cache for a tracking store: a registration exists in one store only.

    A store in the run's folder keeps its cache when that folder is moved. Within a cache results
    are found by inputs, configuration and code, see `KeyedByCode`.
    """
    store = f"{tracked.uri.replace(str(output), '')} {tracked.experiment_created}"
    return hashlib.sha256(store.encode()).hexdigest()[:16]


def _run(
    run: LocalRun,
    pipeline: BaseComponent,
    arguments: Mapping[str, str],
    output: Path,
    tracked: TrackedRun,
    containers: Containers | None,
) -> RunSummary:
    cache = cache_name(tracked, output) if run.use_cache else ""
    environment = step_environment(output, tracked)
    with contextlib.ExitStack() as stack:
        if containers:
            stack.enter_context(containers.running())
            server = containers.tracking_server(tracked.uri)
            environment["MLFLOW_TRACKING_URI"] = stack.enter_context(server)
            # Hashes of the data are kept where the next run's containers find them.
            environment["XDG_CACHE_HOME"] = str(output / "work" / "cache")
        expected_s = expected_seconds(run.config, run.preset, arguments["dataset_uri"], output)
        steps, outputs = run_graph(
            pipeline, arguments, output, environment, cache, containers, expected_s
        )
    state = {name: str(outputs[name]) for name in STATE}
    tracked.tag(state)
    summary = summarize(run.preset, {**arguments, **state}, steps, verified(outputs), tracked)
    summary.drift = dict(run.drift)
    summary.write(output / SUMMARY)
    return summary


def _folders(arguments: Mapping[str, str], config: Config) -> list[Path]:
    """Local folders that a run reads."""
    data = (arguments["dataset_uri"], arguments["backgrounds_uri"])
    starts = (config.rpn_training.warm_start, config.capture_pretraining.warm_start)
    return [Path(uri) for uri in (*data, *starts) if uri and ":/" not in uri]
