"""The MLflow run of a pipeline run: the parent of its steps' runs on a cluster.

No service starts a pipeline run on a cluster, so its first step creates the parent and the others
find it by a tag. A step's pod can vanish and its run with it; the next attempt closes that run, the
last step closes all that are open, and the next pipeline run closes whatever else is left
(`signs_of_life`).
"""

import logging
import socket
from pathlib import Path
from typing import Any

from product1m.telemetry.provenance import UNKNOWN, pipeline_run
from product1m.telemetry.signs_of_life import KIND_TAG, PIPELINE, SignsOfLife, end_silent_runs

logger = logging.getLogger(__name__)

PIPELINE_RUN_TAG = "pipeline_run"
"""Id of the pipeline run; on the parent, on each step's run, on a registered version."""
STEP_TAG = "product1m.step"
"""Tag of a step's run, such as `feature_extraction/train`."""
PARENT_TAG = "mlflow.parentRunId"
LAST_STEP = "registration"
OUTPUT_TAG = "product1m.output"
"""`HOST:FOLDER` that a run writes, by which the next run that writes there finds it."""
ATTEMPT_TAGS = (OUTPUT_TAG, PIPELINE_RUN_TAG)
"""Runs with the same value of one of these tags are attempts at the same work."""


class ParentRun:
    """The parent of one step's run.

    Args:
        client: an `MlflowClient`.
        step_run: the step's own run, which is active.
        step: its name with its part.
    """

    def __init__(self, client: Any, step_run: Any, step: str) -> None:
        self._client, self._run, self._step = client, step_run, step
        self._experiment = step_run.info.experiment_id
        self.run_id = self._find() or self._create()
        client.set_tag(step_run.info.run_id, PARENT_TAG, self.run_id)
        client.set_tag(step_run.info.run_id, STEP_TAG, step)
        client.update_run(self.run_id, status="RUNNING")
        self._close_lost_attempts()
        self._signs = SignsOfLife(client, (step_run.info.run_id, self.run_id))
        end_silent_runs(client, self._experiment)

    def end(self, status: str) -> None:
        """The step ended: a failure is the pipeline run's, success of the last step its end."""
        self._signs.stop()
        if status != "FINISHED" or self._step == LAST_STEP:
            self._client.set_terminated(self.run_id, status)

    def _find(self) -> str:
        """The oldest parent, if there is one."""
        parents = self._search(f"tags.`{KIND_TAG}` = '{PIPELINE}'")
        runs = sorted(parents, key=lambda run: (run.info.start_time, run.info.run_id))
        return str(runs[0].info.run_id) if runs else ""

    def _create(self) -> str:
        """A new parent; if several steps create one at the same time, all use the oldest."""
        tags = {KIND_TAG: PIPELINE, PIPELINE_RUN_TAG: pipeline_run()}
        name = f"pipeline {pipeline_run()[:8]}"
        created = self._client.create_run(self._experiment, run_name=name, tags=tags)
        oldest = self._find()
        if oldest != created.info.run_id:  # the account may not be allowed to delete it
            self._client.set_tag(created.info.run_id, KIND_TAG, "duplicate")
            self._client.set_terminated(created.info.run_id, "KILLED")
        return oldest

    def _close_lost_attempts(self) -> None:
        """End the runs of earlier attempts of this step whose pods were lost.

        The last step ends the runs of all steps, because those steps have ended when it starts.
        """
        is_last = self._step == LAST_STEP
        steps = f"tags.`{STEP_TAG}` LIKE '%'" if is_last else f"tags.`{STEP_TAG}` = '{self._step}'"
        for run in self._search(steps):
            is_own = run.info.run_id == self._run.info.run_id
            if run.info.status == "RUNNING" and not is_own:
                step = run.data.tags[STEP_TAG]
                logger.info("%s: an earlier attempt was lost, ending its MLflow run", step)
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _search(self, condition: str) -> list[Any]:
        filters = f"tags.{PIPELINE_RUN_TAG} = '{pipeline_run()}' and {condition}"
        return list(self._client.search_runs([self._experiment], filters, max_results=1000))


def has_parent() -> bool:
    """Whether this process is a step of a pipeline run."""
    return pipeline_run() != UNKNOWN


def output_tag(folder: Path) -> dict[str, str]:
    """The tag of a run that writes to a folder of this machine."""
    return {OUTPUT_TAG: f"{socket.gethostname()}:{folder.resolve()}"}


def end_killed_runs(client: Any, run: Any) -> None:
    """End, as KILLED, the RUNNING runs that have the output tag of `run`, except `run` itself.

    The caller holds the folder's lock, so no process works for them any more. Runs of a pipeline
    run on a cluster are left alone: they belong to other machines.
    """
    output = run.data.tags[OUTPUT_TAG]
    quote = '"' if "'" in output else "'"
    filters = f"tags.`{OUTPUT_TAG}` = {quote}{output}{quote} and attributes.status = 'RUNNING'"
    for other in client.search_runs([run.info.experiment_id], filters, max_results=1000):
        if other.info.run_id != run.info.run_id:
            logger.info("MLflow run %s: its process was killed, ending it", other.info.run_id)
            client.set_terminated(other.info.run_id, "KILLED")
