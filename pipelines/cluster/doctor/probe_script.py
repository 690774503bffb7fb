"""Runs in a pod of the cluster, in a step's image: what a step will meet there.

The doctor sends it as text to a pod with a step's image and environment. It prints a line of JSON
for each thing that it tried.
"""

import contextlib
import json
import os
import socket
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LARGE = 1 << 20
"""Bytes of the artifact that goes up and comes down."""


def report(subject: str, level: str, seen: str, needed: str = "", advice: str = "") -> None:
    """Print one finding."""
    finding = {"subject": subject, "level": level, "seen": seen}
    print(json.dumps({**finding, "needed": needed, "advice": advice}), flush=True)


def try_mlflow() -> None:
    """A run in the account's experiment, an artifact up and down."""
    import mlflow

    import product1m.telemetry.mlflow_client  # noqa: F401 files go through the server, as a step's

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    address, experiment = os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_EXPERIMENT_NAME"]
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "nobody")
    try:
        with mlflow.start_run(run_name="doctor") as run:
            mlflow.set_tag("doctor", "probe")
        report("MLflow writes", "ok", f"{user} may write to {experiment} at {address}")
    except Exception as error:
        needed = "the pipeline's account may write to its experiment"
        advice = "`kubectl -n product1m-mlflow logs job/mlflow-roles`; the two passwords must agree"
        report("MLflow writes", "problem", f"{user}: {error}"[:600], needed, advice)
        return
    try:
        _up_and_down(mlflow, run.info.run_id)
        report("MLflow artifacts", "ok", f"{LARGE} bytes uploaded and downloaded")
    except Exception as error:
        advice = "downloads must go through MLflow's own address, see docs/registry.md"
        needed = "an artifact can be stored and read back"
        report("MLflow artifacts", "problem", str(error)[:600], needed, advice)
    finally:
        with contextlib.suppress(Exception):  # not every account may delete; the run is named
            mlflow.MlflowClient().delete_run(run.info.run_id)


def _up_and_down(mlflow: Any, run_id: str) -> None:
    client = mlflow.MlflowClient()
    content = os.urandom(LARGE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.bin"
        path.write_bytes(content)
        client.log_artifact(run_id, str(path), "doctor")
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "60"
        with tempfile.TemporaryDirectory() as target:
            down = client.download_artifacts(run_id, "doctor/probe.bin", target)
            if Path(down).read_bytes() != content:
                raise ValueError("the downloaded bytes are not the uploaded ones")


def try_s3(bucket: str) -> None:
    """Conditional writes, a list, life cycle rules."""
    import boto3
    from botocore.config import Config

    timeouts = Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 2})
    client = boto3.client("s3", config=timeouts)
    prefix = f".product1m-doctor/{uuid.uuid4().hex}"
    try:
        winners = _race(client, bucket, f"{prefix}/race")
        names = client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    except Exception as error:
        advice = "check the Secret product1m-s3, the bucket and AWS_ENDPOINT_URL in the ConfigMap"
        report("S3", "problem", f"{bucket}: {error}"[:600], "list, read and write", advice)
        return
    if winners == 1:
        report("S3 conditional put", "ok", "of eight simultaneous writers one succeeded")
    else:
        needed = "If-None-Match: one of several writers wins"
        advice = "use a store with conditional writes (AWS, SeaweedFS 4, MinIO 2024-11)"
        report("S3 conditional put", "problem", f"{winners} of eight succeeded", needed, advice)
    listed = [entry["Key"] for entry in names]
    if listed == [f"{prefix}/race"]:
        report("S3 listing", "ok", "shows what was just written")
    else:
        report("S3 listing", "problem", f"shows {listed}", "what was just written", "")
    client.delete_object(Bucket=bucket, Key=f"{prefix}/race")
    _life_cycle(client, bucket)


def _race(client: Any, bucket: str, key: str) -> int:
    """How many of eight writers that start together got the answer that they won."""
    barrier, winners, errors = threading.Barrier(8), [], []

    def write(number: int) -> None:
        barrier.wait()
        try:
            client.put_object(Bucket=bucket, Key=key, Body=str(number).encode(), IfNoneMatch="*")
            winners.append(number)
        except client.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (409, 412):
                errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return len(winners)


def _life_cycle(client: Any, bucket: str) -> None:
    try:
        rules = client.get_bucket_lifecycle_configuration(Bucket=bucket).get("Rules", [])
    except Exception:
        rules = []
    if any("AbortIncompleteMultipartUpload" in rule for rule in rules):
        report("S3 life cycle", "ok", "ends uploads that were never finished")
    else:
        advice = "add a rule AbortIncompleteMultipartUpload of some days, see docs/storage.md"
        report("S3 life cycle", "note", "no rule that can be seen", "ends broken uploads", advice)


def try_closed() -> None:
    """Check that MLflow is unreachable from a pod that no policy lets in."""
    parts = urlsplit(os.environ["MLFLOW_TRACKING_URI"])
    try:
        socket.create_connection((parts.hostname, parts.port or 443), timeout=8).close()
    except OSError as error:
        report("network policies", "ok", f"a pod without the label does not reach MLflow: {error}")
    else:
        needed = "only pods with the label app.kubernetes.io/name=product1m reach MLflow"
        advice = "use a plug-in that enforces them; until then only passwords protect MLflow"
        report("network policies", "note", "not enforced: any pod reaches MLflow", needed, advice)


if __name__ == "__main__":
    if sys.argv[1] == "closed":
        try_closed()
    else:
        try_mlflow()
        try_s3(sys.argv[2])
