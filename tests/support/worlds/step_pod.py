"""A step as its pod starts it: command, arguments and environment of the compiled pipeline.

The environment is made of what the compiled platform spec names, looked up in the built manifests,
of the image's own variables (docker/Dockerfile) and of nothing else, so that a test cannot give a
step what a cluster does not.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.graph.package import Package
from tests.support.manifests.policies import Resource, of_kind
from tests.support.paths import ROOT

Secrets = Mapping[tuple[str, str], str]
"""Name of a Secret and key to the value, which manifests do not hold."""
POD_VARIABLES = {
    "metadata.labels['pipeline/runid']": "c7677a3d-5df9-46b5-95df-4910979588d9",
}
"""What Kubernetes fills in from the pod, as recorded."""
KFP_VARIABLES = {
    "KFP_POD_NAME": "product1m-training-gkj66-system-container-impl-1111555195",
    "KFP_POD_UID": "2a5b0a1e-0000-4000-8000-000000000000",
    "KFP_RETRY_INDEX": "0",
}
"""What KFP adds to every step's container, as recorded."""


@dataclass(frozen=True)
class StepPod:
    """The container of one task."""

    command: list[str]
    environment: dict[str, str]

    def run(
        self, executor_input: Mapping[str, Any], folder: Path
    ) -> subprocess.CompletedProcess[str]:
        """Start it here, with this interpreter; `executor_input` is what KFP's launcher passes."""
        given = json.dumps(executor_input)
        command = [part.replace("{{$}}", given) for part in self.command]
        environment = {
            **self.environment,
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            command, cwd=folder, env=environment, check=False, capture_output=True, text=True
        )


def step_pod(made: Package, executor: str, resources: list[Resource], secrets: Secrets) -> StepPod:
    """The container of an executor (`exec-ingestion`), on a cluster with these manifests."""
    ir, platform = yaml.safe_load_all(made.text)
    container = ir["deploymentSpec"]["executors"][executor]["container"]
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][executor]
    return StepPod(
        [*container["command"], *container["args"]],
        {
            **image_variables(),
            **{entry["name"]: entry["value"] for entry in container["env"]},
            **_from_config_maps(settings, resources),
            **_from_secrets(settings, secrets),
            **{
                entry["name"]: POD_VARIABLES[entry["fieldPath"]]
                for entry in settings["fieldPathAsEnv"]
            },
            **KFP_VARIABLES,
        },
    )


def image_variables() -> dict[str, str]:
    """What every image sets, except for its search path."""
    text = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
    found = re.search(r"^ENV (.*?[^\\])\n", text, re.MULTILINE | re.DOTALL)
    assert found
    pairs = dict(re.findall(r"(\w+)=(\S+)", found[1]))
    del pairs["PATH"]
    return pairs


def _from_config_maps(settings: Resource, resources: list[Resource]) -> dict[str, str]:
    maps = {
        config_map["metadata"]["name"]: config_map["data"]
        for config_map in of_kind(resources, "ConfigMap")
    }
    values = {}
    for entry in settings["configMapAsEnv"]:
        data = maps[entry["configMapName"]]
        for key in entry["keyToEnv"]:
            if key["configMapKey"] in data or not entry.get("optional"):
                values[key["envVar"]] = data[key["configMapKey"]]
    return values


def _from_secrets(settings: Resource, secrets: Secrets) -> dict[str, str]:
    values = {}
    for entry in settings["secretAsEnv"]:
        for key in entry["keyToEnv"]:
            name = (entry["secretName"], key["secretKey"])
            if name in secrets or not entry.get("optional"):
                values[key["envVar"]] = secrets[name]
    return values


def executor_input(
    parameters: Mapping[str, Any], outputs: Mapping[str, str], folder: Path
) -> dict[str, Any]:
    """What the launcher passes a step without input artifacts, its outputs below `folder`.

    Args:
        parameters: values by name.
        outputs: schema title by artifact name.
        folder: where the artifacts and the outcome go.
    """
    return {
        "inputs": {"parameterValues": dict(parameters)},
        "outputs": {
            "artifacts": {
                name: {
                    "artifacts": [
                        {
                            "name": name,
                            "type": {"schemaTitle": title, "schemaVersion": "0.0.1"},
                            "uri": str(folder / name),
                            "metadata": {},
                        }
                    ]
                }
                for name, title in outputs.items()
            },
            "outputFile": str(folder / "output_metadata.json"),
        },
    }
