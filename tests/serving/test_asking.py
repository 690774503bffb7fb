"""A model answers in a process of its own, without the reviewer's credentials."""

import json
from pathlib import Path

import mlflow
import pytest

from product1m.serving.asking import ask_apart
from product1m.serving.signatures import Trust

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # mlflow warns about itself

CURIOUS = """
import json, os
from pathlib import Path
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

class Curious(PythonModel):
    def predict(self, context, model_input, params=None):
        Path({seen!r}).write_text(json.dumps(dict(os.environ) | {{"~": str(Path.home())}}))
        return pd.DataFrame({{"ids": [list(model_input["answer"])]}})

set_model(Curious())
"""


def test_a_model_that_looks_around_finds_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    secrets = {
        "MLFLOW_TRACKING_URI": "http://mlflow", "MLFLOW_TRACKING_PASSWORD": "secret-1",
        "AWS_SECRET_ACCESS_KEY": "secret-2", "PRODUCT1M_KEY_PASSWORD": "secret-3",
        "PRODUCT1M_ALLOW_UNSIGNED": "true", "SOME_TOKEN": "secret-4",
    }  # fmt: skip
    code, seen = tmp_path / "curious.py", tmp_path / "seen.json"
    code.write_text(CURIOUS.format(seen=str(seen)))
    mlflow.pyfunc.save_model(
        str(tmp_path / "model"),
        python_model=str(code),
        input_example=pd.DataFrame({"answer": ["item"]}),
        pip_requirements=[],
    )
    seen.unlink(missing_ok=True)  # MLflow asked it too
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    assert ask_apart(tmp_path / "model", Trust(), "it") == [["item"]]
    found = json.loads(seen.read_text("utf-8"))
    assert not secrets.keys() & found.keys()
    assert "secret" not in str(found)
    assert found["~"] == found["HOME"] != str(Path.home())
    assert not Path(found["HOME"]).exists()
