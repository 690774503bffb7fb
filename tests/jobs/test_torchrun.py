"""Training with several processes of one pod, as far as no training is needed."""

import sys
from pathlib import Path

import pytest

from product1m.config import TrainingJobConfig
from product1m.jobs import torchrun


def test_the_processes_share_the_cpus_of_their_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "threads: $OMP_NUM_THREADS" >&2\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(torchrun, "available_cpus", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torchrun.run_torchrun("rpn_training", ["a step"], TrainingJobConfig(processes_per_node=2))
    assert "threads: 3" in capsys.readouterr().err
