"""A campaign: a scenario killed at every file operation, once more while it recovers, then not."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from product1m.artifacts.folder import Artifact
from product1m.artifacts.manifest import MANIFEST, parse_manifest
from product1m.errors import Product1MError
from tests.support.kills.scenarios import PREPARED_BY
from tests.support.kills.shim import BEFORE, WRITE
from tests.support.paths import ROOT
from tests.support.servers.s3_server import S3Server

Answer = dict[str, Any]
STORE = "shop/"
_REMOVED_WHOLE = ("tmp/", "run/mlflow-artifacts/")
"""The temporary folder, and the files of a model that no version shows."""
_ID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Undisturbed:
    """What a scenario does and leaves when nobody kills it."""

    operations: Sequence[str]
    states: Sequence[str]
    written: Sequence[bool]
    digests: Mapping[str, str]
    files: Sequence[str]
    facts: Answer

    def kills(self) -> list[tuple[int, str]]:
        """Every kill that leaves something else: number of the operation, and how.

        Before each operation at which the folder is in a state of its own (what a kill leaves
        before a `fsync` is what it leaves after the write), and within the first write of new
        content after each operation that has one. Of operations in a folder that the next run
        removes as a whole, only the first and the last of each kind between two others. One of
        each kind (operation, path without ids and numbers) comes first, then the second of each.
        """
        first = {state: number for number, state in reversed(list(enumerate(self.states, start=1)))}
        own = {n for n in first.values() if n <= len(self.operations)}
        written = {n for n, follows in enumerate(self.written) if n and follows}
        kept = self._told_apart()
        kills = [
            *((n, BEFORE) for n in sorted(own & kept)),
            *((n, WRITE) for n in sorted(written & kept)),
        ]
        alike, turns = Counter[tuple[str, str]](), dict[tuple[int, str], int]()
        for number, how in kills:
            kind = (_kind((*self.operations, "end")[number - 1]), how)
            turns[number, how] = alike[kind]
            alike[kind] += 1
        return sorted(kills, key=lambda kill: turns[kill])

    def _told_apart(self) -> set[int]:
        """Numbers of the operations, of many alike in a folder that goes as a whole only two."""
        kept, alike = set(), dict[str, list[int]]()
        for number, name in enumerate([*self.operations, "end"], start=1):
            kind, _, path = name.partition(" ")
            folder = next((folder for folder in _REMOVED_WHOLE if path.startswith(folder)), "")
            if folder:
                alike.setdefault(kind + folder, []).append(number)
                continue
            kept |= {number, *(n for numbers in alike.values() for n in (numbers[0], numbers[-1]))}
            alike.clear()
        return kept


@dataclass
class Report:
    """How many attempts there were, and what went wrong."""

    scenario: str
    operations: int = 0
    kills: int = 0
    """How many kills leave something else; with `done` less those done before."""
    attempts: int = 0
    runs: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = Counter(failure.partition("|")[0] for failure in self.failures)
        shown = "".join(f"\n    {count} x {kind}" for kind, count in kinds.most_common())
        return (
            f"{self.scenario:<32} {self.operations:>4} operations {self.attempts:>4} attempts of "
            f"{self.kills:<4}{len(self.failures):>4} failures {self.seconds:>6.0f} s{shown}"
        )


class Campaign:
    """Attempts at scenarios on the artifacts below `world`, in sandboxes below `scratch`."""

    def __init__(
        self,
        process: "subprocess.Popen[str]",
        world: Path,
        scratch: Path,
        s3: S3Server | None = None,
    ) -> None:
        self._process, self._world, self._scratch = process, world, scratch
        self._number = 0
        self._s3 = s3
        self._prefixes: dict[Path, str] = {}

    def ask(
        self,
        scenario: str,
        sandbox: Path,
        at: int | str = 0,
        how: str = BEFORE,
        *,
        watched: bool = False,
    ) -> Answer:
        """Run a scenario in a sandbox, killed at operation `at` if there is one, see `Shim`."""
        request = {
            "scenario": scenario,
            "world": str(self._world),
            "sandbox": str(sandbox),
            "at": at,
            "how": how,
            "watched": watched,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, (self._scratch / "server.log").read_text()[-2000:]
        answer: Answer = json.loads(line)
        return answer

    def undisturbed(self, scenario: str, before: Path | None = None) -> Undisturbed:
        """Run a scenario without a kill, in a copy of the folder `before`."""
        sandbox = self._sandbox(before)
        answer = self.ask(scenario, sandbox, watched=True)
        assert not answer["error"], answer["error"]
        return Undisturbed(
            operations=answer["names"],
            states=answer["states"],
            written=answer["written"],
            digests={} if answer["facts"] else digests(sandbox),
            files=listing(sandbox),
            facts=answer["facts"],
        )

    def run(
        self,
        scenario: str,
        *,
        every: int = 1,
        replacing: bool = False,
        seed: int = 0,
        only: str = "",
        minutes: float = float("inf"),
        done: Path | None = None,
    ) -> Report:
        """Kill a scenario at every operation, or at a part of them, also where old artifacts are.

        With `only` at the operations whose names begin so, and for so many minutes. The file `done`
        names kills that were tried before and are left out now; it is continued.
        """
        started = time.monotonic()
        report = Report(scenario + (", replacing" if replacing else ""))
        old = self._with_old_artifacts(scenario) if replacing else None
        if scenario in PREPARED_BY:
            old = self._prepared(scenario)
        expected = self.undisturbed(scenario, old)
        report.operations = len(expected.operations)
        tried = set(done.read_text().splitlines()) if done and done.exists() else set()
        kills = {
            f"{report.scenario} {how} {n} {_kind(expected.operations[n - 1])}": (n, how)
            for place, (n, how) in enumerate(expected.kills())
            if (place + seed) % every == 0 and expected.operations[n - 1].startswith(only)
        }
        report.kills = len(kills.keys() - tried)
        for name, (number, how) in kills.items():
            if name in tried or time.monotonic() > started + 60 * minutes:
                continue
            self._attempt(scenario, number, how, expected, old, report)
            if done:
                with done.open("a") as lines:
                    lines.write(f"{name}\n")
        report.seconds = time.monotonic() - started
        return report

    def _attempt(
        self,
        scenario: str,
        number: int,
        how: str,
        expected: Undisturbed,
        old: Path | None,
        report: Report,
    ) -> None:
        """One kill, another in the recovery, then none: what a user finds must be as expected."""
        report.attempts += 1
        name = expected.operations[number - 1]
        sandbox = self._sandbox(old)
        self.ask(scenario, sandbox, number, how)
        problems = []
        if old is not None and expected.digests:
            problems = lost_artifacts(sandbox, digests(old), expected.digests)
        again = _second(number, how, len(expected.operations))
        second = self.ask(scenario, sandbox, again)
        if second["error"]:
            problems.append(f"recovery: {_last_line(second['error'])}")
        last = self.ask(scenario, sandbox)
        report.runs += 3
        if last["error"]:
            problems.append(f"after the recovery: {_last_line(last['error'])}")
        elif last["facts"] != expected.facts:
            problems.append(f"other facts: {_different(last['facts'], expected.facts)}")
        elif expected.digests and digests(sandbox) != expected.digests:
            problems.append("another digest")
        elif extra := sorted(set(listing(sandbox)) ^ set(expected.files)):
            problems.append(f"left or missing: {extra[0]}")
        report.failures += [f"{problem}|{number} {how} {name}" for problem in problems[:1]]
        shutil.rmtree(sandbox)

    def _with_old_artifacts(self, scenario: str) -> Path:
        """A sandbox with finished artifacts of other content, as an older code would leave them."""
        sandbox = self._sandbox(None)
        answer = self.ask(scenario, sandbox)
        assert not answer["error"], answer["error"]
        for path in list(sandbox.rglob(MANIFEST)):
            if path.is_relative_to(sandbox / "out"):
                _add_file(path.parent)
        return sandbox

    def _prepared(self, scenario: str) -> Path:
        """A sandbox in which what comes before the scenario has happened; at another place now."""
        sandbox = self._sandbox(None)
        answer = self.ask(PREPARED_BY[scenario], sandbox)
        assert not answer["error"], answer["error"]
        before = sandbox.rename(sandbox.with_name(f"{sandbox.name}-before"))
        self._prefixes[before] = f"{sandbox.name}/"
        return before

    def _sandbox(self, before: Path | None) -> Path:
        self._number += 1
        folder = self._scratch / f"sandbox-{self._number}"
        if before is None:
            folder.mkdir(parents=True)
        else:
            shutil.copytree(before, folder)
        if self._s3 and before in self._prefixes:
            self._s3.copy_objects(self._prefixes[before], f"{folder.name}/")
        return folder


@contextmanager
def campaign(world: Path, scratch: Path, s3: S3Server | None = None) -> Iterator[Campaign]:
    """Start the process that forks for every attempt; with `s3`, stores are there."""
    environment = s3.environment() if s3 else {}
    scratch.mkdir(parents=True, exist_ok=True)
    with (
        (scratch / "server.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.kills.server", str(scratch / "answers")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**_without_mlflow(), "OMP_NUM_THREADS": "1", **environment},
        ) as process,
    ):
        yield Campaign(process, world, scratch, s3)
        assert process.stdin is not None
        process.stdin.close()


def _without_mlflow() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not name.startswith("MLFLOW_")}


def digests(sandbox: Path) -> dict[str, str]:
    """Digest of every undamaged artifact below `out`, by its folder."""
    out = sandbox / "out"
    folders = [path.parent for path in out.rglob(MANIFEST)] if out.is_dir() else []
    found = {str(folder.relative_to(sandbox)): _digest(folder) for folder in folders}
    return {name: digest for name, digest in found.items() if "/." not in f"/{name}"}


def listing(sandbox: Path) -> list[str]:
    """Every file and folder, hidden ones too; ids of runs and models are left out.

    What is in a store is not listed: its edits have numbers, and scenarios have facts about them.
    """
    names = {path.relative_to(sandbox).as_posix() for path in sandbox.rglob("*")}
    return sorted({_ID.sub("ID", name) for name in names if not name.startswith(STORE)})


def lost_artifacts(sandbox: Path, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Artifacts of which after a kill neither the old nor the new one is whole, anywhere."""
    lost = []
    for name in old:
        place = sandbox / name
        around = [place, place.with_name(f".{place.name}.older")]
        found = {_digest(folder) for folder in around}
        if not found & {old[name], new[name]}:
            lost.append("neither the old nor the new artifact is whole")
    return lost


def _digest(folder: Path) -> str:
    try:
        text = (folder / MANIFEST).read_text("utf-8")
        artifact = Artifact(folder, parse_manifest(text, str(folder), "its step"))
        artifact.verify()
    except (OSError, ValueError, Product1MError):
        return "damaged"
    return artifact.digest


def _add_file(folder: Path) -> None:
    """Give an artifact a further file, and with it another digest."""
    path = folder / MANIFEST
    manifest = parse_manifest(path.read_text("utf-8"), str(path), "its step")
    (folder / "older.txt").write_text("older")
    entry = {"sha256": hashlib.sha256(b"older").hexdigest(), "num_bytes": 5}
    values = json.loads(manifest.model_dump_json())
    values["files"]["older.txt"] = entry
    changed = type(manifest).model_validate(values)
    changed.digest = changed.content_digest()
    path.write_text(changed.sealed(), "utf-8")


def _kind(operation: str) -> str:
    """An operation without the ids and numbers in its path."""
    return re.sub("[0-9a-f]*[0-9][0-9a-f]*|tmp[0-9a-z_]{8}", "N", _ID.sub("ID", operation))


def _second(number: int, how: str, total: int) -> int:
    """The operation at which the recovery is killed: any, but always the same."""
    return int(hashlib.sha256(f"{number} {how}".encode()).hexdigest(), 16) % total + 1


def _different(facts: Answer, expected: Answer) -> str:
    return ", ".join(f"{n}: {facts.get(n)}" for n in expected if facts.get(n) != expected[n])[:160]


def _last_line(error: str) -> str:
    line = error.strip().splitlines()[-1]
    return " ".join(word if "/" not in word else "PATH" for word in line.split())[:160]
