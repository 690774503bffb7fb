import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from pipelines.__main__ import app as pipelines_app
from product1m.cli.app import app as product1m_app
from tests.support.manifests.build import MANIFESTS, documented_secrets, overlay
from tests.support.manifests.policies import pod_templates
from tests.support.manifests.references import Reference

README = (MANIFESTS / "README.md").read_text("utf-8")
PROGRAMS = {
    ".venv/bin/product1m": product1m_app,
    ".venv/bin/python -m pipelines": pipelines_app,
}


def _commands() -> Iterator[str]:
    """Lines of the bash blocks, continued lines joined, and what tables quote."""
    for block in re.findall(r"^ *```bash\n(.*?)^ *```", README, re.MULTILINE | re.DOTALL):
        yield from re.sub(r"\\\n\s*", "", block).splitlines()
    yield from re.findall(r"\| [^|]*`(\.venv/bin/[^`]+)`", README)


def _of(program: str) -> list[list[str]]:
    return [
        shlex.split(line.strip().removeprefix(program), comments=True)
        for line in _commands()
        if line.strip().startswith(program + " ")
    ]


@pytest.mark.parametrize("program", PROGRAMS)
def test_commands_of_the_readme_are_understood(program: str) -> None:
    commands = _of(program)
    assert len(commands) >= 4
    for words in commands:
        _parse(get_command(PROGRAMS[program]), words)


def _parse(command: Any, words: list[str], parent: Any = None) -> None:
    """Raises what the command line would say if a command or an option is not there."""
    if not hasattr(command, "commands"):
        command.make_context(command.name, [*words], parent=parent)
        return
    assert words[0] in command.commands, words
    context = command.context_class(command, info_name=command.name, parent=parent)
    _parse(command.commands[words[0]], words[1:], context)


def test_folders_and_files_of_the_readme_exist() -> None:
    root = MANIFESTS.parent
    for path in re.findall(r"\bmanifests/[\w./-]+", "\n".join(_commands())):
        if "github.com" not in README[: README.index(path)].rsplit("\n", 1)[-1]:
            assert (root / path).exists(), path
    for path in re.findall(r"`((?:base|overlays|examples)/[\w./-]*)`", README):
        assert (MANIFESTS / path).exists(), path


def test_what_a_local_cluster_cannot_pull_is_loaded() -> None:
    loaded = {
        word
        for line in _commands()
        if line.startswith("kind load docker-image")
        for word in line.split()
        if word.startswith("product1m/")
    }
    named = {
        container["image"]
        for pod in pod_templates(overlay("local"))
        for container in pod.containers
    }
    assert loaded == {image for image in named if image.startswith("product1m/")}


def test_make_has_the_targets_that_are_called() -> None:
    makefile = (MANIFESTS.parent / "Makefile").read_text("utf-8")
    called = {found[1] for line in _commands() if (found := re.match(r"make ([\w-]+)", line))}
    assert {"images", "push", "sample-data"} <= called
    for target in called:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_commands_that_make_secrets_make_those_of_the_table() -> None:
    made = set()
    for line in _commands():
        found = re.search(r"kubectl -n (\S+) create secret (generic|tls) (\S+)(.*)", line)
        if found:
            namespace, kind, name, rest = found.groups()
            keys = re.findall(r"--from-literal=([\w-]+)=", rest)
            for key in ["", *(keys if kind == "generic" else ["tls.crt", "tls.key"])]:
                made.add(Reference("Secret", namespace, name, key))
    assert made == documented_secrets("production")


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (MANIFESTS / Path(target)).exists(), target
