"""Whether an MLflow server answers, asked with short waits before work with it begins.

MLflow's own client waits two minutes for an answer and tries eight times. A server that is silent
would be reported after 20 minutes.
"""

import logging
import os
import time
from itertools import zip_longest

from product1m.telemetry.provenance import UNKNOWN, pipeline_run

logger = logging.getLogger(__name__)

ANSWER_S = 15
"""How long the server may take to answer the simplest request (ours)."""
PAUSES_S = (2.0, 5.0)
"""Pauses before the second and third try; less than a minute with all tries (ours)."""
STEP_PAUSES_S = (5.0, 10.0, 20.0, 40.0, 60.0, 60.0)
"""Pauses in a step of a pipeline run, which would lose its work: five minutes in all (ours)."""
VALID_S = 30.0
"""How long an answer stays valid (ours)."""
MAX_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"

_answered: dict[str, float] = {}
"""Server to the time of its last answer."""


def require_answer(uri: str) -> None:
    """ConnectionError if the server at `uri` does not answer; does nothing for a database.

    Any answer counts, even a refusal. Outside a pipeline run this takes less than a minute. A step
    keeps trying, and logs each time that there was no answer.
    """
    if not uri.startswith("http") or time.monotonic() - _answered.get(uri, -VALID_S) < VALID_S:
        return
    in_step = pipeline_run() != UNKNOWN
    pauses = (STEP_PAUSES_S if in_step else PAUSES_S)[: int(os.environ.get(MAX_RETRIES, "9"))]
    for attempt, pause in zip_longest(range(1, len(pauses) + 2), pauses):
        reason = _no_answer(uri)
        if not reason:
            _answered[uri] = time.monotonic()
            return
        if pause is None:
            raise ConnectionError(f"no answer to try {attempt}: {reason}; is the address right?")
        if in_step:
            logger.warning(
                "MLflow at %s does not answer (%s), trying again in %.0f s", uri, reason, pause
            )
        time.sleep(pause)


def _no_answer(uri: str) -> str:
    """Why the server did not answer; empty if it did."""
    import requests
    from mlflow.utils.credentials import get_default_host_creds

    verify = get_default_host_creds(uri).verify
    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_S, verify=verify)
    except requests.Timeout:
        return f"nothing within {ANSWER_S} s"
    except requests.RequestException as error:
        cause = getattr(error.args[0], "reason", error) if error.args else error
        return f"{type(error).__name__}: {cause}"
    return ""
