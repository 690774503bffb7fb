"""`schedule apply` names each field that differs, what it is and what it becomes, and no other."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.graph.package import package
from tests.support.servers.kfp_server import KfpServer
from tests.support.worlds.kfp_world import RUNNER

compiled = functools.cache(package)
ENTRY = {"name": "nightly", "cron": "0 30 1 * * *", "preset": "sample", "dataset": "s3://p1m/a"}
GIVEN = ENTRY | {"service_account": "robot", "pipeline_root": "s3://p1m/runs"}


def reasons(file: Path, entry: dict[str, Any], *options: str) -> list[str]:
    """Why `apply` would replace the only schedule; empty if it would not."""
    file.write_text(yaml.safe_dump({"schedules": [entry]}))
    shown = CliRunner().invoke(app, ["schedule", "apply", "--file", str(file), *options])
    assert shown.exit_code == 0, shown.output
    found = re.search(r"^replace  nightly \((.*)\)$", shown.output, re.MULTILINE)
    return found[1].split("; ") if found else []


@pytest.fixture
def file(kfp_server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("pipelines.graph.package.package", compiled)
    monkeypatch.setenv("PRODUCT1M_GIT_REVISION", "0123456789abcdef")
    return tmp_path / "schedules.yaml"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"cron": "0 0 2 * * *"}, "cron: 0 30 1 * * * -> 0 0 2 * * *"),
        ({"dataset": "s3://p1m/b"}, "dataset_uri: s3://p1m/a -> s3://p1m/b"),
        ({"backgrounds": "s3://p1m/c"}, "backgrounds_uri: none -> s3://p1m/c"),
        ({"max_concurrency": 2}, "max_concurrency: 1 -> 2"),
        ({"no_catchup": False}, "no_catchup: True -> False"),
        ({"experiment": "smoke"}, "experiment: product1m-training -> smoke"),
        ({"service_account": "robot"}, "service_account: the installation's -> robot"),
        ({"pipeline_root": "s3://p1m/r"}, "pipeline_root: the installation's -> s3://p1m/r"),
        ({"set": ["indexing.probes=7"]}, "indexing.probes: 64 -> 7"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_one_changed_field_is_the_one_reason(
    file: Path, change: dict[str, Any], expected: str
) -> None:
    assert reasons(file, ENTRY, "--yes") == []
    assert reasons(file, ENTRY | change) == [expected]
    assert reasons(file, ENTRY) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"when": "always"}, "cache: true -> false"),
        ({"profile": "gpu-1"}, "profile: default -> gpu-1"),
        ({"work_volume": "work"}, "work_volume: none -> work"),
    ],
    ids=["when", "profile", "work_volume"],
)
def test_a_field_that_is_compiled_in_is_named_beside_the_version(
    file: Path, change: dict[str, Any], expected: str
) -> None:
    reasons(file, ENTRY, "--yes")
    first, second = reasons(file, ENTRY | change)
    assert first == expected
    assert re.fullmatch(
        "version: git-0123456789ab-[0-9a-f]{10} -> git-0123456789ab-[0-9a-f]{10}", second
    )


def test_a_service_account_of_the_server_is_no_reason_and_one_left_out_is(
    file: Path, kfp_server: KfpServer
) -> None:
    reasons(file, ENTRY, "--yes")
    (made,) = kfp_server.world.schedules.values()
    assert made.service_account == RUNNER
    assert reasons(file, ENTRY | {"cron": "0 0 2 * * *"}) == ["cron: 0 30 1 * * * -> 0 0 2 * * *"]
    reasons(file, GIVEN, "--yes")
    assert reasons(file, ENTRY) == [
        "service_account: robot -> the installation's",
        "pipeline_root: s3://p1m/runs -> the installation's",
    ]


def test_what_makes_no_difference_replaces_nothing(file: Path) -> None:
    reasons(file, ENTRY, "--yes")
    assert reasons(file, ENTRY | {"set": ["indexing.probes=64"]}) == []


def test_a_description_of_an_earlier_revision_is_named_as_such(
    file: Path, kfp_server: KfpServer
) -> None:
    reasons(file, ENTRY, "--yes")
    (made,) = kfp_server.world.schedules.values()
    made.description = "product1m schedule 0123456789abcdef"
    assert reasons(file, ENTRY) == ["description: of an earlier revision -> of this one"]
