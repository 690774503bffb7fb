"""Reads Markdown pages: their commands, links and headings."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from pipelines.__main__ import app as pipelines_app
from product1m.cli.app import app as product1m_app

PROGRAMS = {"product1m": product1m_app, "python -m pipelines": pipelines_app}
_BLOCK = re.compile(r"^ *```(?:sh|bash|console)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def shell_lines(page: str) -> Iterator[str]:
    """Lines of the shell blocks of a page, continued lines joined; in a console block, inputs."""
    for block in _BLOCK.findall(page):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            yield line.strip().removeprefix("$ ")


def commands_of(page: str, program: str) -> list[list[str]]:
    """Arguments of the calls of a program in the shell blocks and table cells of a page."""
    quoted = re.findall(r"\| [^|]*`(\.venv/bin/[^`]+)`", page)
    lines = [line.removeprefix(".venv/bin/") for line in (*shell_lines(page), *quoted)]
    return [
        shlex.split(line.removeprefix(program), comments=True)
        for line in lines
        if line.startswith(f"{program} ")
    ]


def parse_command(program: str, words: list[str]) -> None:
    """Parse the arguments as the program does; raises its error for an unknown one."""
    _parse(get_command(PROGRAMS[program]), words)


def _parse(command: Any, words: list[str], parent: Any = None) -> None:
    if not hasattr(command, "commands"):
        command.make_context(command.name, [*words], parent=parent)
        return
    assert words[0] in command.commands, words
    context = command.context_class(command, info_name=command.name, parent=parent)
    _parse(command.commands[words[0]], words[1:], context)


def broken_links(page: Path) -> list[str]:
    """Relative links of a page to files or headings that do not exist."""
    return [
        target
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
        if "://" not in target and not _exists(page, target)
    ]


def _exists(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    return path.exists() and (not anchor or anchor in _anchors(path.read_text("utf-8")))


def _anchors(page: str) -> set[str]:
    """Anchors that GitHub gives to the headings of a page."""
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    }
