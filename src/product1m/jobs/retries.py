"""A step retries after temporary errors: a lost MLflow server, object store or network.

Argo does not do this with KFP's defaults: a step that exits with an error counts as failed, and
only a lost pod is started again. The clients retry single requests for some minutes before an error
gets here; each further attempt runs the whole step, which resumes from its checkpoint.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from product1m.errors import LockedError, Product1MError, causes_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAUSES_S = (60.0, 300.0)
"""Before the second and the third attempt (ours)."""
_TEMPORARY_STATUS = (408, 429, 500, 502, 503, 504)
_TEMPORARY_NAMES = {
    "ConnectionError",
    "ConnectTimeout",
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "EndpointConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "MaxRetryError",
    "NewConnectionError",
    "ProtocolError",
    "ReadTimeout",
    "ReadTimeoutError",
    "ResponseStreamingError",
    "RetryError",
    "Timeout",
}
"""Names of errors of requests, urllib3 and botocore, which some steps' images lack."""


def with_retries(step: str, work: Callable[[], T], pauses_s: Sequence[float] = PAUSES_S) -> T:
    """The result of `work`, tried again after each pause if its failure may be temporary."""
    for attempt, pause in enumerate(pauses_s, start=2):
        try:
            return work()
        except Product1MError as error:
            if not is_temporary(error):
                raise
            logger.warning(
                "%s failed and will be tried again in %.0f s (attempt %d of %d): %s",
                *(step, pause, attempt, len(pauses_s) + 1, error),
            )
            time.sleep(pause)
    return work()


def is_temporary(error: BaseException) -> bool:
    """Whether a lost connection, a server that is away or another run's lock caused the error.

    On a lost node a step may go on for a while, and hold its locks, when its next attempt begins.
    """
    return any(_is_outage(cause) for cause in causes_of(error))


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | LockedError):
        return True
    if any(kind.__name__ in _TEMPORARY_NAMES for kind in type(error).__mro__):
        return True
    return _status(error) in _TEMPORARY_STATUS


def _status(error: BaseException) -> int:
    """The HTTP status of an answer of MLflow or S3; 0 where the error has none."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore's ClientError
        return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if getattr(error, "error_code", "") in ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"):
        return 503  # MlflowException
    return int(getattr(answer, "status_code", 0))  # requests' HTTPError
