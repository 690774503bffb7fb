"""Commands and links in the documents work, and the paths they name exist."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import PROGRAMS, broken_links, commands_of, parse_command
from tests.support.paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("manifests/*.md")])
LIBRARY, ARCHITECTURE = ROOT / "src" / "product1m", ROOT / "docs" / "architecture.md"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_commands_of_the_documents_are_understood(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in re.findall(r"\b([A-Z0-9_]+_PASSWORD)=", "".join(map(Path.read_text, PAGES))):
        monkeypatch.setenv(variable, "exported by the page")
    calls = [words for page in PAGES for words in commands_of(page.read_text("utf-8"), program)]
    assert len(calls) >= 10
    for words in calls:
        parse_command(program, words)


def test_make_has_the_targets_that_the_documents_name() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z-]+)", page.read_text("utf-8"))) <= targets, name(page)


def test_the_architecture_page_names_every_package_and_only_paths_that_exist() -> None:
    page = ARCHITECTURE.read_text("utf-8")
    layout, _, changes = page.partition("## Where do I change")
    for root in (LIBRARY, ROOT / "pipelines"):
        packages = {path.parent.relative_to(ROOT) for path in root.glob("*/__init__.py")}
        named = re.findall(rf"`({root.relative_to(ROOT)}/\w+)/`", layout)
        assert {Path(text) for text in named} == packages
    paths = re.findall(r"`([\w/]+(?:\.py|\.yaml|/))`", changes.partition("\n## ")[0])
    assert len(paths) >= 15
    for path in paths:
        assert any((root / path).exists() for root in (ROOT, LIBRARY, ROOT / "pipelines/graph")), (
            path
        )


def test_the_documentation_site_builds_without_warnings_and_names_every_page(
    tmp_path: Path,
) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").glob("**/*.md")}
    assert set(re.findall(r'"([\w/-]+\.md)"', (tmp_path / "zensical.toml").read_text())) == pages
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "<title>Glossary" in (tmp_path / "build/site/glossary.html").read_text("utf-8")
