"""Schedules of the catalogue: a pipeline of its own, beside the training's."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from pipelines.__main__ import app
from pipelines.cluster.schedules import read_schedules
from product1m.errors import ConfigError
from tests.support.servers.kfp_server import KfpServer

TRAINING = {
    "name": "nightly",
    "cron": "0 30 1 * * *",
    "preset": "sample",
    "dataset": "s3://p1m/sample",
}
SHOP = {
    "name": "shop",
    "pipeline": "catalogue",
    "cron": "0 0 2 * * *",
    "preset": "sample",
    "dataset": "s3://p1m/shop",
    "set": ["catalogue.factory=IVF1024,SQ8"],
}


def write(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"schedules": list(entries)}))
    return path


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, ["schedule", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


def test_a_catalogue_is_scheduled_as_a_pipeline_of_its_own(
    kfp_server: KfpServer, tmp_path: Path
) -> None:
    file = write(tmp_path / "schedules.yaml", SHOP, TRAINING)
    shown = run("apply", "--file", file, "--yes").output
    assert "catalogue of models:/product1m@champion on s3://p1m/shop" in shown
    names = {pipeline.display_name for pipeline in kfp_server.world.pipelines.values()}
    assert names == {"product1m-catalogue", "product1m-training"}
    (recurring,) = [
        schedule
        for schedule in kfp_server.world.schedules.values()
        if schedule.display_name == "shop"
    ]
    parameters = recurring.runtime_config.parameters
    assert set(parameters) == {"dataset_uri", "model", "catalogue"}
    assert parameters["catalogue"]["factory"] == "IVF1024,SQ8"
    assert "nothing to do" in run("apply", "--file", file).output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"pipeline": "catalogue", "backgrounds": "s3://p1m/rooms"},
            "catalogue has no backgrounds",
        ),
        ({"model": "models:/product1m/3"}, "training has no model"),
        ({"pipeline": "evaluation"}, "pipeline"),
    ],
)
def test_a_field_of_the_other_pipeline_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    entry = TRAINING | change
    with pytest.raises(ConfigError, match=message):
        read_schedules(write(tmp_path / "schedules.yaml", entry))
