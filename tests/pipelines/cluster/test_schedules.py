"""`schedule`: cron in words, the plan, and a cluster made as the file says without ending a run."""

import functools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from typer.testing import CliRunner, Result

from pipelines.__main__ import app
from pipelines.cli.options import SCHEDULES
from pipelines.cluster.schedules import (
    checked_cron,
    in_words,
    next_times,
    read_schedules,
)
from pipelines.graph.package import package
from product1m.errors import ConfigError
from tests.support.clocks import replace_clock
from tests.support.servers.kfp_server import KfpServer

compiled = functools.cache(package)
RECURRING = "/apis/v2beta1/recurringruns"
NIGHTLY = {
    "name": "nightly",
    "cron": "0 30 1 * * *",
    "preset": "sample",
    "dataset": "s3://p1m/sample",
    "cache": False,
}
MONDAY = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def server(kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> KfpServer:
    monkeypatch.setattr("pipelines.graph.package.package", compiled)
    return kfp_server


def write(path: Path, *entries: dict[str, Any], **top: Any) -> Path:
    path.write_text(yaml.safe_dump({"schedules": list(entries), **top}))
    return path


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, ["schedule", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize(
    ("cron", "words", "coming"),
    [
        ("0 0 3 * * 1", "At 03:00 on Monday", "2026-11-30 03:00:00"),
        ("0 30 1 * * *", "At 01:30 every day", "2026-11-24 01:30:00"),
        ("0 0 3 ? * MON", "At 03:00 on Monday", "2026-11-30 03:00:00"),
        ("0 0 */6 * * *", None, "2026-11-23 18:00:00"),
        ("0 0 4 1 1,7 *", None, "2027-01-01 04:00:00"),
        ("0 0 4 1 * 5", "whichever comes", "2026-11-27 04:00:00"),
    ],
)
def test_a_cron_expression_is_shown_in_words_and_times(
    cron: str, words: str | None, coming: str
) -> None:
    assert checked_cron(cron) == cron
    assert words is None or words in in_words(cron)
    assert f"{next_times(cron, MONDAY, 1)[0]:%Y-%m-%d %H:%M:%S}" == coming


@pytest.mark.parametrize(
    ("cron", "complaint"),
    [
        ("0 3 * * 1", "expected six fields .*got 5; write `0 0 3 \\* \\* 1`"),
        ("0 0 3 * * 1 2026", "expected six fields .*got 7"),
        ("0 61 3 * * 1", "minute '61': expected 0-59"),
        ("0 0 24 * * *", "hour '24': expected 0-23"),
        ("0 0 3 0 * *", "day of month '0': expected 1-31"),
        ("0 0 3 * 13 *", "month '13': expected 1-12"),
        ("0 0 3 * * 7", "day of week '7': expected 0-6 or SUN-SAT"),
        ("0 0 3 L * *", "day of month 'L'"),
        ("0 0 3 * * 1#2", "day of week '1#2'"),
        ("0 ? 3 * * *", r"minute '\?'"),
        ("0 0 3 5-1 * *", "day of month '5-1'"),
        ("0 0 3 31 2 *", "no such day exists"),
    ],
)
def test_what_the_cluster_would_not_understand_is_refused(cron: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        checked_cron(cron)


def test_times_are_those_of_the_clusters_zone() -> None:
    (summer,) = next_times("0 0 3 * * *", datetime(2026, 6, 1, tzinfo=ZoneInfo("Asia/Shanghai")), 1)
    assert summer.astimezone(UTC).hour == 19


def test_the_schedules_of_the_repository_are_sound() -> None:
    found = read_schedules(SCHEDULES)
    names = {schedule.name for schedule in found.schedules}
    assert names == {"weekly-retraining", "nightly-smoke", "nightly-catalogue"}
    for schedule in found.schedules:
        assert schedule.no_catchup
        assert schedule.max_concurrency == 1
        assert not schedule.dataset_digest, "the cache would always answer under that name"
    shown = run("check").output
    assert "At 03:00 on Monday, UTC (0 0 3 * * 1)" in shown
    assert "missed times are skipped" in shown


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"cron": "0 3 * * 1"}, "nightly.cron: expected six fields"),
        ({"dataset": None}, "nightly.dataset: Input should be a valid string"),
        ({"max_concurrency": 11}, "nightly.max_concurrency: .* less than or equal to 10"),
        ({"no_catch_up": True}, "nightly.no_catch_up: Extra inputs are not permitted"),
        ({"set": ["indexing.probe=1"]}, "unknown indexing key 'probe'"),
        ({"name": "Nightly Run"}, "Nightly Run.name: "),
    ],
)
def test_a_mistake_in_the_file_is_named(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_schedules(write(tmp_path / "s.yaml", NIGHTLY | change))


def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nightly: a name can be used only once"):
        read_schedules(write(tmp_path / "s.yaml", NIGHTLY, NIGHTLY))
    with pytest.raises(ConfigError, match=r"timezone: .*Mars"):
        read_schedules(write(tmp_path / "s.yaml", NIGHTLY, timezone="Mars/Olympus"))
    with pytest.raises(ConfigError, match="no such file"):
        read_schedules(tmp_path / "none.yaml")


def test_the_plan_is_shown_and_nothing_changed_without_yes(
    server: KfpServer, tmp_path: Path
) -> None:
    shown = run("apply", "--file", write(tmp_path / "s.yaml", NIGHTLY)).output
    assert "create   nightly" in shown
    assert "At 01:30 every day, UTC (0 30 1 * * *)" in shown
    assert "next: " in shown
    assert "add --yes to apply the plan" in shown
    assert not server.world.schedules
    assert not any(request.startswith("POST") for request in server.requests)


def test_a_schedule_is_made_as_the_file_says(server: KfpServer, tmp_path: Path) -> None:
    entry = NIGHTLY | {"set": ["indexing.factory=HNSW32"], "service_account": "runner"}
    file = write(tmp_path / "s.yaml", entry)
    run("apply", "--file", file, "--yes")
    (made,) = server.world.schedules.values()
    (version,) = server.world.versions.values()
    assert made.display_name == "nightly"
    assert made.trigger.cron_schedule.cron == "0 30 1 * * *"
    assert (made.max_concurrency, made.no_catchup, made.status) == ("1", True, "ENABLED")
    assert made.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
    assert made.runtime_config.parameters["dataset_uri"] == "s3://p1m/sample"
    assert made.runtime_config.parameters["indexing"]["factory"] == "HNSW32"
    assert made.service_account == "runner"
    tasks = version.pipeline_spec["pipeline_spec"]["root"]["dag"]["tasks"]
    assert not any(task["cachingOptions"].get("enableCache") for task in tasks.values())
    before = len(server.requests)
    assert "nothing to do" in run("apply", "--file", file, "--yes").output
    assert all(request.startswith("GET") for request in server.requests[before:])


def test_a_replaced_schedules_changes_are_shown(server: KfpServer, tmp_path: Path) -> None:
    file = write(tmp_path / "s.yaml", NIGHTLY)
    run("apply", "--file", file, "--yes")
    (old,) = server.world.schedules
    write(file, NIGHTLY | {"cron": "0 0 2 * * *", "dataset": "s3://p1m/other"})
    shown = run("apply", "--file", file, "--yes").output
    assert "replace  nightly (cron: 0 30 1 * * * -> 0 0 2 * * *; dataset_uri: " in shown
    (new,) = server.world.schedules.values()
    assert new.recurring_run_id != old
    assert new.trigger.cron_schedule.cron == "0 0 2 * * *"
    assert server.asked(f"POST {RECURRING}/{old}:disable") == 1
    write(file, NIGHTLY | {"cron": "0 0 2 * * *", "pipeline_root": "s3://p1m/runs"})
    assert (
        "pipeline_root: the installation's -> s3://p1m/runs" in run("apply", "--file", file).output
    )


def test_a_commit_that_changes_nothing_here_replaces_nothing(
    server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "s.yaml", NIGHTLY)
    run("apply", "--file", file, "--yes")
    monkeypatch.setenv("PRODUCT1M_GIT_REVISION", "fedcba9876543210")
    assert "nothing to do" in run("apply", "--file", file, "--yes").output
    write(file, NIGHTLY | {"profile": "gpu-1"})
    assert "replace  nightly" in run("apply", "--file", file, "--yes").output
    assert {found.name.split("-")[1] for found in server.world.versions.values()} == {
        "0123456789ab",
        "fedcba987654",
    }


def statuses(server: KfpServer) -> dict[str, str]:
    return {key: schedule.status for key, schedule in server.world.schedules.items()}


def changed_while_it_runs(server: KfpServer, tmp_path: Path) -> tuple[Path, str, Any]:
    """A schedule with a run in flight and another time in its file: file, id, run."""
    file = write(tmp_path / "s.yaml", NIGHTLY)
    run("apply", "--file", file, "--yes")
    (old,) = server.world.schedules
    in_flight = server.world.tick(old)
    return write(file, NIGHTLY | {"cron": "0 0 2 * * *"}), old, in_flight


def test_a_schedule_without_a_run_in_flight_is_replaced(server: KfpServer, tmp_path: Path) -> None:
    file, old, in_flight = changed_while_it_runs(server, tmp_path)
    shown = run("apply", "--file", file, "--yes").output
    assert f"not replaced yet, its run {in_flight.run_id} is in flight; apply again" in shown
    assert in_flight.state == "RUNNING"
    assert statuses(server) == {old: "ENABLED"}
    server.world.end(in_flight, "SUCCEEDED")
    shown = run("apply", "--file", file, "--yes").output
    assert "replace  nightly (cron: 0 30 1 * * * -> 0 0 2 * * *)" in shown
    (new,) = server.world.schedules.values()
    assert (new.status, new.recurring_run_id != old) == ("ENABLED", True)


def test_apply_can_wait_for_the_run_of_a_schedule_that_it_replaces(
    server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, old, in_flight = changed_while_it_runs(server, tmp_path)

    def end_run(_: float) -> None:
        assert statuses(server) == {old: "DISABLED"}
        server.world.end(in_flight, "SUCCEEDED")

    replace_clock(monkeypatch, "pipelines.cluster.reconcile", sleep=end_run)
    run("apply", "--file", file, "--yes", "--wait", "1")
    (new,) = server.world.schedules.values()
    assert (new.status, new.trigger.cron_schedule.cron) == ("ENABLED", "0 0 2 * * *")

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    server.world.tick(new.recurring_run_id)
    write(file, NIGHTLY)
    replace_clock(monkeypatch, "pipelines.cluster.reconcile", sleep=interrupt)
    CliRunner().invoke(app, ["schedule", "apply", "--file", str(file), "--yes", "--wait", "1"])
    assert list(server.world.schedules.values()) == [new]
    assert new.status == "ENABLED", "an interrupted command leaves the old schedule on"


def test_a_deleted_schedules_run_is_never_ended(server: KfpServer, tmp_path: Path) -> None:
    file = write(tmp_path / "s.yaml", NIGHTLY)
    run("apply", "--file", file, "--yes")
    (old,) = server.world.schedules
    in_flight = server.world.tick(old)
    shown = run("delete", "nightly", "--yes").output
    assert f"{old} is switched off and stays until its run {in_flight.run_id} has ended" in shown
    assert server.world.schedules[old].status == "DISABLED"
    server.world.end(in_flight, "SUCCEEDED")
    run("delete", "nightly", "--yes")
    assert not server.world.schedules


def test_the_list_counts_the_runs_of_replaced_schedules(server: KfpServer, tmp_path: Path) -> None:
    file = write(tmp_path / "s.yaml", NIGHTLY, NIGHTLY | {"name": "nightly-2"})
    run("apply", "--file", file, "--yes")
    old, other = server.world.schedules
    succeeded = server.world.tick(old, "SUCCEEDED")
    server.world.tick(other, "FAILED")
    write(file, NIGHTLY | {"cron": "0 0 2 * * *"}, NIGHTLY | {"name": "nightly-2"})
    run("apply", "--file", file, "--yes")
    first, second = run("list").output.split("nightly-2")
    assert old not in server.world.schedules
    assert f"last run  {succeeded.run_id} SUCCEEDED" in first
    assert "FAILED" in second


def test_a_stopped_run_is_listed_as_canceled(server: KfpServer, tmp_path: Path) -> None:
    run("apply", "--file", write(tmp_path / "s.yaml", NIGHTLY), "--yes")
    (made,) = server.world.schedules
    last = server.world.tick(made, "CANCELED")
    assert f"last run  {last.run_id} CANCELED" in run("list").output


def test_a_schedule_is_switched_on_and_off_in_place(server: KfpServer, tmp_path: Path) -> None:
    file = write(tmp_path / "s.yaml", NIGHTLY)
    run("apply", "--file", file, "--yes")
    (made,) = server.world.schedules.values()
    write(file, NIGHTLY | {"enabled": False})
    assert "disable  nightly" in run("apply", "--file", file, "--yes").output
    assert (made.status, len(server.world.schedules)) == ("DISABLED", 1)
    write(file, NIGHTLY)
    assert "enable   nightly" in run("apply", "--file", file, "--yes").output
    assert made.status == "ENABLED"


def test_what_is_not_in_the_file_goes_and_what_is_not_ours_stays(
    server: KfpServer, tmp_path: Path
) -> None:
    other = NIGHTLY | {"name": "weekly", "cron": "0 0 3 * * 1"}
    file = write(tmp_path / "s.yaml", NIGHTLY, other)
    run("apply", "--file", file, "--yes")
    foreign = next(iter(server.world.schedules.values()))
    foreign.description = "made by hand in the UI"
    write(file, other)
    shown = run("apply", "--file", file, "--yes").output
    assert "nothing to do" in shown
    foreign.description = "product1m schedule 0123456789abcdef"
    assert "delete   nightly (not in the file)" in run("apply", "--file", file, "--yes").output
    assert [schedule.display_name for schedule in server.world.schedules.values()] == ["weekly"]


def test_a_failure_between_old_and_new_leaves_the_old_one_on(
    server: KfpServer, tmp_path: Path
) -> None:
    file = write(tmp_path / "s.yaml", NIGHTLY)
    run("apply", "--file", file, "--yes")
    (old,) = server.world.schedules.values()
    write(file, NIGHTLY | {"cron": "0 0 2 * * *"})
    server.fault("POST", f"{RECURRING}$", "403")
    result = CliRunner().invoke(app, ["schedule", "apply", "--file", str(file), "--yes"])
    assert result.exit_code == 1
    assert "creating schedule nightly" in result.output
    assert old.status == "ENABLED"
    assert len(server.world.schedules) == 1


@pytest.mark.parametrize("kind", ["lost", "500", "reset"])
def test_a_schedule_is_made_once_whatever_the_answer(
    server: KfpServer, tmp_path: Path, kind: str
) -> None:
    server.fault("POST", f"{RECURRING}$", kind)
    run("apply", "--file", write(tmp_path / "s.yaml", NIGHTLY), "--yes")
    assert len(server.world.schedules) == 1


def test_a_pinned_version_has_to_be_there(server: KfpServer, tmp_path: Path) -> None:
    file = write(tmp_path / "s.yaml", NIGHTLY)
    run("apply", "--file", file, "--yes")
    (version,) = server.world.versions.values()
    write(file, NIGHTLY | {"version": version.name, "enabled": False})
    assert "disable  nightly" in run("apply", "--file", file, "--yes").output
    write(file, NIGHTLY | {"version": "git-000000000000-0000000000"})
    result = CliRunner().invoke(app, ["schedule", "apply", "--file", str(file), "--yes"])
    assert result.exit_code == 1
    assert "version git-000000000000-0000000000 is not on the cluster" in result.output


def test_the_list_shows_how_the_last_run_ended(server: KfpServer, tmp_path: Path) -> None:
    run("apply", "--file", write(tmp_path / "s.yaml", NIGHTLY), "--yes")
    (made,) = server.world.schedules
    last = server.world.tick(made, "FAILED")
    shown = run("list").output
    assert "nightly  ENABLED" in shown
    assert "At 01:30 every day (0 30 1 * * *)" in shown
    assert f"last run  {last.run_id} FAILED" in shown
    assert "success   none yet" in shown
    assert "UTC" in next(line for line in shown.splitlines() if "next" in line)


def test_the_list_shows_when_a_run_last_succeeded(server: KfpServer, tmp_path: Path) -> None:
    run("apply", "--file", write(tmp_path / "s.yaml", NIGHTLY), "--yes")
    (made,) = server.world.schedules
    succeeded = server.world.tick(made, "SUCCEEDED")
    succeeded.finished_at = datetime(2026, 11, 22, 19, 30, tzinfo=UTC)
    server.world.tick(made, "FAILED")
    assert "success   Mon 2026-11-23 03:30 CST" in run("list", "--zone", "Asia/Shanghai").output
    result = CliRunner().invoke(app, ["schedule", "list", "--zone", "Mars/Olympus"])
    assert result.exit_code == 2
    assert "error: timezone: " in result.output


def test_many_schedules_are_read_page_by_page(
    server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cluster.api.PAGE_SIZE", 2)
    entries = [NIGHTLY | {"name": f"nightly-{number}"} for number in range(5)]
    run("apply", "--file", write(tmp_path / "s.yaml", *entries), "--yes")
    assert run("list").output.count("ENABLED") == 5


def test_delete_takes_schedules_by_name(server: KfpServer, tmp_path: Path) -> None:
    run("apply", "--file", write(tmp_path / "s.yaml", NIGHTLY), "--yes")
    (made,) = server.world.schedules
    finished = server.world.tick(made, "SUCCEEDED")
    assert "nothing was changed" in run("delete", "nightly").output
    assert len(server.world.schedules) == 1
    run("delete", "nightly", "--yes")
    assert not server.world.schedules
    assert finished.run_id in server.world.runs
    result = CliRunner().invoke(app, ["schedule", "delete", "weekly"])
    assert "no schedule weekly; the cluster has none" in result.output
