"""What all cases share: the cluster, a sample with little work, starting and awaiting runs."""

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import kfp_server_api as api

from pipelines.cluster.api import Cluster
from pipelines.cluster.follow import PACE, Pace, follow
from pipelines.cluster.run_logs import logs_of
from pipelines.cluster.submission import RunRequest, UploadedVersion, ensure_version, start_run
from pipelines.cluster.tasks import FINAL_STATES, graph_of, run_state, task_states
from pipelines.graph.data import stated_parameters
from pipelines.graph.package import Variant, package
from pipelines.local.story import TaskState
from product1m.errors import PipelineError

logger = logging.getLogger(__name__)

EXPERIMENT = "product1m-check-cluster"
LITTLE_WORK = (
    "background_synthesis.num_scenes=40",
    "background_synthesis.max_cutouts=60",
    "rpn_training.num_epochs=1",
    "capture_pretraining.num_epochs=2",
    "evaluation.num_bootstrap=50",
)
"""Less than the sample preset, and enough for every step to do all that it does."""
_DIGEST = re.compile(r"([a-z_]+(?:/[a-z]+)?): \S+ in [\d.]+ s, digest ([0-9a-f]{12})")


@dataclass
class Bench:
    """The cluster under test."""

    cluster: Cluster
    variant: Variant
    data: Mapping[str, str]
    """The data parameters of the runs."""
    service_account: str = ""
    pipeline_root: str = ""
    pace: Pace = PACE
    max_start_s: float = 600.0
    """Longest wait for a first task to run, or for a schedule to start one."""
    mark: str = field(default_factory=lambda: secrets.token_hex(3))
    """Part of names that distinguishes this conformance run from others."""
    whole: str = ""
    """Id of the first run; later cases compare with it."""

    def version(self) -> UploadedVersion:
        """The compiled pipeline on the cluster."""
        return ensure_version(self.cluster, package(self.variant.for_run()))

    def start(self, name: str, data: Mapping[str, str] | None = None) -> str:
        """Start a run; its id."""
        request = RunRequest(
            {**(data or self.data), **self.variant.run_parameters()},
            EXPERIMENT,
            f"check-{self.mark}-{name}",
            self.service_account,
            self.pipeline_root,
        )
        run_id = str(start_run(self.cluster, self.version(), request).run_id)
        logger.info("%s: run %s", name, run_id)
        return run_id

    def fresh(self) -> dict[str, str]:
        """Data parameters that no cached result answers."""
        uri, backgrounds = self.data["dataset_uri"], self.data["backgrounds_uri"]
        return stated_parameters(uri, backgrounds, f"check-{self.mark}-{secrets.token_hex(3)}")

    def end(self, run_id: str, known_states: int = 0) -> api.V2beta1Run:
        """Follow a run to its end."""
        return follow(self.cluster, run_id, self.pace, known_states)

    def run(self, run_id: str) -> api.V2beta1Run:
        """The run as it is now."""
        return self.cluster.call("reading the run", self.cluster.runs.run_service_get_run, run_id)

    def tasks(self, run: api.V2beta1Run) -> list[TaskState]:
        """Its tasks in the graph's order."""
        return task_states(run, graph_of(self.cluster, run))

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Poll until the condition holds; PipelineError after `max_start_s`."""
        deadline = time.monotonic() + self.max_start_s
        while not condition():
            if time.monotonic() > deadline:
                raise PipelineError(f"{what}: not within {self.max_start_s:.0f} s")
            time.sleep(self.pace.poll_s)

    def stop(self, run_id: str) -> None:
        """Stop a run unless it has ended."""
        if run_state(self.run(run_id)) not in FINAL_STATES:
            method = self.cluster.runs.run_service_terminate_run
            self.cluster.call(f"stopping {run_id}", method, run_id)

    def digests(self, run_id: str) -> dict[str, str]:
        """Artifact to the beginning of its digest, as the steps' logs say."""
        return digests_in("\n".join(log for _, log in logs_of(self.cluster, run_id)))


def digests_in(log: str) -> dict[str, str]:
    """Artifact to the first 12 hex digits of its digest, from the lines that finished artifacts."""
    return dict(_DIGEST.findall(log))
