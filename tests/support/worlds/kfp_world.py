"""The state behind `kfp_server`: what a cluster with KFP 2.17 keeps and how it refuses."""

import itertools
import json
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import kfp_server_api as api
import yaml

from tests.support.worlds.kfp_nodes import EPOCH, Nodes
from tests.support.worlds.recordings import recorded, recorded_pods

START = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
Json = dict[str, Any]
Frame = tuple[str, dict[str, str]]
"""State of the run, then task to state; `CACHED` if the cache answered."""
RUNNER = "pipeline-runner"
"""The service account that KFP fills in."""
NO_PLUGIN = {
    "mlflow": api.V2beta1PluginOutput(
        entries={"experiment_name": api.V2beta1MetadataValue(value="KFP-Default")},
        state="PLUGIN_FAILED",
        state_message="MLflow terminal sync skipped: missing parent root_run_id",
    )
}
"""KFP's own MLflow plug-in, where it is not set up."""


class Refusal(Exception):  # noqa: N818 an answer, not a mistake
    """An answer that is not a success."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class World:
    """Experiments, pipelines, runs, schedules and pods."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.experiments: dict[str, api.V2beta1Experiment] = {}
        self.pipelines: dict[str, api.V2beta1Pipeline] = {}
        self.versions: dict[str, api.V2beta1PipelineVersion] = {}
        self.runs: dict[str, api.V2beta1Run] = {}
        self.schedules: dict[str, api.V2beta1RecurringRun] = {}
        self.pods: dict[str, Json] = {}
        self.workflows: list[Json] = []
        self.recorded_runs: dict[str, Json] = {}
        self.pod_logs: dict[str, str] = {}
        self.kfp_logs: dict[str, str] = {}
        """Logs that KFP's own endpoint still has, by pod."""
        self.kept_logs: dict[str, str] = {}
        """Logs in the artifact store, by key."""
        self.frames: list[Frame] = [("SUCCEEDED", {})]
        """What a new run goes through."""
        self._left: dict[str, list[Frame]] = {}
        self._ids = itertools.count(1)

    def list_experiments(self, **query: str) -> Any:
        found = _filtered(self.experiments.values(), query)
        return _page(found, query, api.V2beta1ListExperimentsResponse, "experiments")

    def create_experiment(self, wanted: api.V2beta1Experiment) -> Any:
        if any(
            experiment.display_name == wanted.display_name
            for experiment in self.experiments.values()
        ):
            raise Refusal(409, 6, f"Experiment {wanted.display_name} already exists")
        wanted.experiment_id = self._id("experiment")
        self.experiments[wanted.experiment_id] = wanted
        return wanted

    def list_pipelines(self, **query: str) -> Any:
        found = _filtered(self.pipelines.values(), query)
        return _page(found, query, api.V2beta1ListPipelinesResponse, "pipelines")

    def create_pipeline(self, wanted: api.V2beta1Pipeline) -> Any:
        if any(pipeline.name == wanted.name for pipeline in self.pipelines.values()):
            raise Refusal(409, 6, f"Pipeline {wanted.name} already exists")
        wanted.pipeline_id = self._id("pipeline")
        self.pipelines[wanted.pipeline_id] = wanted
        return wanted

    def upload_version(self, text: str, pipelineid: str, name: str, display_name: str) -> Any:
        self._need(self.pipelines, pipelineid, "Pipeline")
        if any(version.name == name for version in self._versions_of(pipelineid)):
            raise Refusal(409, 6, "Failed to create a pipeline version")
        try:
            spec, platform = yaml.safe_load_all(text)
            parsed = {"pipeline_spec": spec, "platform_spec": platform}
            assert spec["root"]["dag"]["tasks"]
        except (yaml.YAMLError, ValueError, KeyError) as error:
            raise Refusal(400, 3, f"not a pipeline: {error}") from error
        version = api.V2beta1PipelineVersion(
            pipeline_id=pipelineid,
            pipeline_version_id=self._id("version"),
            name=name,
            display_name=display_name,
            pipeline_spec=parsed,
            created_at=START,
        )
        self.versions[version.pipeline_version_id] = version
        return version

    def list_versions(self, pipeline_id: str, **query: str) -> Any:
        found = _filtered(self._versions_of(pipeline_id), query)
        return _page(found, query, api.V2beta1ListPipelineVersionsResponse, "pipeline_versions")

    def get_version(self, pipeline_id: str, version_id: str) -> Any:
        self._need(self.pipelines, pipeline_id, "Pipeline")
        return self._need(self.versions, version_id, "PipelineVersion")

    def list_runs(self, **query: str) -> Any:
        found = _filtered(self.runs.values(), query)
        if "desc" in query.get("sort_by", ""):
            found.reverse()
        return _page(found, query, api.V2beta1ListRunsResponse, "runs")

    def create_run(self, wanted: api.V2beta1Run) -> Any:
        self._need(self.experiments, wanted.experiment_id, "Experiment")
        self._check_parameters(wanted)
        wanted.run_id = self._id("run")
        wanted.created_at = wanted.scheduled_at = START
        wanted.storage_state, wanted.finished_at = "AVAILABLE", EPOCH
        wanted.service_account = wanted.service_account or RUNNER
        wanted.plugins_output = NO_PLUGIN
        _enter(wanted, "PENDING")
        self.runs[wanted.run_id] = wanted
        self._left[wanted.run_id] = list(self.frames)
        return wanted

    def replay(self, scenario: str) -> str:
        """Answer with a recorded run, its pods and its workflow; the run's id."""
        run = recorded(scenario, "run")
        version = recorded("", "version")
        reference = run.get("pipeline_version_reference", version)
        self.versions[reference["pipeline_version_id"]] = version
        self.pipelines[reference["pipeline_id"]] = version
        self.recorded_runs[run["run_id"]] = run
        self.pods |= {pod["metadata"]["name"]: pod for pod in recorded_pods(scenario)}
        workflow = recorded(scenario, "workflow")
        self.workflows += [workflow] if workflow else []
        return str(run["run_id"])

    def get_run(self, run_id: str) -> Any:
        if run_id in self.recorded_runs:
            return self.recorded_runs[run_id]
        run = self._need(self.runs, run_id, "Run")
        if self._left.get(run_id):
            self._advance(run, *self._left[run_id].pop(0))
        return run

    def retry_run(self, run_id: str) -> Any:
        run = self._need(self.runs, run_id, "Run")
        if run.state != "FAILED":
            raise Refusal(400, 3, f"Workflow must be Failed/Error to retry, is {run.state}")
        _enter(run, "RUNNING")
        run.finished_at = EPOCH
        self._left[run_id] = list(self.frames)
        return {}

    def terminate_run(self, run_id: str) -> Any:
        run = self._need(self.runs, run_id, "Run")
        _enter(run, "CANCELING")
        self._left[run_id] = [("FAILED", {})]
        return {}

    def list_schedules(self, **query: str) -> Any:
        found = _filtered(self.schedules.values(), query)
        return _page(found, query, api.V2beta1ListRecurringRunsResponse, "recurringRuns")

    def create_schedule(self, wanted: api.V2beta1RecurringRun) -> Any:
        self._need(self.experiments, wanted.experiment_id, "Experiment")
        self._check_parameters(wanted)
        if not 1 <= int(wanted.max_concurrency or 0) <= 10:
            raise Refusal(400, 3, "Max concurrency must be at least 1 and at most 10")
        if len(wanted.trigger.cron_schedule.cron.split()) != 6:
            raise Refusal(400, 3, "Schedule cron is not a supported format")
        wanted.recurring_run_id = self._id("schedule")
        wanted.status = "ENABLED" if wanted.mode == "ENABLE" else "DISABLED"
        wanted.created_at = START
        wanted.service_account = wanted.service_account or RUNNER
        self.schedules[wanted.recurring_run_id] = wanted
        return wanted

    def enable_schedule(self, schedule_id: str) -> Any:
        self._need(self.schedules, schedule_id, "RecurringRun").status = "ENABLED"
        return {}

    def disable_schedule(self, schedule_id: str) -> Any:
        self._need(self.schedules, schedule_id, "RecurringRun").status = "DISABLED"
        return {}

    def delete_schedule(self, schedule_id: str, propagation_policy: str = "") -> Any:
        self._need(self.schedules, schedule_id, "RecurringRun")
        del self.schedules[schedule_id]
        for run in self.runs.values():
            is_in_flight = run.recurring_run_id == schedule_id and run.state == "RUNNING"
            if is_in_flight and propagation_policy != "ORPHAN":
                _enter(run, "CANCELING")
        return {}

    def tick(self, schedule_id: str, state: str = "RUNNING") -> Any:
        """Start a run as the schedule's controller does."""
        schedule = self.schedules[schedule_id]
        run_id = self._id("run")
        run = api.V2beta1Run(
            run_id=run_id,
            display_name=f"{schedule.display_name}fxstn-1-{int(run_id[4:]) * 463305473}",
            storage_state="AVAILABLE",
            experiment_id=schedule.experiment_id,
            pipeline_version_reference=schedule.pipeline_version_reference,
            recurring_run_id=schedule_id,
            created_at=START,
            scheduled_at=START,
            finished_at=EPOCH,
        )
        _enter(run, "RUNNING")
        self.end(run, state)
        self.runs[run.run_id] = run
        return run

    def end(self, run: Any, state: str) -> None:
        """Let a run end, as it does by itself or when somebody stops it (`CANCELED`)."""
        if state == "CANCELED":
            _enter(run, "CANCELING")
        if state != "RUNNING":
            _enter(run, "FAILED" if state == "CANCELED" else state)
            run.finished_at = START + timedelta(minutes=30)

    def read_log(self, run_id: str, pod: str) -> Any:
        """KFP answers 200 whether it has the log or not."""
        if pod in self.kfp_logs:
            return self.kfp_logs[pod]
        return {"error_message": f"Could not get main container logs: pods {pod!r} not found"}

    def read_artifact(self, bucket: str, key: str, **_: str) -> str:
        """The KFP UI's way to the artifact store."""
        if key not in self.kept_logs:
            raise Refusal(404, 5, f"{bucket}/{key}: no such key")
        return self.kept_logs[key]

    def list_pods(self, namespace: str, labelSelector: str = "", **_: str) -> Any:  # noqa: N803
        chosen = _labeled(self.pods.values(), namespace, labelSelector)
        return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": chosen}

    def list_workflows(self, namespace: str, labelSelector: str = "", **_: str) -> Any:  # noqa: N803
        chosen = _labeled(self.workflows, namespace, labelSelector)
        return {"kind": "WorkflowList", "apiVersion": "argoproj.io/v1alpha1", "items": chosen}

    def read_pod_log(self, namespace: str, pod: str, **_: str) -> str:
        if pod not in self.pod_logs:
            raise Refusal(404, 5, f"pods {pod} not found in {namespace}")
        return self.pod_logs[pod]

    def _advance(self, run: Any, state: str, tasks: Mapping[str, str]) -> None:
        is_over = state in ("FAILED", "SUCCEEDED")
        if tasks:
            reference = run.pipeline_version_reference
            spec = self.versions[reference.pipeline_version_id].pipeline_spec["pipeline_spec"]
            missing = [name for name in spec["root"]["dag"]["tasks"] if name not in tasks]
            nodes = Nodes(run.run_id, f"product1m-training-{run.run_id}", START)
            details = nodes.tree(state, tasks, missing if is_over else ())
            run.run_details = api.V2beta1RunDetails(task_details=details)
        _enter(run, state)
        if is_over:
            run.finished_at = START + timedelta(minutes=30)

    def _check_parameters(self, wanted: Any) -> None:
        """A run of a version may not leave a parameter without default, nor name an unknown one."""
        reference = wanted.pipeline_version_reference
        version = self._need(self.versions, reference.pipeline_version_id, "PipelineVersion")
        spec = version.pipeline_spec["pipeline_spec"]
        known = spec["root"]["inputDefinitions"]["parameters"]
        given = (wanted.runtime_config and wanted.runtime_config.parameters) or {}
        unknown = set(given) - set(known)
        missing = {
            name
            for name, definition in known.items()
            if not definition.get("isOptional") and name not in given
        }
        if unknown or missing:
            raise Refusal(400, 3, f"parameters unknown: {unknown}, missing: {missing}")

    def _versions_of(self, pipeline_id: str) -> list[Any]:
        return [version for version in self.versions.values() if version.pipeline_id == pipeline_id]

    def _need(self, kept: Mapping[str, Any], id: str, kind: str) -> Any:
        if id not in kept:
            raise Refusal(404, 5, f"{kind} {id} not found")
        return kept[id]

    def _id(self, kind: str) -> str:
        return f"{kind}-{next(self._ids)}"


def _enter(run: Any, state: str) -> None:
    """A state, and its place in the run's history."""
    if run.state != state:
        run.state = state
        status = api.V2beta1RuntimeStatus(update_time=START, state=state)
        run.state_history = [*(run.state_history or ()), status]


def _labeled(items: Iterable[Json], namespace: str, selector: str) -> list[Json]:
    key, wanted = selector.split("=")
    return [
        item
        for item in items
        if item["metadata"]["namespace"] == namespace
        and item["metadata"]["labels"].get(key) == wanted
    ]


def _filtered(kept: Iterable[Any], query: Mapping[str, str]) -> list[Any]:
    predicates = json.loads(query.get("filter") or "{}").get("predicates", [])
    for predicate in predicates:
        assert predicate["operation"] == "EQUALS", predicate
    return [
        record
        for record in kept
        if all(
            getattr(record, predicate["key"]) == predicate["string_value"]
            for predicate in predicates
        )
        and query.get("experiment_id") in (None, getattr(record, "experiment_id", None))
        and query.get("recurring_run_id") in (None, getattr(record, "recurring_run_id", None))
    ]


def _page(found: list[Any], query: Mapping[str, str], response: Any, field: str) -> Any:
    start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 10)
    more = str(start + size) if start + size < len(found) else None
    name = next(key for key, value in response.attribute_map.items() if value == field)
    if not found:  # KFP leaves out empty lists, and numbers that are 0
        return response()
    return response(
        **{name: found[start : start + size]}, next_page_token=more, total_size=len(found)
    )
