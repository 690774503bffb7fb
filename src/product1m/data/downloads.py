"""Photos behind URLs: fetched with retries and back-off, kept so that none is fetched twice."""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry

from product1m import __version__
from product1m.config import IngestionConfig
from product1m.errors import PhotoError
from product1m.storage.base import Store

KEPT = "downloads"
"""Below the store, photos named by the SHA-256 of their URL."""
MAX_REDIRECTS = 5
"""Of one photo (ours)."""
CONNECT_TIMEOUT_S = 10.0
"""At most; a whole photo has `ingestion.download_timeout_s` (ours)."""
MAX_RETRY_AFTER_S = 60
"""A server may ask for at most this pause (ours)."""
UNREACHABLE = 32
"""After so many failed connections in a row a host is not asked again (ours)."""
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
BACKOFF_S = 0.5
"""Doubled from try to try (ours)."""
_BLOCK_BYTES = 1 << 16


class Downloads:
    """Fetches photos from the first of their URLs that gives one; safe to use from many threads."""

    def __init__(self, kept: Store, config: IngestionConfig) -> None:
        self._kept = kept
        self._attempts = config.download_attempts
        self._timeout_s = config.download_timeout_s
        self._failures: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._session = requests.Session()
        self._session.max_redirects = MAX_REDIRECTS
        self._session.headers["User-Agent"] = f"product1m/{__version__}"
        retries = Retry(
            total=config.download_attempts - 1,
            backoff_factor=BACKOFF_S,
            backoff_jitter=BACKOFF_S,
            status_forcelist=_RETRIED,
            raise_on_status=False,
            retry_after_max=MAX_RETRY_AFTER_S,
        )
        adapter = HTTPAdapter(pool_maxsize=config.num_workers, max_retries=retries)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def read(self, urls: Sequence[str], max_bytes: int) -> bytes:
        """The photo at the first URL that gives one; PhotoError with every URL's reason."""
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
        host = urlsplit(url).netloc
        if self._failures[host] >= UNREACHABLE:
            raise PhotoError(f"{host} failed {UNREACHABLE} times in a row, not asked: {url}")
        reason = ""
        for attempt in range(self._attempts):
            time.sleep(min(attempt, 1) * BACKOFF_S * 2**attempt * (0.5 + random.random() / 2))
            with self._answer(url, host) as answer:
                _check(answer, url, max_bytes)
                try:
                    content = self._body(answer, url, max_bytes)
                except (TimeoutError, ReadTimeoutError):
                    reason = f"not whole after {self._timeout_s:g} s"
                except (HTTPError, OSError):
                    reason = "broke off"
                else:
                    self._count(host, failed=False)
                    return content
        self._count(host, failed=True)
        raise PhotoError(f"{reason} in {self._attempts} tries: {url}")

    def _answer(self, url: str, host: str) -> requests.Response:
        """The answer's head; what can be retried the adapter has retried."""
        timeouts = (min(CONNECT_TIMEOUT_S, self._timeout_s), self._timeout_s)
        try:
            return self._session.get(url, stream=True, timeout=timeouts)
        except requests.TooManyRedirects as error:
            raise PhotoError(f"more than {MAX_REDIRECTS} redirects: {url}") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            self._count(host, failed=True)
            slow = isinstance(error, requests.Timeout) or "timed out" in str(error)
            reason = "timed out" if slow else "no connection"
            raise PhotoError(f"{reason} in {self._attempts} tries: {url}") from error
        except requests.RequestException as error:
            raise PhotoError(f"not an address that can be fetched: {url}") from error

    def _body(self, answer: requests.Response, url: str, max_bytes: int) -> bytes:
        deadline = time.monotonic() + self._timeout_s
        content = bytearray()
        # iter_content would wait for a whole block, and a slow server outlast the deadline.
        while block := answer.raw.read1(_BLOCK_BYTES, decode_content=True):
            content += block
            if len(content) > max_bytes:
                raise PhotoError(f"more than {max_bytes} bytes: {url}")
            if time.monotonic() > deadline:
                raise TimeoutError
        if not content:
            raise PhotoError(f"an empty answer: {url}")
        return bytes(content)

    def _count(self, host: str, *, failed: bool) -> None:
        with self._lock:
            self._failures[host] = self._failures[host] + 1 if failed else 0


def _name(url: str) -> str:
    digest = hashlib.sha256(url.encode()).hexdigest()
    return f"{KEPT}/{digest[:2]}/{digest}"


def _check(answer: requests.Response, url: str, max_bytes: int) -> None:
    """Refuse what its head says is no photo that is wanted."""
    if not answer.ok:
        raise PhotoError(f"HTTP {answer.status_code} {answer.reason}: {url}")
    kind = answer.headers.get("Content-Type", "")
    if kind.startswith("text/"):
        raise PhotoError(f"a page of {kind.split(';')[0]}, not a photo: {url}")
    stated = answer.headers.get("Content-Length", "")
    if stated.isdecimal() and int(stated) > max_bytes:
        raise PhotoError(f"more than {max_bytes} bytes: {url}")
