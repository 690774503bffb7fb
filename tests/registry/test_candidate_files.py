"""A candidate is promoted only if every one of its files is the one that was registered."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from product1m.errors import RegistryError
from product1m.registry.candidate_files import fetch_candidate
from product1m.registry.version_files import parse_evidence, parse_lineage
from product1m.registry.versions import FILES_DIGEST, ModelVersion
from tests.support.worlds.registered_model import MlflowStore

pytestmark = [
    pytest.mark.usefixtures("store"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # mlflow warns about itself
]


@pytest.fixture
def folder(registered: ModelVersion, store: MlflowStore) -> Path:
    """Where the candidate's files are stored."""
    return store.files(registered)


@contextmanager
def content(path: Path, changed: bytes | None) -> Iterator[None]:
    """Another content of a file within the block, or none."""
    before = path.read_bytes() if path.exists() else None
    if changed is None:
        path.unlink()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(changed)
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


def refusal(version: ModelVersion, folder: Path) -> str:
    """Why the candidate is refused."""
    with pytest.raises(RegistryError) as failure:
        fetch_candidate(version, folder)
    return str(failure.value)


def test_an_unchanged_candidate_is_accepted(registered: ModelVersion, tmp_path: Path) -> None:
    accepted = fetch_candidate(registered, tmp_path)
    assert len(accepted.evidence.ap) == 12  # the test queries
    assert (accepted.model / "serving.json").is_file()


def test_a_change_of_any_file_is_named(
    registered: ModelVersion, folder: Path, tmp_path: Path
) -> None:
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    assert {"MLmodel", "files.json", "evidence.json", "artifacts/model/index/index.faiss"} <= {
        *names
    }
    for number, name in enumerate(sorted(names)):
        with content(folder / name, (folder / name).read_bytes() + b" "):
            reason = refusal(registered, tmp_path / str(number))
        assert re.search(rf"{re.escape(name)} .*it was changed since", reason), reason


@pytest.mark.parametrize("name", ["evidence.json", "artifacts/model/rpn/manifest.json"])
def test_a_missing_file_is_named(
    registered: ModelVersion, folder: Path, tmp_path: Path, name: str
) -> None:
    with content(folder / name, None):
        assert f"{name} is missing" in refusal(registered, tmp_path)


@pytest.mark.parametrize("name", ["other.py", "__pycache__/mlflow_model.cpython-311.pyc"])
def test_an_added_file_is_named(
    registered: ModelVersion, folder: Path, tmp_path: Path, name: str
) -> None:
    with content(folder / name, b"added"):
        assert f"{name} is added" in refusal(registered, tmp_path)


@pytest.mark.parametrize("forged", [b"[1]", b"\xff\xfe", b'{"a": 1}'])
def test_a_list_of_files_that_is_none_is_told(
    registered: ModelVersion, folder: Path, tmp_path: Path, forged: bytes
) -> None:
    tags = {**registered.tags, FILES_DIGEST: hashlib.sha256(forged).hexdigest()}
    with content(folder / "files.json", forged):
        assert "files.json is damaged" in refusal(replace(registered, tags=tags), tmp_path)


def test_evidence_and_lineage_that_are_no_text_are_told() -> None:
    for parse, name in ((parse_evidence, "evidence.json"), (parse_lineage, "lineage.json")):
        with pytest.raises(RegistryError, match=f"version 7: {name} is damaged: (?s:.*)JSON"):
            parse(b"\xff\xfe{", "version 7")
