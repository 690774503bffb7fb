"""The S3 client of this process, and which requests it repeats.

boto3 retries requests that fail with a server error or a broken connection. This module adds what
it does not retry: bytes that were damaged on their way up, and an answer with status 200 that is
not from an S3 server, such as a proxy's page.
"""

import os
import random
import threading
import time
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnectionError

from product1m.errors import StorageError
from product1m.storage.s3_listing import leave_entries_unparsed

ATTEMPTS = 6
"""Attempts for a request, unless `AWS_MAX_ATTEMPTS` is set, and for a whole operation (ours)."""
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
"""Longest wait for the next byte from the server (ours; botocore's default)."""
MAX_BACKOFF_S = 20.0
"""Longest wait before a request or an operation is tried again (ours; botocore's)."""
PART_BYTES = 16 << 20
"""Size of a part of a multipart upload or a parallel download (ours)."""
PARTS_AT_ONCE = 4
"""Parts in memory at the same time, 64 MiB a transfer (ours)."""
CONNECTIONS = 32
"""Connections kept open to an endpoint, so that as many threads can read at once (ours)."""

BAD_CHECKSUM = ("BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch")
_OUTAGES = (429, 500, 502, 503, 504)
_ALWAYS_SENT = {
    "GetObject": "ETag",
    "HeadObject": "ETag",
    "PutObject": "ETag",
    "UploadPart": "ETag",
    "CreateMultipartUpload": "UploadId",
    "CompleteMultipartUpload": "ETag",
    "ListObjectsV2": "Name",
}
"""Operation to a field that every S3 server sends with status 200, and no page has."""

_clients: dict[tuple[int, frozenset[tuple[str, str]]], Any] = {}
_clients_lock = threading.Lock()
_answering: set[int] = set()
"""Clients, by id, that got an answer: a later failure is probably an outage."""


def client() -> Any:
    """The S3 client for this process and the current `AWS_` variables."""
    settings = frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))
    key = os.getpid(), settings
    with _clients_lock:
        if key not in _clients:
            _clients[key] = _new_client()
        return _clients[key]


def endpoint() -> str:
    """Address of the server."""
    return str(client().meta.endpoint_url)


def is_encrypted() -> bool:
    """Whether the connection itself detects bytes that change on their way."""
    return endpoint().startswith("https:")


def note_answer() -> None:
    """Remember that endpoint and credentials work, so a later failure is tried for longer."""
    _answering.add(id(client()))


def has_answered() -> bool:
    """Whether endpoint and credentials have worked before in this process."""
    return id(client()) in _answering


def wait(attempt: int) -> None:
    """Sleep before another attempt, longer after each."""
    time.sleep(_pause_s(attempt))


def transfers() -> Any:
    """A manager that uploads large files in parts."""
    settings = TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=PARTS_AT_ONCE,
        max_io_queue=PARTS_AT_ONCE * PART_BYTES // TransferConfig().io_chunksize,
    )
    return create_transfer_manager(client(), settings)


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
        created = boto3.session.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise StorageError(
            f"S3: the AWS environment is not valid ({error}); check AWS_PROFILE, AWS_REGION "
            "and AWS_ENDPOINT_URL"
        ) from error
    attempts = int(created.meta.config.retries.get("total_max_attempts", ATTEMPTS))
    created.meta.events.register_first("needs-retry.s3", _AskAgain(attempts))
    leave_entries_unparsed(created)
    return created


class _AskAgain:
    """An event handler: the pause before a request is sent again, None to let boto3 decide.

    boto3's own retries stop for good once many requests have failed; these do not.
    """

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts

    def __call__(
        self, response: Any, operation: Any, attempts: int, caught_exception: Any, **_: object
    ) -> float | None:
        if attempts >= self._max_attempts:
            return None
        if response is None:
            again = isinstance(caught_exception, HTTPClientError | NoConnectionError)
        else:
            again = _is_unusable(response, operation.name)
        return _pause_s(attempts - 1) if again else None


def _is_unusable(response: tuple[Any, dict[str, Any]], operation: str) -> bool:
    """Whether an answer is an outage, damage on the way up, or not from an S3 server."""
    answer, parsed = response
    if answer.status_code >= 300:
        code = parsed.get("Error", {}).get("Code")
        return answer.status_code in _OUTAGES or code in BAD_CHECKSUM
    return not parsed.get(_ALWAYS_SENT.get(operation, "ResponseMetadata"))


def _pause_s(attempt: int) -> float:
    return random.random() * min(2.0**attempt, MAX_BACKOFF_S)
