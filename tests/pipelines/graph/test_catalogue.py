from pathlib import Path

import yaml
from kfp import compiler

from components.images import image
from pipelines.graph.catalogue import catalogue_pipeline
from pipelines.graph.package import Variant, package
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


def test_its_pod_has_the_account_of_the_catalogue_and_the_reviewers_key() -> None:
    spec, platform = yaml.safe_load_all(package(Variant("sample", kind="catalogue")).text)
    (executor,) = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    secrets = {
        pair["envVar"]: secret["secretName"]
        for secret in executor["secretAsEnv"]
        for pair in secret["keyToEnv"]
    }
    assert secrets["MLFLOW_TRACKING_PASSWORD"] == "product1m-mlflow-catalogue"
    (keys,) = executor["configMapAsVolume"]
    (container,) = spec["deploymentSpec"]["executors"].values()
    values = {pair["name"]: pair["value"] for pair in container["container"]["env"]}
    assert values["PRODUCT1M_TRUSTED_KEY"] == f"{keys['mountPath']}/reviewer.pub"
    assert values["MLFLOW_EXPERIMENT_NAME"] == "product1m-catalogues"
    from_map = [
        pair["envVar"] for source in executor["configMapAsEnv"] for pair in source["keyToEnv"]
    ]
    assert "MLFLOW_EXPERIMENT_NAME" not in from_map
