"""The first seconds of a run: what would only fail hours later."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.graph.preflight import check_data, check_models, check_writable
from product1m.config import load_config
from product1m.errors import ConfigError, DatasetError, PipelineError
from tests.support.worlds.photo_files import encoded, picture
from tests.support.worlds.small_datasets import small_dataset

CONFIG = load_config("sample")


def test_a_run_whose_queries_are_all_test_ends_before_any_step(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data")
    rows = [json.loads(line) for line in (data / "queries.jsonl").read_text().splitlines()]
    lines = (json.dumps({**row, "split": "test"}) + "\n" for row in rows)
    (data / "queries.jsonl").write_text("".join(lines))
    arguments = ["run", "--preset", "sample", "--dataset", str(data)]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "no dev query" in result.output
    assert "all 3 have the split 'test'" in result.output
    assert not (tmp_path / "out").exists()


def test_backgrounds_without_a_photo_are_refused(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data")
    check_data(CONFIG, str(data), "")
    (data / "backgrounds").mkdir()
    (data / "backgrounds" / "readme.txt").write_text("rooms")
    with pytest.raises(DatasetError, match=r"expected background photos .*example readme\.txt"):
        check_data(CONFIG, str(data), "")
    (data / "backgrounds" / "ROOM.JPG").write_bytes(encoded(picture(1)))
    check_data(CONFIG, str(data), "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"--backgrounds .*holds no files"):
        check_data(CONFIG, str(data), str(tmp_path / "empty"))


def test_models_named_by_a_path_that_leads_nowhere_are_refused(tmp_path: Path) -> None:
    check_models(CONFIG)
    absent = load_config("sample", [f"rpn_training.weights={tmp_path}/absent.safetensors"])
    with pytest.raises(ConfigError, match=r"rpn_training\.weights=.*absent.*no such file"):
        check_models(absent)
    for name in (tmp_path / "absent", tmp_path / "absent.safetensors"):
        absent = load_config("sample", [f"feature_extraction.crop_encoder={name}"])
        with pytest.raises(ConfigError, match=r"crop_encoder=.*absent.*no such encoder"):
            check_models(absent)
    check_models(load_config("sample", ["feature_extraction.crop_encoder=hub:an/encoder"]))
    text = load_config("sample", [f"capture_pretraining.text_model={tmp_path}/bert"])
    with pytest.raises(ConfigError, match=r"capture_pretraining\.text_model=.*bert"):
        check_models(text)


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "out")
    assert list((tmp_path / "new" / "out").iterdir()) == []
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(PipelineError, match=r"--output .*file/out: cannot be written \(Not a dir"):
        check_writable(tmp_path / "file" / "out")
