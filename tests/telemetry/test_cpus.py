"""The CPUs of a container, as its files say."""

import os
from pathlib import Path

import pytest

from product1m.telemetry.cpus import available_cpus


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),  # a part of a CPU counts
        ("50000 100000", 1),
        ("6400000 100000", 8),  # more than the machine has
        ("max 100000", 8),
        ("nonsense", 8),
    ],
)
def test_the_limit_of_a_container(tmp_path: Path, content: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(content + "\n")
    assert available_cpus(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3), ("-1", 8)])
def test_the_limit_of_an_older_container(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert available_cpus(tmp_path) == expected


def test_without_a_container_the_affinity_decides(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == 8
