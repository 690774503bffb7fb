"""Nothing slow is imported before a step needs it."""

import json
import subprocess
import sys
from typing import Any

import pytest

from product1m.config import STEPS

LIBRARIES = (
    "boto3", "cv2", "faiss", "huggingface_hub", "kfp", "kubernetes", "matplotlib", "mlflow",
    "onnxruntime", "pandas", "requests", "scipy", "sklearn", "timm", "torch", "torch._dynamo",
    "torchvision", "transformers",
)  # fmt: skip
"""Libraries that take time to import."""
TABLES = {"cv2", "pandas"}
NETWORKS = {*TABLES, "torch"}
IMPORTED = {
    "ingestion": {*TABLES, "requests"},
    "background_synthesis": {*TABLES, "requests"},
    "rpn_training": {*NETWORKS, "requests", "torchvision"},
    "feature_extraction": {*NETWORKS, "torchvision"},
    "capture_pretraining": NETWORKS,
    "indexing": {*NETWORKS, "faiss"},
    "evaluation": {*NETWORKS, "faiss"},
    "registration": {*NETWORKS, "faiss", "torchvision"},
}
"""What the module of a step imports, before it reads its first input."""
SCRIPT = """
import importlib, json, os, sys

def imports(step):
    importlib.import_module(f"product1m.steps.{{step}}")
    return [name for name in {libraries} if name in sys.modules]

def asks_for_compiler():
    from product1m.detection.libraries import load_timm
    load_timm()
    from timm.models import naflexvit  # asks for the compiler when it is imported
    return "torch._dynamo" in sys.modules, callable(torch._dynamo.explain)

def in_a_copy(name, work, *arguments):  # of this process, so that none finds another's imports
    copy = os.fork()
    if not copy:
        print(json.dumps([name, work(*arguments)]), flush=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 0

for step in {without_torch}:
    in_a_copy(step, imports, step)
import torch  # once, because it takes longest
for step in {with_torch}:
    in_a_copy(step, imports, step)
in_a_copy("compiler", asks_for_compiler)
"""


@pytest.fixture(scope="module")
def report() -> dict[str, list[Any]]:
    """What was imported, by step; whether the compiler was, before and after it was used."""
    without_torch = [step for step in STEPS if "torch" not in IMPORTED[step]]
    with_torch = [step for step in STEPS if step not in without_torch]
    script = SCRIPT.format(libraries=LIBRARIES, without_torch=without_torch, with_torch=with_torch)
    command = [sys.executable, "-W", "ignore", "-c", script]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(map(json.loads, out.splitlines()))


@pytest.mark.parametrize("step", STEPS)
def test_a_step_imports_what_it_computes_with_and_nothing_else(
    report: dict[str, list[Any]], step: str
) -> None:
    assert set(report[step]) == IMPORTED[step]


def test_the_compiler_is_there_for_whoever_asks_for_it(report: dict[str, list[Any]]) -> None:
    assert report["compiler"] == [False, True]
