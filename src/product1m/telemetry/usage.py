"""What a piece of work costs: time, processor time, memory, GPU memory."""

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
    """CPU time of this process and its ended children."""
    peak_memory_mib: float
    """Largest size of this process or one of its children, since they started."""
    peak_gpu_memory_mib: float
    """Most memory that torch reserved on one GPU since the process started; 0 without a GPU."""


class Meter:
    """Measures from its creation."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._cpu_before = _cpu_seconds()

    def read(self) -> Usage:
        """Figures from the creation until now."""
        return Usage(
            seconds=round(time.monotonic() - self._started, 2),
            cpu_seconds=round(_cpu_seconds() - self._cpu_before, 2),
            peak_memory_mib=round(peak_memory_mib(), 1),
            peak_gpu_memory_mib=round(_peak_gpu_memory_mib(), 1),
        )


def peak_memory_mib() -> float:
    """Largest resident size so far of this process or one of its children."""
    usages = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return max(usages) / 1024


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def _peak_gpu_memory_mib() -> float:
    torch = sys.modules.get("torch")  # do not import torch only for this
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    devices = range(torch.cuda.device_count())
    return max(float(torch.cuda.max_memory_reserved(device)) for device in devices) / 2**20
