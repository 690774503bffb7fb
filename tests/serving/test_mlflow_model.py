"""The registered model behind `mlflow models serve`: real HTTP, in a process of its own."""

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from product1m.registry.versions import ModelVersion
from product1m.telemetry.mlflow_client import registry_mlflow
from tests.support.servers.mlflow_server import end, wait_for
from tests.support.servers.ports import free_port
from tests.support.worlds.registered_model import MlflowStore
from tests.support.worlds.tiny_world import TinyArtifacts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # mlflow warns about itself


@pytest.fixture(scope="module")
def address(
    registered: ModelVersion,
    mlflow_store: MlflowStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Where the registered version answers."""
    folder = tmp_path_factory.mktemp("serving")
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
        *("-m", f"models:/{registered.model}/{registered.number}", "--workers", "1"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    with mlflow_store.active():
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PRODUCT1M_ALLOW_UNSIGNED": "true"}
    # The server starts uvicorn by name, which lies beside this Python.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with (folder / "serving.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, folder / "serving.log")
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            end(process)


def ask(address: str, rows: list[dict[str, Any]], **params: int) -> tuple[int, Any]:
    """Status and answer."""
    body = json.dumps({"dataframe_records": rows, "params": params}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_batch_over_http_is_answered_as_in_this_process(
    address: str,
    registered: ModelVersion,
    made: TinyArtifacts,
    store: MlflowStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PRODUCT1M_ALLOW_UNSIGNED", "true")  # a candidate
    files = sorted((made.root / "dataset" / "images").glob("queries-*.jpg"))[:3]
    rows = [
        {"photo": base64.b64encode(file.read_bytes()).decode(), "title": f"Lumi rose {number}"}
        for number, file in enumerate(files)
    ]
    lines = base64.encodebytes(files[1].read_bytes()).decode()  # as MIME writes it
    rows[1]["photo"] = f"data:image/jpeg;base64,{lines}"
    status, answer = ask(address, rows, top_k=4)
    assert status == 200, answer
    model = registry_mlflow().pyfunc.load_model(f"models:/{registered.model}/{registered.number}")
    # Here as bytes: the same photos, not the same encoding.
    asked = pd.DataFrame(
        {"photo": [file.read_bytes() for file in files], "title": [row["title"] for row in rows]}
    )
    expected = model.predict(asked, params={"top_k": 4}).to_dict("records")
    assert [row["ids"] for row in answer["predictions"]] == [row["ids"] for row in expected]
    for found, wanted in zip(answer["predictions"], expected, strict=True):
        assert len(found["ids"]) == 4
        boxes = [instance["box_xyxy"] for instance in found["instances"]]
        assert boxes == [
            pytest.approx(instance["box_xyxy"], abs=0.1) for instance in wanted["instances"]
        ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"photo": "not base64!", "title": "x"}, "photo 0: text that is not base64"),
        ({"photo": "bm8gcGhvdG8=", "title": "x"}, "photo 0: not a photo that can be decoded"),
        ({"photo": "", "title": "x" * 5000}, "title 0: 5000 characters, more than 4096 bytes"),
        ({"title": "x"}, "missing inputs ['photo']"),
        ({"photo": "bm8gcGhvdG8=", "title": 17}, "title"),
    ],
)
def test_a_row_that_cannot_be_answered_is_a_bad_request_that_says_why(
    address: str, row: dict[str, Any], message: str
) -> None:
    status, answer = ask(address, [row])
    assert status == 400
    assert message in answer["message"]
