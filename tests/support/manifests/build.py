"""What kustomize makes of manifests/, and what its README says has to be made by hand."""

import copy
import json
import re
import shutil
import subprocess
from functools import cache

import pytest
import yaml

from tests.support.manifests.policies import Resource
from tests.support.manifests.references import Reference
from tests.support.paths import ROOT

OVERLAYS = ("local", "production")
RUNS = {"local": "kubeflow", "production": "product1m"}
"""Namespace of pipeline runs."""
MANIFESTS = ROOT / "manifests"


@cache
def why_no_kustomize() -> str:
    if not shutil.which("kubectl"):
        return "kubectl is not installed"
    version = json.loads(run("kubectl", "version", "--client", "--output=json"))
    number = version.get("kustomizeVersion", "v0")
    if int(number.removeprefix("v").split(".")[0]) < 5:
        return f"kubectl has kustomize {number}, the manifests are for v5"
    return ""


def run(*command: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def _built(folder: str) -> list[Resource]:
    built = run("kubectl", "kustomize", str(MANIFESTS / folder))
    return [resource for resource in yaml.safe_load_all(built) if resource]


def build(folder: str) -> list[Resource]:
    """What kustomize makes of a folder; a copy that may be changed."""
    if reason := why_no_kustomize():
        pytest.skip(reason)
    return copy.deepcopy(_built(folder))


def overlay(name: str) -> list[Resource]:
    return build(f"overlays/{name}")


def documented_secrets(name: str) -> set[Reference]:
    """The rows `| namespace | secret | keys | for |` of the README that are for an overlay."""
    rows = re.findall(
        r"^\| `([\w-]+)` \| `([\w-]+)` \| (.+?) \| (both|local|production)\b",
        (MANIFESTS / "README.md").read_text("utf-8"),
        re.MULTILINE,
    )
    return {
        Reference("Secret", RUNS[name] if namespace == "product1m" else namespace, secret, key)
        for namespace, secret, keys, where in rows
        if where in ("both", name)
        for key in ["", *re.findall(r"`([^`]+)`", keys)]
    }
