"""What a piece of work costs, compared with what the operating system reports."""

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from product1m.telemetry.usage import Meter, peak_memory_mib
from tests.support.clocks import replace_clock


def test_a_meter_counts_time_and_processor_time_from_its_creation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([100.0, 107.25])
    processor = iter([(3.0, 1.0, 0.5, 0.25, 0.0), (5.0, 1.5, 1.0, 0.75, 0.0)])
    replace_clock(monkeypatch, "product1m.telemetry.usage", monotonic=lambda: next(clock))
    processes = SimpleNamespace(times=lambda: next(processor))
    monkeypatch.setattr("product1m.telemetry.usage.os", processes)
    usage = Meter().read()
    assert usage.seconds == 7.25
    assert usage.cpu_seconds == 2.0 + 0.5 + 0.5 + 0.5, "user and system, own and of children"


def test_a_meter_counts_children_that_ended() -> None:
    meter = Meter()
    loop = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", loop], check=True)
    assert meter.read().cpu_seconds >= 0.4, "of at least 0.5 s, counted in ticks of 10 ms"


def test_memory_is_the_largest_so_far() -> None:
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    peak = peak_memory_mib()
    del held
    assert peak_memory_mib() >= peak >= psutil.Process().memory_info().rss / 2**20 - 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_memory_is_what_torch_held() -> None:
    meter = Meter()
    torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    assert meter.read().peak_gpu_memory_mib >= 64


def test_without_a_gpu_none_is_counted() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        pytest.skip("this process used a GPU")
    assert Meter().read().peak_gpu_memory_mib == 0
