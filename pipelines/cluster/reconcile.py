"""Make the cluster's schedules those of the file, without ending a run.

KFP cannot change a recurring run. A changed one is replaced once no run of it is in flight, since
KFP counts only a recurring run's own runs for its maximum concurrency. The description marks the
recurring runs that are ours.
"""

import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import kfp_server_api as api

from pipelines.cluster.api import Cluster, NotFoundError, create_once
from pipelines.cluster.schedule_changes import MARK, Names, description, differences, is_of
from pipelines.cluster.schedules import Schedule
from pipelines.cluster.submission import UploadedVersion, ensure_version, find_version
from pipelines.cluster.tasks import FINAL_STATES, run_state
from pipelines.graph.package import NAMES, Package
from product1m.errors import PipelineError

logger = logging.getLogger(__name__)

Kind = Literal["create", "replace", "enable", "disable", "delete", "keep"]
POLL_S = 15.0
"""Pause between two requests for a run that is waited for (ours)."""
_MAX_NAME = 25
"""How much of a schedule's name KFP keeps in the names of its runs."""


@dataclass(frozen=True)
class Action:
    """What to do with one schedule."""

    kind: Kind
    name: str
    wanted: Schedule | None = None
    version: str = ""
    current: api.V2beta1RecurringRun | None = None
    retired: Sequence[api.V2beta1RecurringRun] = ()
    """Older ones of that name, to switch off and delete."""
    reasons: Sequence[str] = ()

    @property
    def changes(self) -> bool:
        """Whether anything happens."""
        return self.kind != "keep" or bool(self.retired)


def ours(cluster: Cluster) -> list[api.V2beta1RecurringRun]:
    """The cluster's schedules that `schedule apply` made."""
    listed = cluster.all_of(
        "listing schedules",
        cluster.schedules.recurring_run_service_list_recurring_runs,
        "recurring_runs",
        **cluster.scope,
    )
    return [recurring for recurring in listed if (recurring.description or "").startswith(MARK)]


def plan(
    schedules: Iterable[Schedule],
    packages: Mapping[str, Package],
    existing: Iterable[api.V2beta1RecurringRun],
    names: Names,
) -> list[Action]:
    """The actions that make the cluster equal to the file, in its order, deletions last."""
    by_name: dict[str, list[api.V2beta1RecurringRun]] = {}
    for recurring in existing:
        by_name.setdefault(recurring.display_name, []).append(recurring)
    actions = []
    for schedule in schedules:
        version = schedule.version or packages[schedule.name].version
        actions.append(_action(schedule, version, by_name.pop(schedule.name, []), names))
    gone = [
        Action("delete", name, retired=old, reasons=["not in the file"])
        for name, old in sorted(by_name.items())
    ]
    return actions + gone


def apply(cluster: Cluster, action: Action, made: Package | None, wait_s: float = 0.0) -> list[str]:
    """Carry out an action; what was left for the next `apply`, because a run is in flight.

    Args:
        cluster: where the schedules are.
        action: of a plan.
        made: the package to upload, unless the schedule names a version.
        wait_s: how long to wait for runs of the schedules that are replaced or deleted.
    """
    if action.kind == "keep" and not action.retired:
        return []
    switch = cluster.schedules
    for old in action.retired:
        _switch(cluster, old, switch.recurring_run_service_disable_recurring_run)
    if action.kind in ("create", "replace"):
        try:
            waits = _wait(cluster, action.retired, wait_s)
            if not waits:
                _create(cluster, action, made)
        except BaseException:
            _restore(cluster, action.retired)
            raise
        if waits:
            _restore(cluster, action.retired)
            return [
                f"{action.name}: not replaced yet, its run {waits[0].run_id} is in flight; apply "
                "again when it has ended (until then the old schedule stays), or add --wait MINUTES"
            ]
    elif action.kind == "enable":
        _switch(cluster, action.current, switch.recurring_run_service_enable_recurring_run)
    elif action.kind == "disable":
        _switch(cluster, action.current, switch.recurring_run_service_disable_recurring_run)
    elif action.kind == "delete":
        _wait(cluster, action.retired, wait_s)
    return [message for old in action.retired if (message := _delete(cluster, old))]


def runs_of(cluster: Cluster, schedule: api.V2beta1RecurringRun) -> list[api.V2beta1Run]:
    """The runs of a schedule and of those that it replaced, newest first."""
    listed = cluster.all_of(
        "listing runs",
        cluster.runs.run_service_list_runs,
        "runs",
        experiment_id=schedule.experiment_id,
        sort_by="created_at desc",
    )
    name = re.escape(run_prefix(str(schedule.display_name)))
    name_pattern = re.compile(rf"{name}[a-z0-9]{{5}}-\d+-\d+")
    return [
        run
        for run in listed
        if run.recurring_run_id == schedule.recurring_run_id
        or (run.recurring_run_id and name_pattern.fullmatch(run.display_name or ""))
    ]


def run_prefix(schedule: str) -> str:
    """How KFP begins the names of a schedule's runs; five random letters and numbers follow."""
    return re.sub(r"[^a-z0-9-]+", "", schedule.lower())[:_MAX_NAME]


def _action(
    schedule: Schedule,
    version: str,
    existing: Sequence[api.V2beta1RecurringRun],
    names: Names,
) -> Action:
    if not existing:
        return Action("create", schedule.name, schedule, version)
    newest_first = sorted(
        existing, key=lambda old: (old.status == "ENABLED", old.created_at), reverse=True
    )
    same = [old for old in newest_first if is_of(old, schedule, version)]
    current = same[0] if same else newest_first[0]
    reasons = [] if same else differences(schedule, version, current, names)
    if reasons:
        return Action("replace", schedule.name, schedule, version, None, existing, reasons)
    others = [recurring for recurring in existing if recurring is not current]
    is_enabled = current.status == "ENABLED"
    switched: Kind = "enable" if schedule.enabled else "disable"
    kind = "keep" if is_enabled == schedule.enabled else switched
    reasons = [f"{len(others)} replaced earlier"] if others else []
    return Action(kind, schedule.name, schedule, version, current, others, reasons)


def _create(cluster: Cluster, action: Action, made: Package | None) -> None:
    schedule = action.wanted
    assert schedule is not None
    experiment_id = cluster.experiment_id(schedule.experiment)
    mark = description(schedule, action.version)
    wanted = api.V2beta1RecurringRun(
        display_name=schedule.name,
        description=mark,
        experiment_id=experiment_id,
        pipeline_version_reference=_version(cluster, schedule, made).reference,
        runtime_config=api.V2beta1RuntimeConfig(
            parameters=schedule.parameters(), pipeline_root=schedule.pipeline_root or None
        ),
        trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=schedule.cron)),
        mode="ENABLE" if schedule.enabled else "DISABLE",
        max_concurrency=str(schedule.max_concurrency),
        no_catchup=schedule.no_catchup,
        service_account=schedule.service_account or None,
    )
    create_once(
        lambda: cluster.call(
            f"creating schedule {schedule.name}",
            cluster.schedules.recurring_run_service_create_recurring_run,
            wanted,
        ),
        lambda: next(
            (recurring for recurring in ours(cluster) if recurring.description == mark), None
        ),
    )


def _version(cluster: Cluster, schedule: Schedule, made: Package | None) -> UploadedVersion:
    if made is not None:
        return ensure_version(cluster, made)
    version = find_version(cluster, schedule.version, NAMES[schedule.kind])
    if version is None:
        raise PipelineError(
            f"{schedule.name}: version {schedule.version} is not on the cluster; upload it, or "
            "leave `version` out for what this checkout compiles to"
        )
    return version


def _switch(cluster: Cluster, schedule: Any, method: Any) -> None:
    cluster.call(f"switching {schedule.display_name}", method, schedule.recurring_run_id)


def _restore(cluster: Cluster, schedules: Iterable[api.V2beta1RecurringRun]) -> None:
    """Switch those on again that were on."""
    method = cluster.schedules.recurring_run_service_enable_recurring_run
    for old in schedules:
        if old.status == "ENABLED":
            _switch(cluster, old, method)


def _in_flight(
    cluster: Cluster, schedules: Iterable[api.V2beta1RecurringRun]
) -> list[api.V2beta1Run]:
    """Runs of the schedules that have not ended."""
    ids = {old.recurring_run_id: old for old in schedules}
    return [
        run
        for old in ids.values()
        for run in runs_of(cluster, old)
        if run.recurring_run_id in ids and run_state(run) not in FINAL_STATES
    ]


def _wait(
    cluster: Cluster, schedules: Iterable[api.V2beta1RecurringRun], wait_s: float
) -> list[api.V2beta1Run]:
    """Wait until no run of the schedules is in flight; those that still are after `wait_s`."""
    deadline = time.monotonic() + wait_s
    reported = ""
    while waits := _in_flight(cluster, schedules):
        if time.monotonic() >= deadline:
            break
        if waits[0].run_id != reported:
            reported = waits[0].run_id
            logger.info("waiting for run %s of %s", reported, waits[0].display_name)
        time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
    return waits


def _delete(cluster: Cluster, old: api.V2beta1RecurringRun) -> str:
    """Delete it, or say why that has to wait."""
    waits = _in_flight(cluster, [old])
    if waits:
        return (
            f"{old.display_name}: {old.recurring_run_id} is switched off and stays until its run "
            f"{waits[0].run_id} has ended; apply again then"
        )
    try:
        cluster.call(
            f"deleting schedule {old.display_name}",
            cluster.schedules.recurring_run_service_delete_recurring_run,
            old.recurring_run_id,
            propagation_policy="ORPHAN",
        )
    except NotFoundError:
        logger.info("%s is deleted already", old.recurring_run_id)
    return ""
