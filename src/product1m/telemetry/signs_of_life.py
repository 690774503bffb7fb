"""Signs of life of a pipeline's runs on a cluster, so that other steps end what a lost pod left.

A pod that is stopped, killed for memory or lost with its node cannot end its MLflow run. The step's
run and the pipeline run's have a tag with the time when a step was last at work, and every step
that starts, of whichever pipeline run, ends those that are silent. No other account is needed. A
step that was wrongly taken for lost sets the right status when it ends.
"""

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from product1m.errors import TrackingError
from product1m.telemetry.mlflow_client import talking_to_mlflow

logger = logging.getLogger(__name__)

ALIVE_TAG = "product1m.alive"
"""Seconds since 1970."""
KIND_TAG, PIPELINE = "product1m.kind", "pipeline"
BEAT_S = 300.0
STEP_SILENCE_S = 3600.0
"""A step's run that is silent for longer is over (ours): MLflow may be away for a while."""
PIPELINE_SILENCE_S = 24 * 3600.0
"""The same of a pipeline run, whose next pod may wait for room (ours)."""


class SignsOfLife:
    """Sets the tag of some runs now and every `BEAT_S` seconds until `stop`."""

    def __init__(self, client: Any, run_ids: Sequence[str]) -> None:
        self._client, self._run_ids = client, run_ids
        self._stopped = threading.Event()
        self._beat()
        threading.Thread(target=self._work, name="signs of life", daemon=True).start()

    def stop(self) -> None:
        """The step is over; returns at once."""
        self._stopped.set()

    def _work(self) -> None:
        while not self._stopped.wait(BEAT_S):
            try:
                with talking_to_mlflow("giving a sign of life"):
                    self._beat()
            except TrackingError as error:  # the next sign is enough
                logger.debug("%s", error)

    def _beat(self) -> None:
        for run_id in self._run_ids:
            self._client.set_tag(run_id, ALIVE_TAG, f"{time.time():.0f}")


def end_silent_runs(client: Any, experiment: str) -> None:
    """End, as KILLED, the open runs of the experiment whose last sign of life is too old.

    Their end is the time of that sign. Runs that never gave one are left alone.
    """
    condition = f"attributes.status = 'RUNNING' and tags.`{ALIVE_TAG}` LIKE '%'"
    for run in client.search_runs([experiment], condition, max_results=1000):
        alive = float(run.data.tags[ALIVE_TAG])
        is_pipeline = run.data.tags.get(KIND_TAG) == PIPELINE
        allowed_s = PIPELINE_SILENCE_S if is_pipeline else STEP_SILENCE_S
        if time.time() - alive > allowed_s:
            logger.info("MLflow run %s: silent, ending it; its pod was lost", run.info.run_name)
            client.set_terminated(run.info.run_id, "KILLED", int(1000 * alive))
