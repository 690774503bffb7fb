"""What a piece of work costs, beside what the operating system says it cost."""

import subprocess
import sys
import time

import psutil
import pytest
import torch

from product1m.telemetry.usage import Meter, peak_memory_mib


def test_a_meter_counts_the_time_and_the_processor_time_of_a_block() -> None:
    before = psutil.Process().cpu_times()
    meter, started = Meter(), time.monotonic()
    while time.monotonic() - started < 0.2:
        sum(range(1000))
    usage, after = meter.read(), psutil.Process().cpu_times()
    spent = (after.user - before.user) + (after.system - before.system)
    assert usage.seconds == pytest.approx(0.2, abs=0.1)
    assert usage.cpu_seconds == pytest.approx(spent, abs=0.05)


def test_a_meter_counts_children_that_ended() -> None:
    meter = Meter()
    loop = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", loop], check=True)
    assert meter.read().cpu_seconds >= 0.3


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
