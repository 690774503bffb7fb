from pathlib import Path

import yaml
from kfp import compiler

from components.images import image
from pipelines.graph.catalogue import catalogue_pipeline
from pipelines.graph.resources import Platform
from product1m.config import load_config


def test_the_catalogue_is_one_task_that_is_never_cached_and_has_a_steps_image(
    tmp_path: Path,
) -> None:
    config = load_config("reference", ["catalogue.factory=IVF1024,SQ8"])
    pipeline = catalogue_pipeline(config, Platform("cpu-small"))
    compiler.Compiler().compile(pipeline, str(tmp_path / "catalogue.yaml"))
    compiled, _ = yaml.safe_load_all((tmp_path / "catalogue.yaml").read_text("utf-8"))
    assert compiled["pipelineInfo"]["name"] == "product1m-catalogue"
    (task,) = compiled["root"]["dag"]["tasks"].values()
    assert not task["cachingOptions"].get("enableCache")
    inputs = compiled["root"]["inputDefinitions"]["parameters"]
    assert inputs["model"]["defaultValue"] == "models:/product1m@champion"
    assert inputs["catalogue"]["defaultValue"]["factory"] == "IVF1024,SQ8"
    (executor,) = compiled["deploymentSpec"]["executors"].values()
    # A lock of built images adds what identifies them.
    assert executor["container"]["image"].startswith(image("registration"))
