"""What surrounds the code: Makefile, pinned dependencies, CI."""

import os
import re
import subprocess
import tomllib

import yaml

from tests.support.paths import ROOT

TARGETS = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
INNER = {"lint", "types"}
"""Parts of `make check`."""


def test_make_help_lists_every_target() -> None:
    targets = set(TARGETS.findall((ROOT / "Makefile").read_text()))
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert set(re.findall(r"^  make ([a-z-]+)", shown, re.MULTILINE)) == targets - INNER


def test_every_dependency_is_pinned_with_hashes_and_no_address_is_named() -> None:
    text = (ROOT / "requirements.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==[^\s]+ ", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    pinned = {entry.partition("==")[0] for entry in entries}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *(name for extra in project["project"]["optional-dependencies"].values() for name in extra),
        *project["dependency-groups"]["dev"],
    ]
    names = {re.split(r"[<>=!~ \[;]", name)[0].lower().replace("_", "-") for name in wanted}
    assert names <= pinned, "run `make lock`"


def test_ci_runs_targets_that_exist() -> None:
    targets = set(TARGETS.findall((ROOT / "Makefile").read_text()))
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    script = (ROOT / ".ci" / "run").read_text()
    called = re.findall(r"\bmake ([a-z-]+)", "\n".join([*commands, script]))
    assert {"test", "sample", "check-cached"} <= set(called) <= targets


def test_the_ci_script_can_be_run_and_takes_no_input() -> None:
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)
    assert "exec < /dev/null" in path.read_text()
