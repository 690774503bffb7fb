"""Artifact folders: whole or absent, digested, and honest about damage."""

import contextlib
import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.artifacts.lineage import require_descends
from product1m.config import IndexingConfig, IngestionConfig
from product1m.errors import ArtifactError
from tests.support.worlds.changed_manifests import rewrite_manifest

CONFIG = IngestionConfig()


def write(folder: Path, text: str = "content", part: str = "train") -> Artifact:
    with write_artifact(folder, "ingestion", CONFIG, part=part) as writer:
        (writer.folder / "a.txt").write_text(text)
        (writer.folder / "sub").mkdir()
        (writer.folder / "sub" / "b.txt").write_text("more")
        writer.metrics["items"] = 3
        writer.details["feature_dim"] = 320
    return open_artifact(folder, "ingestion", part)


def test_a_missing_file_is_found_without_reading_the_others(tmp_path: Path) -> None:
    artifact = write(tmp_path / "train")
    artifact.require_files()
    (tmp_path / "train" / "a.txt").write_text("damaged")
    artifact.require_files()
    (tmp_path / "train" / "sub" / "b.txt").unlink()
    with pytest.raises(ArtifactError, match=r"sub/b\.txt: missing; run ingestion again"):
        artifact.require_files()


def test_a_manifest_tells_what_the_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODUCT1M_IMAGE", "registry.example/ingestion:1")
    manifest = write(tmp_path / "train").manifest
    assert manifest.image == "registry.example/ingestion:1"
    assert (manifest.step, manifest.part, manifest.key) == (
        "ingestion",
        "train",
        "ingestion/train",
    )
    assert manifest.metrics == {"items": 3}
    assert manifest.details == {"feature_dim": 320}
    assert manifest.config == CONFIG.model_dump(mode="json")
    assert manifest.seconds >= 0
    assert manifest.peak_memory_mib > 0
    assert manifest.cpu_seconds >= 0
    assert manifest.peak_gpu_memory_mib == 0, "this process used no GPU"


def test_a_digest_covers_names_and_content_and_nothing_else(tmp_path: Path) -> None:
    first, second = write(tmp_path / "one"), write(tmp_path / "two")
    lines = [
        f"a.txt {hashlib.sha256(b'content').hexdigest()}",
        f"sub/b.txt {hashlib.sha256(b'more').hexdigest()}",
    ]
    assert first.digest == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert first.digest == second.digest
    assert write(tmp_path / "three", text="contents").digest != first.digest


def test_a_file_of_measured_times_is_checked_but_no_part_of_the_digest(tmp_path: Path) -> None:
    def timed(folder: Path, seconds: str) -> Artifact:
        with write_artifact(folder, "ingestion", CONFIG) as writer:
            (writer.folder / "a.txt").write_text("content")
            (writer.folder / "times.txt").write_text(seconds)
            writer.timed.add("times.txt")
        return open_artifact(folder, "ingestion")

    first, second = timed(tmp_path / "one", "0.1"), timed(tmp_path / "two", "0.2")
    assert first.digest == second.digest
    first.verify()
    (first.folder / "times.txt").write_text("9.9")
    with pytest.raises(ArtifactError, match=r"times.txt: damaged"):
        open_artifact(first.folder, "ingestion").verify()


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with write_artifact(tmp_path / "train", "ingestion", CONFIG) as writer:
            (writer.folder / "half.txt").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_an_error_keeps_the_older_artifact(tmp_path: Path) -> None:
    before = write(tmp_path / "train")
    with (
        pytest.raises(ZeroDivisionError),
        write_artifact(tmp_path / "train", "ingestion", CONFIG, part="train"),
    ):
        raise ZeroDivisionError
    after = open_artifact(tmp_path / "train", "ingestion", "train")
    after.verify()
    assert after.digest == before.digest


def test_a_process_killed_while_writing_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    script = f"""
        import os
        from pathlib import Path
        from product1m.artifacts.folder import write_artifact
        from product1m.config import IngestionConfig
        with write_artifact(Path({str(tmp_path / "train")!r}), "ingestion", IngestionConfig()) as w:
            (w.folder / "half.txt").write_text("half")
            os._exit(9)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == 9
    with pytest.raises(ArtifactError, match="expected a finished artifact of ingestion"):
        open_artifact(tmp_path / "train", "ingestion")
    again = write(tmp_path / "train")
    assert sorted(again.manifest.files) == ["a.txt", "sub/b.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_an_older_artifact_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "train", text="old")
    write(tmp_path / "train", text="new")
    assert (tmp_path / "train" / "a.txt").read_text() == "new"


def test_a_folder_with_something_else_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with (
        pytest.raises(ArtifactError, match="contains something that is not an artifact"),
        write_artifact(tmp_path, "ingestion", CONFIG),
    ):
        pytest.fail("the block must not run")
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_damaged_file_is_named_with_both_digests(tmp_path: Path) -> None:
    artifact = write(tmp_path / "train")
    (tmp_path / "train" / "a.txt").write_text("c0ntent")
    expected = hashlib.sha256(b"content").hexdigest()
    found = hashlib.sha256(b"c0ntent").hexdigest()
    with pytest.raises(ArtifactError, match=f"a.txt: damaged: .*{expected}, got {found}"):
        artifact.verify()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    artifact = write(tmp_path / "train")
    (tmp_path / "train" / "sub" / "b.txt").unlink()
    with pytest.raises(ArtifactError, match=r"sub/b\.txt: missing; run ingestion again"):
        artifact.verify()


def test_a_file_that_is_not_the_artifacts_is_refused(tmp_path: Path) -> None:
    artifact = write(tmp_path / "train")
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(ArtifactError, match=r"not a file .*; its files are a\.txt, sub/b"):
        artifact.file("../secret")


def test_files_are_found_by_pattern_in_order(tmp_path: Path) -> None:
    artifact = write(tmp_path / "train")
    assert [path.name for path in artifact.files("*.txt")] == ["a.txt", "b.txt"]


def test_a_manifest_of_another_schema_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train")
    path = tmp_path / "train" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(ArtifactError, match="schema version 99, expected 1"):
        open_artifact(tmp_path / "train", "ingestion")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("config", "seed"), 5),
        (("details", "feature_dim"), 3),
        (("metrics", "items"), 2.0),
        (("files", "a.txt", "num_bytes"), 8),
        (("seconds",), 1e6),
    ],
)
def test_a_value_changed_in_a_manifest_is_noticed(
    tmp_path: Path, place: tuple[str, ...], value: float
) -> None:
    write(tmp_path / "train")
    path = tmp_path / "train" / "manifest.json"
    manifest = json.loads(path.read_text())
    values = manifest
    for name in place[:-1]:
        values = values[name]
    values[place[-1]] = value
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"manifest\.json: a value was changed after ingestion"):
        open_artifact(tmp_path / "train", "ingestion")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a manifest"),
        (b"[]", "not a manifest"),
        (b"[" * 100_000, "not a manifest"),
        (b"\xff\xfe{", "not a manifest .*codec can't decode byte 0xff"),
        (b'{"schema_version": 1, "step": "ingestion", "manifest_dygest": ""}', "unknown value 'ma"),
    ],
)
def test_a_damaged_manifest_is_told_with_its_path(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    write(tmp_path / "train")
    (tmp_path / "train" / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"manifest\.json: {reason}.*run ingestion again"):
        open_artifact(tmp_path / "train", "ingestion")


def test_no_flipped_bit_of_a_manifest_goes_unnoticed(tmp_path: Path) -> None:
    write(tmp_path / "train")
    path = tmp_path / "train" / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with contextlib.suppress(ArtifactError):
            open_artifact(tmp_path / "train", "ingestion")
            assert json.loads(damaged) == json.loads(whole), "only white space may differ"


def test_a_manifest_without_a_digest_of_its_own_is_readable(tmp_path: Path) -> None:
    write(tmp_path / "train")
    rewrite_manifest(tmp_path / "train", lambda manifest: None)
    assert open_artifact(tmp_path / "train", "ingestion").manifest.manifest_digest == ""


def test_a_reader_notices_an_input_whose_manifest_says_something_else_than_before(
    tmp_path: Path,
) -> None:
    train = write(tmp_path / "train")
    with write_artifact(tmp_path / "b", "feature_extraction", CONFIG, {"images": train}) as writer:
        writer.metrics["regions"] = 7
    features = open_artifact(tmp_path / "b", "feature_extraction")
    require_descends(features, train)
    recorded = features.manifest.lineage["ingestion/train"].manifest_digest
    assert recorded == train.manifest.manifest_digest != ""
    rewrite_manifest(tmp_path / "train", lambda manifest: manifest["config"].update(seed=5))
    changed = open_artifact(tmp_path / "train", "ingestion")
    with pytest.raises(ArtifactError, match=r"other values than when .* was made from it \(seed\)"):
        require_descends(features, changed)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}'])
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path / "train")
    (tmp_path / "train" / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="not a manifest"):
        open_artifact(tmp_path / "train", "ingestion")


def test_another_steps_artifact_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train")
    with pytest.raises(ArtifactError, match="expected an artifact of indexing"):
        open_artifact(tmp_path / "train", "indexing")
    with pytest.raises(ArtifactError, match="of ingestion gallery, got one of ingestion/train"):
        open_artifact(tmp_path / "train", "ingestion", "gallery")


def test_a_lineage_holds_every_ancestor_with_its_metrics(tmp_path: Path) -> None:
    train = write(tmp_path / "train")
    with write_artifact(tmp_path / "b", "feature_extraction", CONFIG, {"images": train}) as writer:
        writer.metrics["regions"] = 7
    features = open_artifact(tmp_path / "b", "feature_extraction")
    with write_artifact(tmp_path / "c", "indexing", IndexingConfig(), {"gallery": features}):
        pass
    manifest = open_artifact(tmp_path / "c", "indexing").manifest
    assert manifest.inputs == {"gallery": features.digest}
    assert sorted(manifest.lineage) == ["feature_extraction", "ingestion/train"]
    assert manifest.lineage["ingestion/train"].digest == train.digest
    assert manifest.lineage["ingestion/train"].metrics == {"items": 3}
    assert manifest.lineage["feature_extraction"].metrics == {"regions": 7}
