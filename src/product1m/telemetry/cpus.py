"""How many CPUs this process may use: its container's limit and its affinity."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cpus(cgroups: Path = CGROUPS) -> int:
    """CPUs that the process may use, at least 1; half a CPU counts as one.

    Libraries with threads of their own count the machine's CPUs, and ignore the limit of a
    container, so that a pod with 2 CPUs on a node of 64 would start 64 threads.
    """
    cpus = len(os.sched_getaffinity(0))
    if (limit := _quota(cgroups)) is not None:
        cpus = min(cpus, math.ceil(limit))
    return max(1, cpus)


def _quota(cgroups: Path) -> float | None:
    """The limit in CPUs, by cgroups version 2 or 1; None without one."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroups / name).read_text() for name in names).split()
            limit = float(quota) / float(period)
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or `max`
            continue
        return limit if limit > 0 else None
    return None
