"""Photos at URLs: downloaded once, with retries and back-off, and kept."""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from product1m import __version__
from product1m.data.allowed_sources import AllowedSources
from product1m.data.request_deadline import Deadline, TimedAdapter, deadline
from product1m.errors import PhotoError
from product1m.storage.base import Store

KEPT = "downloads"
"""Folder of the store for photos, each named by the SHA-256 of its URL."""
MAX_REDIRECTS = 5
"""Redirects that are followed for one photo (ours)."""
CONNECT_TIMEOUT_S = 10.0
"""Longest wait for a connection; a whole photo may take `ingestion.download_timeout_s` (ours)."""
MAX_RETRY_AFTER_S = 60
"""Longest pause that a server may ask for (ours)."""
UNREACHABLE = 32
"""Failed connections in a row after which a host is not contacted again (ours)."""
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
BACKOFF_S = 0.5
"""Base of the pause between tries, doubled with each try (ours)."""
_BLOCK_BYTES = 1 << 16


class Downloads:
    """Downloads photos from the first of their URLs that works; thread-safe."""

    def __init__(
        self,
        kept: Store,
        allowed: AllowedSources,
        *,
        attempts: int,
        timeout_s: float,
        num_connections: int,
    ) -> None:
        """Keep photos in a store.

        Args:
            kept: where downloaded photos are kept and looked up first.
            allowed: which hosts may be asked, also after a redirect.
            attempts: tries for each URL.
            timeout_s: for one request, from connecting to the last byte.
            num_connections: threads that download at once.
        """
        self._kept = kept
        self._attempts = attempts
        self._timeout_s = timeout_s
        self._failures: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._session = requests.Session()
        self._session.max_redirects = MAX_REDIRECTS
        self._session.headers["User-Agent"] = f"product1m/{__version__}"
        retries = Retry(
            total=attempts - 1,
            backoff_factor=BACKOFF_S,
            backoff_jitter=BACKOFF_S,
            status_forcelist=_RETRIED,
            raise_on_status=False,
            retry_after_max=MAX_RETRY_AFTER_S,
        )
        adapter = TimedAdapter(allowed.addresses, pool_maxsize=num_connections, max_retries=retries)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def read(self, urls: Sequence[str], max_bytes: int) -> bytes:
        """The photo at the first URL that works; if none does, PhotoError with all reasons."""
        for url in urls:
            if self._kept.find(_name(url)) is not None:
                return self._kept.read(_name(url), max_bytes)
        reasons = []
        for url in urls:
            try:
                content = self._fetch(url, max_bytes)
            except PhotoError as error:
                reasons.append(str(error))
                continue
            self._kept.publish(_name(url), content)
            return content
        raise PhotoError("; ".join(reasons))

    def _fetch(self, url: str, max_bytes: int) -> bytes:
        host = _host(url)
        if self._failures[host] >= UNREACHABLE:
            raise PhotoError(f"{host} failed {UNREACHABLE} times in a row, skipped: {url}")
        reason = ""
        for attempt in range(self._attempts):
            time.sleep(min(attempt, 1) * BACKOFF_S * 2**attempt * (0.5 + random.random() / 2))
            with deadline(self._timeout_s) as limit, self._respond(url, host, limit) as response:
                _check(response, url, max_bytes)
                try:
                    content = _body(response, url, max_bytes)
                    reason = ""
                except (HTTPError, OSError, ValueError):
                    reason = "connection lost"
                if limit.expired:
                    reason = f"incomplete after {self._timeout_s:g} s"
                elif not reason:
                    self._count(host, failed=False)
                    return _not_empty(content, url)
        self._count(host, failed=True)
        raise PhotoError(f"{reason} in {self._attempts} tries: {url}")

    def _respond(self, url: str, host: str, limit: Deadline) -> requests.Response:
        """The response without its body; the adapter has done the retries."""
        timeouts = (min(CONNECT_TIMEOUT_S, self._timeout_s), self._timeout_s)
        try:
            return self._session.get(url, stream=True, timeout=timeouts)
        except PhotoError as error:  # a host that is not allowed
            raise PhotoError(f"{error}: {url}") from error
        except requests.TooManyRedirects as error:
            raise PhotoError(f"more than {MAX_REDIRECTS} redirects: {url}") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            self._count(host, failed=True)
            slow = isinstance(error, requests.Timeout) or "timed out" in str(error)
            reason = "timed out" if slow or limit.expired else "no connection"
            raise PhotoError(f"{reason} in {self._attempts} tries: {url}") from error
        except (requests.RequestException, HTTPError, ValueError, OSError) as error:
            # requests does not wrap the errors of its parsers for URLs and headers.
            known = isinstance(error, requests.RequestException)
            reason = "invalid address" if known else "invalid address, redirect or header"
            raise PhotoError(f"{reason}: {url}") from error

    def _count(self, host: str, *, failed: bool) -> None:
        with self._lock:
            self._failures[host] = self._failures[host] + 1 if failed else 0


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError as error:
        raise PhotoError(f"invalid address ({error}): {url}") from error


def _body(response: requests.Response, url: str, max_bytes: int) -> bytes:
    content = bytearray()
    # iter_content would wait for a whole block before the size can be checked.
    while block := response.raw.read1(_BLOCK_BYTES, decode_content=True):
        content += block
        if len(content) > max_bytes:
            raise PhotoError(f"more than {max_bytes} bytes: {url}")
    return bytes(content)


def _not_empty(content: bytes, url: str) -> bytes:
    if not content:
        raise PhotoError(f"empty response: {url}")
    return content


def _name(url: str) -> str:
    digest = hashlib.sha256(url.encode()).hexdigest()
    return f"{KEPT}/{digest[:2]}/{digest}"


def _check(response: requests.Response, url: str, max_bytes: int) -> None:
    """Reject a response whose status, type or stated size rules out a usable photo."""
    if not response.ok:
        raise PhotoError(f"HTTP {response.status_code} {response.reason}: {url}")
    kind = response.headers.get("Content-Type", "")
    if kind.startswith("text/"):
        raise PhotoError(f"expected a photo, got {kind.split(';')[0]}: {url}")
    stated = response.headers.get("Content-Length", "")
    # A number of more than 18 digits is not converted: Python refuses those of thousands.
    if stated.isdecimal() and (len(stated) > 18 or int(stated) > max_bytes):
        raise PhotoError(f"more than {max_bytes} bytes: {url}")
