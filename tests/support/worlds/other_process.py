"""Another process that holds a lock."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

_SCRIPT = """
import sys
from pathlib import Path
from product1m.storage.locks import hold
with hold(Path(sys.argv[1]), Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(path: Path) -> AbstractContextManager[int]:
    """Another process, whose id this yields, is the only writer of `path` within the block."""
    return holding_lock(path.with_name(f".{path.name}.lock"))


@contextmanager
def holding_lock(lock: Path) -> Iterator[int]:
    """Another process, whose id this yields, holds a lock file within the block."""
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.stdin.close()
