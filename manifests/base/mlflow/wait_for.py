"""Wait until a server answers, then end: `python wait_for.py http://mlflow:5000/health`.

An address `postgresql://HOST:PORT` only has to accept connections. TIMEOUT_S limits the wait.
"""

import os
import socket
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

POLL_S = 5


def missing(address: str) -> str:
    """Why the server does not answer yet; empty if it does."""
    parts = urlsplit(address)
    try:
        if parts.scheme in ("http", "https"):
            urllib.request.urlopen(address, timeout=10).close()
        else:
            socket.create_connection((parts.hostname, parts.port), timeout=10).close()
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.reason}" if error.code >= 500 else ""
    except OSError as error:
        return str(error)
    return ""


def main() -> None:
    """Poll until the server answers; the exit code is 1 when the time is up."""
    address = sys.argv[1]
    deadline = time.monotonic() + float(os.environ.get("TIMEOUT_S", "900"))
    while reason := missing(address):
        if time.monotonic() > deadline:
            sys.exit(f"{address} does not answer: {reason}")
        print(f"waiting for {address}: {reason}", flush=True)
        time.sleep(POLL_S)
    print(f"{address} answers")


if __name__ == "__main__":
    main()
