"""Ranks as processes forked from a test, which has loaded torch already."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch._dynamo  # making an optimizer imports it, in every rank if not here
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import start_processes

Check = Callable[[int, Path], None]
HOST = "127.0.0.1"
MAX_S = 300.0
_PROCESSES = get_context("fork")


def on_ranks(folder: Path, check: Check, num_ranks: int = 2) -> None:
    """Run `check(rank, folder)` on every rank; an exception on any of them is raised here."""
    arguments = (folder, check, num_ranks)
    start_processes(_rank, arguments, nprocs=num_ranks, start_method="fork")  # type: ignore[no-untyped-call]


def _rank(rank: int, folder: Path, check: Check, num_ranks: int) -> None:
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=num_ranks)
    check(rank, folder)
    torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Ended:
    """How a rank ended, and what it wrote to standard error."""

    exit_code: int
    log: str


@contextmanager
def torchrun_store() -> Iterator[int]:
    """The store that `torchrun` keeps for its workers, on a free port, during the block."""
    here, there = _PROCESSES.Pipe()
    agent = _PROCESSES.Process(target=_keep_store, args=(there,), daemon=True)
    agent.start()
    try:
        yield here.recv()
    finally:
        agent.kill()
        agent.join()


def _keep_store(there: Connection) -> None:
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    there.send(store.port)
    there.recv()  # until this process is killed


def run_as_ranks(
    folder: Path, work: Callable[[int], object], store: int, attempt: int = 0, num_ranks: int = 2
) -> list[Ended]:
    """Call `work(rank)` on every rank in the environment that `torchrun` gives its workers.

    Nobody ends the other ranks when one fails. Logs are written below `folder`.
    """
    common = {
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(store),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
    }
    logs = [folder / f"rank-{rank}-{attempt}.log" for rank in range(num_ranks)]
    ranks = [
        _PROCESSES.Process(target=_worker, args=(work, rank, common, log))
        for rank, log in enumerate(logs)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(MAX_S)
        process.kill()  # does nothing to one that has ended
        process.join()
    return [
        Ended(process.exitcode or 0, log.read_text("utf-8"))
        for process, log in zip(ranks, logs, strict=True)
    ]


def _worker(
    work: Callable[[int], object], rank: int, environment: dict[str, str], log: Path
) -> None:
    os.environ |= {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    with log.open("w", buffering=1, encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    work(rank)
