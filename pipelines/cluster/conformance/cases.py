"""The cases, in the order in which they run; each returns what it saw or raises what is wrong."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipelines.cluster import reconcile
from pipelines.cluster.conformance.bench import EXPERIMENT, Bench, digests_in
from pipelines.cluster.diagnosis import cluster_story
from pipelines.cluster.schedule_changes import Names
from pipelines.cluster.schedules import Schedule
from pipelines.cluster.tasks import FINAL_STATES, run_state
from pipelines.graph.package import package
from pipelines.local.kfp_local import LOG
from pipelines.local.run import LocalRun, run_training
from product1m.errors import PipelineError
from product1m.telemetry.environment import environment_set

Case = Callable[[Bench], str]
WATCH_S = 100.0
"""How long a schedule that fires every minute is watched: over the next minute."""


def whole_run(bench: Bench) -> str:
    """The pipeline runs, from the lists to a registered candidate.

    Under a name for its data that no earlier run used: the logs of a cached task hold no digest.
    """
    bench.data = bench.fresh()
    bench.whole = bench.start("whole")
    run = bench.end(bench.whole)
    _require(run_state(run) == "SUCCEEDED", _reason(bench, bench.whole))
    return f"{len(bench.tasks(run))} tasks succeeded, run {bench.whole}"


def same_digests(bench: Bench) -> str:
    """Its artifacts are those of a run on this machine, to the last bit.

    All but the registration's, which names a version of another registry.
    """
    digests = bench.digests(bench.whole)
    _require(bool(digests), f"no digests in the logs of {bench.whole}: its pods are gone")
    with tempfile.TemporaryDirectory() as folder:
        config = bench.variant.configuration()
        uri, backgrounds = bench.data["dataset_uri"], bench.data["backgrounds_uri"]
        request = LocalRun(config, bench.variant.preset, uri, Path(folder) / "run", backgrounds)
        # The environment may name the cluster's MLflow: this run must not register there.
        with environment_set({"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}):
            run_training(request)
        local_digests = digests_in((Path(folder) / "run" / LOG).read_text("utf-8"))
    compared = {name: digest for name, digest in digests.items() if name != "registration"}
    differing = sorted(
        name for name, digest in compared.items() if digest != local_digests.get(name)
    )
    _require(
        not differing,
        f"other digests than here: {', '.join(differing)}; processors of another kind than this "
        "machine's may round differently, but ingestion must be equal everywhere",
    )
    return f"{len(compared)} artifacts equal: {', '.join(sorted(compared))}"


def cached_run(bench: Bench) -> str:
    """The same run again comes from the cache, the registration too.

    The cache knows the result of every task that has finished. The whole run has, so nothing may
    run again; a recorded second run registered once more only because the first run's registration
    had failed and was resumed later.
    """
    run_id = bench.start("cached")
    run = bench.end(run_id)
    _require(run_state(run) == "SUCCEEDED", _reason(bench, run_id))
    ran = [task.name for task in bench.tasks(run) if task.state != "CACHED"]
    _require(ran == ["data_state"], f"ran again: {', '.join(ran)}; expected data_state alone")
    return "every task but data_state, which looks at the data, came from the cache"


def failing_run(bench: Bench) -> str:
    """A step that fails is named, with its own reason."""
    missing = f"{bench.data['dataset_uri'].rstrip('/')}-does-not-exist"
    run_id = bench.start("failing", {**bench.fresh(), "dataset_uri": missing})
    run = bench.end(run_id)
    _require(run_state(run) == "FAILED", f"expected FAILED, got {run_state(run)}")
    story = cluster_story(bench.cluster, run_id)
    _require(story.failed == "ingestion", f"stopped in {story.failed or 'nothing'}")
    reasons = " | ".join(story.why)
    _require(missing in reasons, f"the reason does not name {missing}: {reasons}")
    return f"ingestion: {story.why[0]}"


def stopped_run(bench: Bench) -> str:
    """A stopped run is CANCELED, and a resumed one ends well."""
    run_id = bench.start("stopped", bench.fresh())
    bench.until("a first task runs", lambda: _is_running(bench, run_id))
    bench.stop(run_id)
    stopped = bench.end(run_id)
    _require(run_state(stopped) == "CANCELED", f"expected CANCELED, got {run_state(stopped)}")
    known = len(stopped.state_history or ())
    method = bench.cluster.runs.run_service_retry_run
    bench.cluster.call(f"resuming {run_id}", method, run_id)
    resumed = bench.end(run_id, known)
    _require(run_state(resumed) == "SUCCEEDED", _reason(bench, run_id))
    return f"CANCELED, then resumed to the end, run {run_id}"


def scheduled_runs(bench: Bench) -> str:
    """A schedule fires within a minute, and never runs twice at once."""
    schedule = Schedule.model_validate(
        {
            "name": f"check-{bench.mark}",
            "cron": "0 * * * * *",
            "dataset": bench.data["dataset_uri"],
            "backgrounds": bench.data["backgrounds_uri"],
            "dataset_digest": bench.data["dataset_digest"],
            "preset": bench.variant.preset,
            "profile": bench.variant.profile,
            "set": list(bench.variant.overrides),
            "experiment": EXPERIMENT,
            "service_account": bench.service_account,
            "pipeline_root": bench.pipeline_root,
            "max_concurrency": 1,
        }
    )
    made = package(schedule.variant)
    (action,) = reconcile.plan([schedule], {schedule.name: made}, [], Names({}, {}))
    reconcile.apply(bench.cluster, action, made)
    try:
        bench.until("the schedule fires", lambda: bool(_fired(bench, schedule.name)))
        most = _watch(bench, schedule.name)
        _require(most <= 1, f"{most} runs at once")
        return f"fired, at most {most} at once over {WATCH_S:.0f} s"
    finally:
        _remove(bench, schedule.name)


CASES: dict[str, Case] = {
    "whole run": whole_run,
    "same digests as here": same_digests,
    "second run from the cache": cached_run,
    "failure with its reason": failing_run,
    "stop and resume": stopped_run,
    "schedule, one run at a time": scheduled_runs,
}


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise PipelineError(otherwise)


def _reason(bench: Bench, run_id: str) -> str:
    story = cluster_story(bench.cluster, run_id)
    return f"{story.state} in {story.failed or '?'}: {' | '.join(story.why) or 'no reason'}"


def _is_running(bench: Bench, run_id: str) -> bool:
    run = bench.run(run_id)
    _require(run_state(run) not in FINAL_STATES, f"ended early as {run_state(run)}")
    return any(task.state == "RUNNING" for task in bench.tasks(run))


def _fired(bench: Bench, name: str) -> list[str]:
    """Ids of the schedule's runs that have not ended."""
    runs = [
        run
        for schedule in reconcile.ours(bench.cluster)
        if schedule.display_name == name
        for run in reconcile.runs_of(bench.cluster, schedule)
    ]
    return [str(run.run_id) for run in runs if run_state(run) not in FINAL_STATES]


def _watch(bench: Bench, name: str) -> int:
    """The largest number of the schedule's runs at once."""
    most, deadline = 0, time.monotonic() + WATCH_S
    while time.monotonic() < deadline:
        most = max(most, len(_fired(bench, name)))
        time.sleep(bench.pace.poll_s)
    return most


def _remove(bench: Bench, name: str) -> None:
    """Switch the schedule off, stop its runs, delete it."""
    schedules = [s for s in reconcile.ours(bench.cluster) if s.display_name == name]
    switch = bench.cluster.schedules
    for schedule in schedules:
        method = switch.recurring_run_service_disable_recurring_run
        bench.cluster.call(f"switching {name} off", method, schedule.recurring_run_id)
    for run_id in _fired(bench, name):
        bench.stop(run_id)
        bench.end(run_id)
    reconcile.apply(bench.cluster, reconcile.Action("delete", name, retired=schedules), None)
