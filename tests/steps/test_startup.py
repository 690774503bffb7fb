"""Nothing slow is imported before a step needs it."""

import ast
import subprocess
import sys

from product1m.config import STEPS

ON_DEMAND = {"mlflow", "matplotlib", "sklearn", "torch._dynamo", "transformers", "kfp"}
"""What a step imports only when it draws, fits, trains or logs."""


def test_steps_start_without_what_they_may_not_need() -> None:
    script = (
        "import sys, product1m.steps.ingestion, product1m.steps.background_synthesis\n"
        "print('torch' in sys.modules)\n"
        f"import {', '.join(f'product1m.steps.{step}' for step in STEPS)}\n"
        "print(sorted(sys.modules))\n"
        "import timm, torch\n"  # one that asks for the compiler when it is imported
        "from timm.models import naflexvit\n"
        "print('torch._dynamo' in sys.modules, callable(torch._dynamo.explain))\n"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], check=True, capture_output=True, text=True
    )
    with_torch, loaded, compiler = out.stdout.splitlines()
    assert with_torch == "False"
    modules = set(ast.literal_eval(loaded))
    assert {"torch", "torchvision", "timm", "faiss", "product1m.steps.registration"} <= modules
    assert not modules & ON_DEMAND
    # The compiler is there for whoever asks for it.
    assert compiler == "False True"
