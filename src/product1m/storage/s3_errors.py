"""What S3 and the network say, in words: what happened at which address and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

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
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from product1m.errors import NotStoredError, StorageError
from product1m.storage.s3_client import BAD_CHECKSUM, endpoint, has_answered, note_answer

BROKEN_BODY = (HTTPError, HTTPClientError, IncompleteReadError, ResponseStreamingError)
"""An answer that began and did not arrive whole."""
DAMAGED = "damaged in transit"
ALREADY_THERE = "PreconditionFailed"
_BEING_WRITTEN = "ConditionalRequestConflict"
_NO_SUCH_KEY = ("NoSuchKey", "404", "NotFound")
_REFUSED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled")
_FINAL = ("NoSuchBucket", "NotImplemented", *_REFUSED)
"""Codes of errors that are not temporary."""
_BAD_CREDENTIALS = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
)


class InterruptedTransferError(Exception):
    """An operation that may succeed when it is tried again; `final` is raised if it does not."""

    def __init__(self, final: StorageError) -> None:
        super().__init__(str(final))
        self.final = final


class ConflictError(Exception):
    """A conditional request that found another state; `code` is S3's name for it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def interrupted(address: str, reason: str) -> InterruptedTransferError:
    """An operation to try again, with the reason to report if no attempt succeeds."""
    return InterruptedTransferError(StorageError(f"{address}: {reason}; try again"))


@contextmanager
def explained(address: str, bucket: str) -> Iterator[None]:
    """Turn errors of boto3 into StorageError, or InterruptedTransferError if they may be temporary.

    Until an endpoint has answered for the first time, its failures do not count as temporary: the
    address is probably wrong.
    """
    try:
        yield
    except ClientError as error:
        raise _client_error(error, address, bucket) from error
    except FlexibleChecksumError as error:
        raise interrupted(address, f"{DAMAGED} ({error})") from error
    except (ResponseParserError, ValueError) as error:  # a field whose bytes changed on the way
        raise interrupted(address, f"{endpoint()} sent an answer that is not S3's") from error
    except BotoCoreError as error:
        raise _transport_error(error, address) from error
    except HTTPError as error:
        raise interrupted(address, f"the answer did not arrive whole ({error})") from error
    note_answer()


def _client_error(error: ClientError, address: str, bucket: str) -> Exception:
    code = error.response["Error"]["Code"]
    message = error.response["Error"].get("Message", "")
    if code in (ALREADY_THERE, _BEING_WRITTEN):
        return ConflictError(code)
    if code in _NO_SUCH_KEY:
        return NotStoredError(f"{address}: no such object")
    explain: dict[tuple[str, ...], str] = {
        ("NoSuchBucket",): f"there is no bucket {bucket!r} at {endpoint()}; create it or "
        "fix the address",
        _REFUSED: f"access denied by {endpoint()}; the credentials in the AWS environment must be "
        "allowed to list, read and write below this address",
        _BAD_CREDENTIALS: f"{endpoint()} does not accept the credentials of the AWS environment "
        f"({code}: {message})",
        BAD_CHECKSUM: f"{DAMAGED} to the server, wrong checksum ({code}: {message}); "
        "nothing was written; try again",
        (
            "NotImplemented",
        ): f"{endpoint()} does not support this request ({message}); use a server "
        "with conditional writes (If-None-Match)",
    }
    reason = next(
        (text for codes, text in explain.items() if code in codes),
        f"{endpoint()} answered {code} to {error.operation_name}: {message}; try again",
    )
    failure = StorageError(f"{address}: {reason}")
    return InterruptedTransferError(failure) if has_answered() and code not in _FINAL else failure


def _transport_error(error: BotoCoreError, address: str) -> Exception:
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        reason = f"no credentials ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or "
        return StorageError(f"{address}: {reason}AWS_PROFILE, or give the pod a role")
    if isinstance(error, HTTPClientError | NoConnectionError):
        reason = f"{endpoint()} cannot be reached ({error}); check AWS_ENDPOINT_URL"
        failure = StorageError(f"{address}: {reason}")
        return InterruptedTransferError(failure) if has_answered() else failure
    return StorageError(f"{address}: {error}")
