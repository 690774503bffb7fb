"""Refresh the catalogue on this machine through the same graph as on a cluster."""

import os
from dataclasses import dataclass
from pathlib import Path

from pipelines.graph.catalogue import NAME, catalogue_pipeline
from pipelines.graph.data import existing
from pipelines.graph.preflight import check_writable
from pipelines.local.code import KeyedByCode
from pipelines.local.containers import Containers, StepImages
from pipelines.local.kfp_local import run_graph, shown_names
from pipelines.local.mlflow_run import start_run
from pipelines.local.processes import only_run, steps_end_with_run
from pipelines.local.record import recorded
from pipelines.local.run import Runner, output_folder, step_environment
from product1m.artifacts.folder import open_artifact
from product1m.artifacts.manifest import Manifest
from product1m.config import Config
from product1m.errors import redacted
from product1m.registry.logged_models import own_experiment
from product1m.registry.roles import CATALOGUES
from product1m.serving.signatures import KEYS, ROOTS, Trust
from product1m.telemetry.environment import environment_set
from product1m.telemetry.mlflow_client import talking_to_registry
from product1m.telemetry.mlflow_files import sqlite_path


@dataclass(frozen=True)
class CatalogueRun:
    """Request for a refresh."""

    config: Config
    dataset: str
    """Folder or `s3://` prefix with a gallery list."""
    model: str
    """`models:/NAME@ALIAS`, or the folder of a model."""
    output: Path
    runner: Runner = "subprocess"


def trusted_files() -> dict[str, list[Path]]:
    """Variable to the public keys or root certificates that a step must see to trust a champion."""
    trust = Trust.from_options()
    named = {KEYS: trust.keys, ROOTS: trust.roots}
    return {name: [path.absolute() for path in paths] for name, paths in named.items() if paths}


def _make_experiment(uri: str) -> None:
    """Make the catalogues' experiment, whose files are beside the database.

    A step in a container sees a server instead, which would put them inside its own container.
    """
    if sqlite_path(uri) is None:
        return
    with (
        environment_set({"MLFLOW_TRACKING_URI": uri}),
        talking_to_registry(f"making the experiment {CATALOGUES}") as client,
    ):
        own_experiment(client, CATALOGUES, str)


def run_catalogue(run: CatalogueRun) -> Manifest:
    """Refresh, check, register; returns the manifest of the new catalogue.

    Raises PipelineError with the name of the failed task and the reason.
    """
    data = existing(run.dataset, "--dataset").uri
    output = output_folder(run.output, {"dataset_uri": data, "backgrounds_uri": ""})
    check_writable(output)
    in_containers = run.runner == "docker"
    arguments = {"dataset_uri": data, "model": run.model}
    folders = [Path(place) for place in arguments.values() if ":/" not in place]
    trusted = trusted_files()
    keys = [path for paths in trusted.values() for path in paths]
    containers = Containers(output, [*folders, *keys]) if in_containers else None
    images = StepImages.locked() if in_containers else None
    work = output / "work"
    work.mkdir(parents=True, exist_ok=True)
    with only_run(output, work), steps_end_with_run():
        tracked = start_run(output, arguments, NAME)
        pipeline = catalogue_pipeline(run.config, KeyedByCode(images))
        environment = step_environment(output, tracked) | {
            name: os.pathsep.join(str(path) for path in paths) for name, paths in trusted.items()
        }
        mlflow = {"tracking_uri": redacted(tracked.uri), "run_id": tracked.run_id}
        request = {"pipeline": NAME, **arguments}
        with tracked.ended(), recorded(output, request, shown_names(pipeline), mlflow):
            if containers:
                _make_experiment(tracked.uri)
                with containers.running(), containers.tracking_server(tracked.uri) as server:
                    environment["MLFLOW_TRACKING_URI"] = server
                    _, made = run_graph(pipeline, arguments, output, environment, "", containers)
            else:
                _, made = run_graph(pipeline, arguments, output, environment, "")
    return open_artifact(Path(made["catalogue"].path), "catalogue").manifest
