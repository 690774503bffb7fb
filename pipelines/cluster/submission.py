"""A pipeline version on the cluster, uploaded if new, and a run of it."""

import logging
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kfp_server_api as api

from pipelines.cluster.api import Cluster, create_once
from pipelines.graph.data import data_name, data_parameters, stated_parameters
from pipelines.graph.package import Package
from pipelines.graph.training import NAME
from product1m.errors import DatasetError, PipelineError, StorageError
from product1m.registry.roles import EXPERIMENT

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UploadedVersion:
    """A version of the pipeline as the cluster knows it."""

    pipeline_id: str
    version_id: str
    name: str

    @property
    def reference(self) -> api.V2beta1PipelineVersionReference:
        """What a run or a schedule is pinned to."""
        return api.V2beta1PipelineVersionReference(
            pipeline_id=self.pipeline_id, pipeline_version_id=self.version_id
        )


@dataclass(frozen=True)
class RunRequest:
    """A run to start."""

    parameters: Mapping[str, Any]
    experiment: str = EXPERIMENT
    name: str = ""
    service_account: str = ""
    pipeline_root: str = ""
    marker: str = field(default_factory=lambda: f"submission {secrets.token_hex(8)}")
    """Identifies this submission; stored as the run's description."""


def find_version(cluster: Cluster, name: str, pipeline: str = NAME) -> UploadedVersion | None:
    """The version with this name of a pipeline; None if there is none."""
    pipeline_id = _find_pipeline(cluster, pipeline)
    return _find_version(cluster, pipeline_id, name) if pipeline_id else None


def ensure_version(cluster: Cluster, made: Package) -> UploadedVersion:
    """The package's version on the cluster, uploaded if missing.

    Its name contains revision and content, and a version never changes.
    """
    pipeline_id = _find_pipeline(cluster, made.name) or _create_pipeline(cluster, made.name)

    def find() -> UploadedVersion | None:
        return _find_version(cluster, pipeline_id, made.version)

    version = find()
    if version:
        logger.info("version %s already exists", made.version)
        return version
    created = create_once(lambda: _upload(cluster, pipeline_id, made), find)
    logger.info("version %s uploaded", made.version)
    return created


def data_of(dataset: str, backgrounds: str, digest: str, cache: bool) -> dict[str, str]:
    """A run's data parameters.

    If the cache is on and no digest is given, the digest is computed from the data, because the
    cache compares addresses and not content. Raises PipelineError if the data cannot be read.
    """
    if digest or not cache:
        return stated_parameters(dataset, backgrounds, digest)
    try:
        return data_parameters(dataset, backgrounds)
    except (DatasetError, StorageError) as error:
        raise PipelineError(
            f"{error}\nIf the data cannot be read from here, name its state (--dataset-digest) or "
            "run every step (--no-cache)"
        ) from error


def run_name(dataset: str, what: str) -> str:
    """Name of a run: its data set, what it does, and the time."""
    return f"{data_name(dataset)}-{what}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def start_run(cluster: Cluster, version: UploadedVersion, request: RunRequest) -> api.V2beta1Run:
    """Start a run, exactly once, even if the server's answer is lost."""
    name = request.name or f"training-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    experiment_id = cluster.experiment_id(request.experiment)
    wanted = api.V2beta1Run(
        display_name=name,
        description=request.marker,
        experiment_id=experiment_id,
        pipeline_version_reference=version.reference,
        runtime_config=api.V2beta1RuntimeConfig(
            parameters=dict(request.parameters), pipeline_root=request.pipeline_root or None
        ),
        service_account=request.service_account or None,
    )

    def create() -> api.V2beta1Run:
        return cluster.call("starting a run", cluster.runs.run_service_create_run, wanted)

    def find() -> api.V2beta1Run | None:
        listed = cluster.all_of(
            "looking for the run",
            cluster.runs.run_service_list_runs,
            "runs",
            experiment_id=experiment_id,
            filter=cluster.named(name),
        )
        return next((run for run in listed if run.description == request.marker), None)

    return create_once(create, find)


def _find_pipeline(cluster: Cluster, name: str) -> str:
    listed = cluster.all_of(
        "listing pipelines",
        cluster.pipelines.pipeline_service_list_pipelines,
        "pipelines",
        filter=cluster.named(name),
        **cluster.scope,
    )
    pipeline = next(listed, None)
    return str(pipeline.pipeline_id) if pipeline else ""


def _create_pipeline(cluster: Cluster, name: str) -> str:
    """Create it without a version: an upload would name the first version like the pipeline."""

    def create() -> str:
        wanted = api.V2beta1Pipeline(name=name, display_name=name, **cluster.scope)
        method = cluster.pipelines.pipeline_service_create_pipeline
        return str(cluster.call("creating the pipeline", method, wanted).pipeline_id)

    return create_once(create, lambda: _find_pipeline(cluster, name) or None)


def _find_version(cluster: Cluster, pipeline_id: str, name: str) -> UploadedVersion | None:
    listed = cluster.all_of(
        "listing versions",
        cluster.pipelines.pipeline_service_list_pipeline_versions,
        "pipeline_versions",
        pipeline_id=pipeline_id,
        filter=cluster.named(name),
    )
    version = next(listed, None)
    return UploadedVersion(pipeline_id, version.pipeline_version_id, name) if version else None


def _upload(cluster: Cluster, pipeline_id: str, made: Package) -> UploadedVersion:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        path.write_text(made.text, "utf-8")
        uploaded = cluster.call(
            f"uploading version {made.version}",
            cluster.uploads.upload_pipeline_version,
            str(path),
            name=made.version,
            display_name=made.version,
            pipelineid=pipeline_id,
        )
    return UploadedVersion(pipeline_id, uploaded.pipeline_version_id, made.version)
