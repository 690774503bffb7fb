"""How fast `product1m serve` answers: `python benchmarks/serving.py MODEL DATASET`.

Starts the server's process on a model's folder, asks it the data set's photos with their titles,
first one after the other, then several at once, and prints times and the processor time of a photo.
Other work on the machine adds to the times and hardly to the processor time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests

CLIENTS = 4
"""Requests at the same time in the second part."""


def questions(dataset: Path, number: int) -> list[tuple[bytes, str]]:
    """Photos of the test list with their titles."""
    lines = (dataset / "product1m_test_ossurl_v2.txt").read_text("utf-8").splitlines()[:number]
    rows = [line.split("#####") for line in lines]
    return [((dataset / "images" / f"{row[0]}.jpg").read_bytes(), row[1]) for row in rows]


@contextmanager
def running(model: Path | str) -> Iterator[tuple[str, psutil.Process]]:
    """The server's address and process."""
    command = [sys.executable, "-m", "product1m", "serve", "--port=0", f"--model={model}"]
    process = subprocess.Popen(
        [*command, "--allow-unsigned"],
        stderr=subprocess.PIPE,
        env={**os.environ, "PRODUCT1M_LOG": "json"},
        text=True,
    )
    assert process.stderr is not None
    text = ""
    for text in process.stderr:
        if '"url"' in text:
            break
    else:
        sys.exit(f"the server did not start: {text.strip() or 'it printed nothing'}")
    reader = ThreadPoolExecutor(1)
    reader.submit(process.stderr.read)
    try:
        yield json.loads(text)["url"], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()
        reader.shutdown()


def ask(url: str, question: tuple[bytes, str]) -> float:
    """Seconds until the answer."""
    photo, title = question
    started = time.perf_counter()
    answer = requests.post(
        f"{url}search", files={"photo": photo}, data={"title": title}, timeout=600
    )
    answer.raise_for_status()
    return time.perf_counter() - started


def processor_s(server: psutil.Process) -> float:
    times = server.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--photos", type=int, default=200)
    arguments = parser.parse_args()
    asked = questions(arguments.dataset, arguments.photos)
    with running(arguments.model) as (url, server):
        for question in asked[:5]:
            ask(url, question)
        before = processor_s(server)
        seconds = sorted(ask(url, question) for question in asked)
        alone = processor_s(server) - before
        started = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(lambda question: ask(url, question), asked))
        together = time.perf_counter() - started
    print(f"one after the other: median {1000 * statistics.median(seconds):.0f} ms,", end=" ")
    print(f"p95 {1000 * seconds[int(0.95 * len(seconds))]:.0f} ms,", end=" ")
    print(f"{1000 * alone / len(asked):.0f} ms of processor time a photo")
    print(f"{CLIENTS} at once: {len(asked) / together:.1f} photos/s")
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
