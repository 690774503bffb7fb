"""How long `data_state` takes for a million objects: `python -m benchmarks.data_state folder`.

    python -m benchmarks.data_state folder            # files on this disk, in build/data_state
    python -m benchmarks.data_state pages             # S3's pages from memory: what we cost
    python -m benchmarks.data_state seaweedfs --objects 100000    # a real S3 server

A folder's first state reads every file; all later ones read names and times, so the second counts.
`pages` has a server that answers at once; the format of its pages is the one of SeaweedFS, which
`seaweedfs` compares. Shown are seconds, processor time and peak memory of the process that runs the
task; unencrypted, every page is read twice.
"""

import argparse
import hashlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import parse_qs, urlparse

PAGE = 1000
SECRET = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
MEASURED = """
import resource, sys, time
started = time.monotonic()
from product1m.steps.data_state import run
digest = run(sys.argv[1])["dataset_digest"]
used = resource.getrusage(resource.RUSAGE_SELF)
helped = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = sum((used.ru_utime, used.ru_stime, helped.ru_utime, helped.ru_stime))
print(f"{digest[:12]}: {time.monotonic() - started:.1f} s, {seconds:.1f} s of processor time, "
      f"{used.ru_maxrss >> 10} MiB")
"""


def name_of(number: int) -> str:
    """Name of a photo."""
    return f"photos/{number:07d}.jpg"


def measure(uri: str, environment: dict[str, str]) -> None:
    """Run the task in a process of its own."""
    command = [sys.executable, "-c", MEASURED, uri]
    subprocess.run(command, check=True, env=os.environ | environment)


def measure_folder(num_objects: int) -> None:
    """Twice, in a folder that is removed."""
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build", prefix="data_state-") as folder:
        (Path(folder) / "photos").mkdir()
        for number in range(num_objects):
            (Path(folder) / name_of(number)).write_bytes(b"%d" % number)
        cache = {"XDG_CACHE_HOME": f"{folder}/.cache"}
        for _ in range(2):
            measure(folder, cache)


@lru_cache(maxsize=2)
def page_of(num_objects: int, start: int) -> bytes:
    """A page of the listing, as SeaweedFS writes it."""
    entries = []
    for number in range(start, min(start + PAGE, num_objects)):
        etag = hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()
        entries.append(
            f"<Contents><Key>{name_of(number)}</Key><ETag>&#34;{etag}&#34;</ETag>"
            f"<Size>{len(str(number))}</Size><StorageClass>STANDARD</StorageClass>"
            "<LastModified>2026-11-28T02:13:49Z</LastModified></Contents>"
        )
    more = start + PAGE < num_objects
    token = f"<NextContinuationToken>{name_of(start + PAGE - 1)}</NextContinuationToken>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>data</Name>'
        f"<Prefix></Prefix><MaxKeys>{PAGE}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>"
        f"{''.join(entries)}{token if more else ''}"
        f"<EncodingType>url</EncodingType><KeyCount>{len(entries)}</KeyCount></ListBucketResult>"
    ).encode()


def serve(num_objects: int, ready: Connection) -> None:
    """Answer listings until the process is ended."""

    class Pages(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and page in one packet

        def do_GET(self) -> None:
            token = parse_qs(urlparse(self.path).query).get("continuation-token", ["/-1"])[0]
            page = page_of(num_objects, int(token.partition("/")[2].removesuffix(".jpg")) + 1)
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Pages)
    ready.send(server.server_address[1])
    server.serve_forever()


@contextmanager
def pages_from_memory(num_objects: int) -> Iterator[dict[str, str]]:
    """Environment of a client of the server."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(num_objects, theirs))
    process.start()
    try:
        yield SECRET | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{ours.recv()}"}
    finally:
        process.kill()
        process.join()


def measure_seaweedfs(num_objects: int) -> None:
    """Write objects into a real server, compare its first page with ours, and measure."""
    from tests.support.servers.s3_server import BUCKET, running_server

    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as server:
        client = server.client()
        client.delete_object(Bucket=BUCKET, Key="started")

        def put(number: int) -> None:
            client.put_object(Bucket=BUCKET, Key=name_of(number), Body=b"%d" % number)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(num_objects)))
        answers: list[bytes] = []
        client.meta.events.register(
            "before-parse.s3.ListObjectsV2",
            lambda response_dict, **_: answers.append(response_dict["body"]),
        )
        client.list_objects_v2(Bucket=BUCKET, MaxKeys=PAGE)
        date = re.compile(rb"<LastModified>[^<]*")
        same = date.sub(b"", answers[0]) == date.sub(b"", page_of(num_objects, 0))
        print(f"its first page is like one from memory: {same}")
        measure(f"s3://{BUCKET}", server.environment())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("folder", "pages", "seaweedfs"))
    parser.add_argument("--objects", type=int, default=1_000_000)
    arguments = parser.parse_args()
    if arguments.kind == "folder":
        measure_folder(arguments.objects)
    elif arguments.kind == "seaweedfs":
        measure_seaweedfs(arguments.objects)
    else:
        with pages_from_memory(arguments.objects) as environment:
            measure("s3://data", environment)


if __name__ == "__main__":
    main()
