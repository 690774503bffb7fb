"""A prefix of an S3 bucket as a store, through boto3.

boto3 does multipart transfers, retries with back-off, and checksums of every request. This module
adds what it lacks: it resumes an interrupted download, lets only the first of several writers
publish, and turns errors into messages that say what to do.
"""

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from botocore.exceptions import (
    ConnectionError as NoConnectionError,
)
from s3transfer.exceptions import RetriesExceededError

from product1m.errors import NotStoredError, StorageError, TooLargeError
from product1m.storage.base import BLOCK_BYTES, S3, StoredFile, checked_name

T = TypeVar("T")

ATTEMPTS = 6
"""Attempts for a request, unless `AWS_MAX_ATTEMPTS` is set (ours)."""
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
"""Longest wait for the next byte from the server (ours; botocore's default)."""
MAX_BACKOFF_S = 20.0
"""Longest wait before an interrupted download is resumed (ours; botocore's between requests)."""
PART_BYTES = 16 << 20
"""Size of a part of a multipart upload or a parallel download (ours)."""
PARTS_AT_ONCE = 4
"""Parts in memory at the same time, 64 MiB a transfer (ours)."""
CONNECTIONS = 32
"""Connections kept open to an endpoint, so that as many threads can read at once (ours)."""

_BROKEN_BODY = (HTTPClientError, IncompleteReadError, ResponseStreamingError, FlexibleChecksumError)
_NO_SUCH_KEY = ("NoSuchKey", "404", "NotFound")
_REFUSED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled")
_BAD_CREDENTIALS = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
)
_BAD_CHECKSUM = ("BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch")
_DAMAGED = "damaged in transit"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]")
_ALREADY_THERE = "PreconditionFailed"
_BEING_WRITTEN = "ConditionalRequestConflict"

_clients: dict[tuple[int, frozenset[tuple[str, str]]], Any] = {}
_clients_lock = threading.Lock()


class S3Prefix:
    """The objects below `s3://BUCKET/PREFIX`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.bucket, _, prefix = self.uri.removeprefix(S3).partition("/")
        if not _BUCKET.fullmatch(self.bucket):
            raise StorageError(f"{uri}: expected s3://BUCKET/PREFIX, got bucket {self.bucket!r}")
        self._prefix = f"{prefix}/" if prefix else ""

    def address(self, name: str) -> str:
        """The object's `s3://` address."""
        return f"{S3}{self.bucket}/{self._key(name)}"

    def local(self, name: str) -> None:
        """None: nothing of a prefix is on this machine."""

    def files(self, below: str = "") -> Iterator[StoredFile]:
        """The objects, page by page, without the empty ones that represent folders."""
        pages = client().get_paginator("list_objects_v2")
        with self._explained(self.uri):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix + below):
                for entry in page.get("Contents", ()):
                    if not entry["Key"].endswith("/"):
                        name = entry["Key"].removeprefix(self._prefix)
                        yield StoredFile(name, entry["Size"])

    def find(self, name: str) -> StoredFile | None:
        """Size and digest from a HEAD request."""
        try:
            with self._explained(self.address(name)):
                head = client().head_object(Bucket=self.bucket, Key=self._key(name))
        except NotStoredError:
            return None
        return StoredFile(name, head["ContentLength"], head["Metadata"].get("sha256", ""))

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """The whole object; its checksum is verified if the server keeps one."""
        return self._read(name, {}, max_bytes)

    def read_range(self, name: str, start: int, num_bytes: int) -> bytes:
        """A part of the object."""
        return self._read(name, {"start": start, "num_bytes": num_bytes}, None)

    def fetch(self, name: str, target: Path) -> None:
        """Download in parts; an interrupted part is downloaded again.

        So is an object of a single part that arrives damaged.
        """

        def download() -> None:
            try:
                with _transfers() as manager:
                    manager.download(self.bucket, self._key(name), str(target)).result()
            except FlexibleChecksumError as error:
                raise _InterruptedError(f"{_DAMAGED} ({error})") from error

        self._until_whole(self.address(name), download)

    def put(self, path: Path, name: str, sha256: str) -> None:
        """Upload in parts; the object appears when all parts have arrived."""
        num_bytes = path.stat().st_size
        expected = StoredFile(name, num_bytes, sha256)
        if self.find(name) == expected:
            return
        extra = {"Metadata": {"sha256": sha256}, "ChecksumAlgorithm": "CRC32"}
        with self._explained(self.address(name)), _transfers() as manager:
            manager.upload(str(path), self.bucket, self._key(name), extra).result()
        stored = self.find(name)
        if stored != expected:
            raise StorageError(
                f"{self.address(name)}: uploaded {num_bytes} bytes with sha256 {sha256}, but the "
                f"server has {stored}; check whether another program writes there"
            )

    def publish(self, name: str, content: bytes) -> bool:
        """A conditional put.

        If the object exists, its content shows whether this or another writer wrote it.
        """
        address = self.address(name)
        for attempt in range(ATTEMPTS):
            try:
                with self._explained(address):
                    client().put_object(
                        Bucket=self.bucket, Key=self._key(name), Body=content, IfNoneMatch="*"
                    )
                return True
            except _ConflictError as conflict:
                if conflict.code == _ALREADY_THERE:
                    return self.read(name) == content
                _wait(attempt)
        raise StorageError(f"{address}: other writers interfered {ATTEMPTS} times; try again")

    def _read(self, name: str, part: dict[str, int], max_bytes: int | None) -> bytes:
        address = self.address(name)
        body = _Body(self.bucket, self._key(name), address, part, max_bytes)
        return self._until_whole(address, body.read)

    def _until_whole(self, address: str, get: Callable[[], T]) -> T:
        """Result of `get`, which is called again when it was interrupted."""
        for attempt in range(ATTEMPTS):
            try:
                with self._explained(address):
                    return get()
            except _InterruptedError as interrupted:
                if attempt == ATTEMPTS - 1:
                    raise StorageError(
                        f"{address}: {interrupted}, {ATTEMPTS} times"
                    ) from interrupted
                _wait(attempt)
        raise AssertionError("unreachable")

    def _key(self, name: str) -> str:
        return self._prefix + checked_name(name)

    @contextmanager
    def _explained(self, address: str) -> Iterator[None]:
        try:
            yield
        except RetriesExceededError as error:
            raise StorageError(
                f"{address}: interrupted repeatedly ({error.last_exception}); try again"
            ) from error
        except ClientError as error:
            raise _client_error(error, address, self.bucket) from error
        except BotoCoreError as error:
            raise _transport_error(error, address) from error


class _Body:
    """An object's bytes, or a part of them; a second read continues where the first stopped."""

    def __init__(
        self, bucket: str, key: str, address: str, part: dict[str, int], max_bytes: int | None
    ) -> None:
        self._request = {"Bucket": bucket, "Key": key}
        self._address = address
        self._part = part
        self._max_bytes = max_bytes
        self._got = bytearray()
        self._etag = ""

    def read(self) -> bytes:
        """All requested bytes; _InterruptedError if the connection or the checksum fails."""
        request = self._request | self._condition()
        try:
            answer = client().get_object(**request)
        except ClientError as error:
            if error.response["Error"]["Code"] == "InvalidRange":  # starts behind the end
                return bytes(self._got)
            raise
        self._check_size(answer["ContentLength"])
        self._etag = answer["ETag"]
        try:
            for block in answer["Body"].iter_chunks(BLOCK_BYTES):
                self._got += block
        except FlexibleChecksumError as error:
            self._got.clear()
            raise _InterruptedError(f"{_DAMAGED} ({error})") from error
        except _BROKEN_BODY as error:
            raise _InterruptedError(
                f"interrupted after {len(self._got)} bytes ({error})"
            ) from error
        return bytes(self._got)

    def _condition(self) -> dict[str, str]:
        if not self._part and not self._got:
            return {}
        first = self._part.get("start", 0)
        last = str(first + self._part["num_bytes"] - 1) if self._part else ""
        same = {"IfMatch": self._etag} if self._got else {}
        return {"Range": f"bytes={first + len(self._got)}-{last}"} | same

    def _check_size(self, num_bytes: int) -> None:
        if self._max_bytes is not None and len(self._got) + num_bytes > self._max_bytes:
            raise TooLargeError(self._address, num_bytes, self._max_bytes)


class _InterruptedError(Exception):
    """A response that started but did not arrive whole."""


class _ConflictError(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def client() -> Any:
    """The S3 client for this process and the current `AWS_` variables."""
    settings = frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))
    key = os.getpid(), settings
    with _clients_lock:
        if key not in _clients:
            _clients[key] = _new_client()
        return _clients[key]


def _new_client() -> Any:
    retries: dict[str, Any] = {}
    if "AWS_RETRY_MODE" not in os.environ:
        retries["mode"] = "standard"
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = ATTEMPTS
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=CONNECTIONS,
        retries=retries,
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except BotoCoreError as error:
        raise StorageError(
            f"S3: the AWS environment is not valid ({error}); check AWS_PROFILE, AWS_REGION "
            "and AWS_ENDPOINT_URL"
        ) from error


def _transfers() -> Any:
    settings = TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=PARTS_AT_ONCE,
        max_io_queue=PARTS_AT_ONCE * PART_BYTES // TransferConfig().io_chunksize,
    )
    return create_transfer_manager(client(), settings)


def _wait(attempt: int) -> None:
    time.sleep(random.random() * min(2.0**attempt, MAX_BACKOFF_S))


def _client_error(error: ClientError, address: str, bucket: str) -> Exception:
    code = error.response["Error"]["Code"]
    message = error.response["Error"].get("Message", "")
    if code in (_ALREADY_THERE, _BEING_WRITTEN):
        return _ConflictError(code)
    if code in _NO_SUCH_KEY:
        return NotStoredError(f"{address}: no such object")
    explain: dict[tuple[str, ...], str] = {
        ("NoSuchBucket",): f"there is no bucket {bucket!r} at {_endpoint()}; create it or "
        "fix the address",
        _REFUSED: f"access denied by {_endpoint()}; the credentials in the AWS environment must be "
        "allowed to list, read and write below this address",
        _BAD_CREDENTIALS: f"{_endpoint()} does not accept the credentials of the AWS environment "
        f"({code}: {message})",
        _BAD_CHECKSUM: f"{_DAMAGED} to the server, wrong checksum ({code}: {message}); "
        "nothing was written; try again",
        (
            "NotImplemented",
        ): f"{_endpoint()} does not support this request ({message}); use a server "
        "with conditional writes (If-None-Match)",
    }
    reason = next(
        (text for codes, text in explain.items() if code in codes),
        f"{_endpoint()} answered {code} to {error.operation_name}: {message}; try again",
    )
    return StorageError(f"{address}: {reason}")


def _transport_error(error: BotoCoreError, address: str) -> StorageError:
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        reason = f"no credentials ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or "
        return StorageError(f"{address}: {reason}AWS_PROFILE, or give the pod a role")
    if isinstance(error, HTTPClientError | NoConnectionError):
        reason = f"{_endpoint()} cannot be reached ({error}); check AWS_ENDPOINT_URL"
        return StorageError(f"{address}: {reason}")
    return StorageError(f"{address}: {error}")


def _endpoint() -> str:
    return str(client().meta.endpoint_url)
