"""The eight steps: each reads artifact folders, does its work and writes artifact folders."""

import gc

MIN_NEW_OBJECTS = 10_000
"""New objects that make Python look for garbage. Its default, 700, looks through the growing number
of a library's objects hundreds of times while it is imported (ours; `benchmarks/startup.py`)."""

gc.set_threshold(max(MIN_NEW_OBJECTS, gc.get_threshold()[0]), *gc.get_threshold()[1:])
