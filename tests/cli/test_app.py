"""The command line: help with examples, errors without tracebacks, nothing heavy for either."""

import ast
import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipelines.__main__ import app as pipelines_app
from product1m.cli.app import app
from product1m.config import STEPS, load_config
from tests.support.paths import ROOT
from tests.support.worlds.small_datasets import small_dataset
from tests.support.worlds.small_disk import small_disk

runner = CliRunner()


def commands(group: typer.Typer) -> list[list[str]]:
    """Every command of an app as its words, those of its groups included."""
    found: list[list[str]] = []
    pending: list[tuple[list[str], Any]] = [([], typer.main.get_command(group))]
    while pending:
        words, command = pending.pop()
        children = getattr(command, "commands", {})
        pending += [([*words, name], child) for name, child in children.items()]
        if not children:
            found.append(words)
    return sorted(found)


@pytest.mark.parametrize(
    ("group", "words"),
    [(group, words) for group in (app, pipelines_app) for words in commands(group)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_command_has_help_with_an_example(group: typer.Typer, words: list[str]) -> None:
    result = runner.invoke(group, [*words, "--help"])
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    assert re.search(r"Examples?: ", text)
    assert " ".join(words) in re.split(r"Examples?: ", text)[1]


def test_every_step_is_a_command() -> None:
    assert {step.replace("_", "-") for step in STEPS} <= {words[0] for words in commands(app)}


def test_help_loads_nothing_heavy() -> None:
    script = """
import sys
from product1m.cli.app import app
import pipelines.__main__
for words in (["search", "--help"], ["config", "show", "--preset", "sample"], ["config", "docs"]):
    try:
        app(words)
    except SystemExit:
        pass
print(sorted(sys.modules))
"""
    out = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    loaded = {name.split(".")[0] for name in ast.literal_eval(out.stdout.splitlines()[-1])}
    assert "typer" in loaded
    assert not loaded & {
        "boto3", "cv2", "faiss", "fastapi", "jinja2", "kfp", "kubernetes", "matplotlib", "mlflow",
        "pandas", "pyarrow", "scipy", "sklearn", "timm", "torch", "torchvision",
        "transformers",
    }  # fmt: skip


def test_a_step_runs_by_hand_and_prints_its_metrics(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data", num_items=2)
    outputs = [str(tmp_path / part) for part in ("train", "gallery", "queries")]
    result = runner.invoke(app, ["ingestion", str(data), *outputs])
    assert result.exit_code == 0, result.output
    manifests = [json.loads(Path(output, "manifest.json").read_text()) for output in outputs]
    assert [manifest["part"] for manifest in manifests] == ["train", "gallery", "queries"]
    for manifest in manifests:
        for name in manifest["metrics"]:
            assert f"{manifest['part']}/{name}" in result.output


def test_a_missing_artifact_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    arguments = ["indexing", *(str(tmp_path / name) for name in ("features", "capture", "index"))]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert f"error: {tmp_path / 'features'}: no manifest.json" in result.output
    assert isinstance(result.exception, SystemExit)


def test_a_configuration_error_has_exit_code_2() -> None:
    result = runner.invoke(app, ["config", "show", "--set", "indexing.factroy=Flat"])
    assert result.exit_code == 2
    assert "did you mean 'factory'" in result.output
    assert isinstance(result.exception, SystemExit)


def test_an_unknown_command_or_preset_has_exit_code_2() -> None:
    assert runner.invoke(app, ["rpn-trainin"]).exit_code == 2
    assert runner.invoke(app, ["config", "show", "--preset", "sampel"]).exit_code == 2


def test_a_value_in_square_brackets_is_shown_as_it_is() -> None:
    value = 'ingestion.allowed_sources=["[bold]host[/x]"]'
    result = runner.invoke(app, ["config", "show", "--set", value], catch_exceptions=False)
    assert "[bold]host[/x]" in result.output


def test_the_effective_configuration_is_shown_with_who_set_it() -> None:
    arguments = ["config", "show", "--preset", "sample", "--set", "indexing.text_dim=99"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0
    rows = {
        cells[0]: cells
        for line in result.output.splitlines()
        if "│" in line and (cells := [cell.strip() for cell in line.strip("│").split("│")])[0]
    }
    for step in STEPS:
        for key in getattr(load_config("sample"), step).model_dump():
            assert f"{step}.{key}" in rows
    key, value, default, origin, meaning, source = rows["indexing.text_dim"]
    assert (key, value, default, origin) == ("indexing.text_dim", "99", "256", "--set")
    assert meaning
    assert source == "ours"
    assert rows["rpn_training.backbone"][1:4] == [
        "tf_efficientnet_lite0",
        "resnet101",
        "preset sample",
    ]


def test_scores_are_printed_as_json(tmp_path: Path) -> None:
    small_dataset(tmp_path / "data", num_items=3)
    rankings = tmp_path / "retrieval_id_list.txt"
    rankings.write_text("".join(f"queries-{n},gallery-{n}\n" for n in range(3)))
    result = runner.invoke(app, ["score", str(tmp_path / "data"), str(rankings), "--json"])
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)
    assert sorted(scores) == ["official", "strict"]
    for definition in scores.values():
        assert list(definition) == ["10", "50", "100"]
        assert all(list(means) == ["mAP", "mAR", "Prec"] for means in definition.values())
    # Every query has one relevant item and it stands first.
    assert scores["strict"]["10"] == {"mAP": 1.0, "mAR": 1.0, "Prec": pytest.approx(0.1)}


def test_a_score_can_be_read_as_released_and_then_knows_one_definition(tmp_path: Path) -> None:
    for name, labels in (("gallery", "A"), ("test", "A"), ("dev", "A")):
        row = f"{name}1#####t#####u#####u#####{labels}\r\n"
        (tmp_path / f"product1m_{name}_ossurl_v2.txt").write_text(row, newline="")
    rankings = tmp_path / "retrieval_id_list.txt"
    rankings.write_text("test1,gallery1\n\n")
    given = ["score", str(tmp_path), str(rankings), "--json"]
    released = runner.invoke(app, [*given, "--as-released"])
    assert json.loads(released.stdout)["official"]["10"]["mAP"] == 0.5
    assert list(json.loads(released.stdout)) == ["official"]
    meant = runner.invoke(app, [*given, "--definition", "official"])
    assert json.loads(meant.stdout)["official"]["10"]["mAP"] == 1.0
    refused = runner.invoke(app, [*given, "--as-released", "--definition", "strict"])
    assert refused.exit_code == 1
    assert "expected the definition official, got strict" in refused.output


def test_an_argument_that_is_not_utf_8_is_refused_before_any_work() -> None:
    result = CliRunner().invoke(app, ["catalogue", "log", "caf\udce9"])
    assert result.exit_code == 2
    assert "error: argument 'caf\\udce9': expected text in UTF-8; rename it" in result.output


def test_an_error_that_nobody_explains_is_told_as_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("token=abc http://me:pass@host")

    monkeypatch.setattr("product1m.sample.make_sample", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = runner.invoke(app, ["make-sample", str(tmp_path / "new")])
    assert result.exit_code == 70
    (log,) = tmp_path.glob("product1m-bug-*.log")
    assert result.stderr.splitlines()[-1].startswith("error: KeyError: ")
    assert result.stderr.rstrip().endswith(f"its traceback is in {log}")
    assert "in broken" in log.read_text()
    assert "pass@" not in result.stderr + log.read_text()


def test_a_disk_error_outside_of_a_step_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = runner.invoke(app, ["make-sample", str(tmp_path / "file" / "new")])
    assert result.exit_code == 1
    assert f"error: {tmp_path / 'file'}" in result.stderr


def test_a_full_disk_is_told_by_commands_that_write_and_nothing_stays(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 0) as disk:
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        for command in ("make-sample", "registry new-key --folder"):
            result = runner.invoke(app, [*command.split(), str(disk / "new")])
            assert result.exit_code == 1
            assert result.stderr.startswith(f"error: {disk}")
            assert "the disk is full: 0.0 MiB of 0.1 MiB free" in result.stderr
            assert [path for path in disk.rglob("*") if path.is_file()] == [disk / "filler"]
