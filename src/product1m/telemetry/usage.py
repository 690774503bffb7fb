"""What a piece of work costs this machine: time, processor time, memory, GPU memory."""

import os
import resource
import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """Measured figures; see `Meter`."""

    seconds: float
    cpu_seconds: float
    """Of this process and of its children that have ended."""
    peak_memory_mib: float
    """Of this process or its largest child, since they started."""
    peak_gpu_memory_mib: float
    """What torch held at most on the fullest GPU, since the process started; 0 without one."""


class Meter:
    """Measures from its making on."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._cpu_before = _cpu_seconds()

    def read(self) -> Usage:
        """The figures so far."""
        return Usage(
            seconds=round(time.monotonic() - self._started, 2),
            cpu_seconds=round(_cpu_seconds() - self._cpu_before, 2),
            peak_memory_mib=round(peak_memory_mib(), 1),
            peak_gpu_memory_mib=round(_peak_gpu_memory_mib(), 1),
        )


def peak_memory_mib() -> float:
    """Largest resident size of this process or of one of its children so far."""
    usages = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return max(usages) / 1024


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def _peak_gpu_memory_mib() -> float:
    torch = sys.modules.get("torch")  # a step that does not need torch must not load it for this
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    devices = range(torch.cuda.device_count())
    return max(float(torch.cuda.max_memory_reserved(device)) for device in devices) / 2**20
