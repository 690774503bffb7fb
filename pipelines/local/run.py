"""The training pipeline on this machine: checked data, one MLflow run, a verified summary."""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kfp.dsl.base_component import BaseComponent
from pydantic import TypeAdapter

import product1m
from pipelines.graph.data import data_parameters
from pipelines.graph.training import training_pipeline
from pipelines.local.containers import Containers, StepImages
from pipelines.local.kfp_local import run_graph, shown_names
from pipelines.local.mlflow_run import TrackedRun, start_run
from pipelines.local.processes import only_run, steps_end_with_run
from pipelines.local.record import RunRecord, recorded
from pipelines.local.summary import RunSummary, summarize, verified
from product1m.config import Config
from product1m.errors import PipelineError
from product1m.storage.opening import sha256_of
from product1m.telemetry.logs import VARIABLE as LOG_VARIABLE

Runner = Literal["subprocess", "docker"]
"""Where a step works: in a process of this environment, or in a container of its own image."""
SPIN_COUNT = "20000"
"""How often a step's threads look for work before they sleep (ours). Spinning on, as OpenMP does by
default, costs a machine with other work more than tenfold; sleeping at once costs an idle one a
quarter of feature extraction's speed; this costs neither."""


@dataclass(frozen=True)
class LocalRun:
    """What to run, on what, and where to."""

    config: Config
    preset: str
    dataset: str
    output: Path
    backgrounds: str = ""
    """Folder of background photos; the data set's own `backgrounds/` if empty and there."""
    use_cache: bool = True
    runner: Runner = "subprocess"


def run_training(run: LocalRun) -> RunSummary:
    """Run the pipeline and write `run.json` and `summary.json`.

    Raises DatasetError or PipelineError; the latter names the step that failed and why.
    """
    arguments = data_parameters(run.dataset, run.backgrounds)
    output = output_folder(run.output, arguments)
    in_containers = run.runner == "docker"
    images = StepImages.locked() if in_containers else None
    containers = Containers(output, _folders(arguments)) if in_containers else None
    work = output / "work"
    work.mkdir(parents=True, exist_ok=True)
    with only_run(output, work), steps_end_with_run():
        tracked = start_run(output, {"preset": run.preset, **arguments})
        pipeline = training_pipeline(run.config, images)
        absolute = replace(run, output=output, dataset=arguments["dataset_uri"])
        request = TypeAdapter(LocalRun).dump_python(absolute, mode="json")
        mlflow = {"tracking_uri": tracked.uri, "run_id": tracked.run_id}
        with tracked.ended() as metrics:
            with recorded(output, request, shown_names(pipeline), mlflow):
                summary = _run(run, pipeline, arguments, output, tracked, containers)
            metrics.update(summary.cached_metrics)
        return summary


def request_of(record: RunRecord) -> LocalRun:
    """What a recorded run was asked for, to be asked for again."""
    return TypeAdapter(LocalRun).validate_python(record.request)


def output_folder(path: Path, arguments: Mapping[str, str]) -> Path:
    """The folder as an absolute path; PipelineError if it lies in the data it would change."""
    output = path.expanduser().resolve()
    for name in ("dataset_uri", "backgrounds_uri"):
        if arguments[name] and output.is_relative_to(arguments[name]):
            raise PipelineError(
                f"{output}: lies in {arguments[name]}, which a run would change; choose another"
            )
    return output


def step_environment(output: Path, tracked: TrackedRun) -> dict[str, str]:
    """What the steps' processes find in their environment; the run shows and keeps their words."""
    return {
        **tracked.environment,
        LOG_VARIABLE: os.environ.get(LOG_VARIABLE, "text"),
        "PRODUCT1M_WORK": str(output / "work"),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", SPIN_COUNT),
    }


def cache_name(tracked: TrackedRun) -> str:
    """The set of results that a run may be answered from.

    Results of other code are void, and a registration belongs to the store it was made in.
    """
    store = f"{source_digest()} {tracked.uri} {tracked.experiment_created}"
    return hashlib.sha256(store.encode()).hexdigest()[:16]


def source_digest() -> str:
    """SHA-256 over the code that decides what a step computes."""
    package = Path(product1m.__file__).parent
    components = Path(__file__).parent.parent.parent / "components"
    digest = hashlib.sha256()
    for root in (package, components):
        for path in sorted(root.rglob("*.*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root)}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _run(
    run: LocalRun,
    pipeline: BaseComponent,
    arguments: Mapping[str, str],
    output: Path,
    tracked: TrackedRun,
    containers: Containers | None,
) -> RunSummary:
    cache = cache_name(tracked) if run.use_cache else ""
    environment = step_environment(output, tracked)
    with contextlib.ExitStack() as stack:
        if containers:
            stack.enter_context(containers.running())
            server = containers.tracking_server(tracked.uri)
            environment["MLFLOW_TRACKING_URI"] = stack.enter_context(server)
        steps, artifacts = run_graph(pipeline, arguments, output, environment, cache, containers)
    summary = summarize(run.preset, arguments, steps, verified(artifacts), tracked)
    summary.write(output / "summary.json")
    return summary


def _folders(arguments: Mapping[str, str]) -> list[Path]:
    """The local folders that a run reads."""
    uris = (arguments["dataset_uri"], arguments["backgrounds_uri"])
    return [Path(uri) for uri in uris if uri and "://" not in uri]
