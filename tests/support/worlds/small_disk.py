"""A real file system of a given size, for what happens when a disk is full or read-only."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from product1m.errors import Product1MError

MIN_BYTES = 64 << 10
CLEAR = re.compile(
    r"(?s).*/disk\S*: (the disk is full|a file could not be written whole|the file system is "
    r"read-only|no permission for user|cannot be written).*"
)
RAW = re.compile(r"Errno|os error|unexpected pos|Traceback|sqlalche|inline_container")


@contextmanager
def small_disk(folder: Path, num_bytes: int, read_only: bool = False) -> Iterator[Path]:
    """Mount a tmpfs at `folder`; the test is skipped where that is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={max(num_bytes, MIN_BYTES)},mode=0755{',ro' if read_only else ''}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("mount is not installed")
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def outcome(write: Callable[[Path], object], out: Path) -> str:
    """How a step ended: `clear`, `finished`, or what is wrong with its message."""
    try:
        write(out)
    except Product1MError as error:
        if CLEAR.fullmatch(str(error)) and not RAW.search(str(error)):
            return "clear"
        return f"unclear: {error}"
    except Exception as error:
        return f"raw: {type(error).__name__}: {error}"
    return "finished"
