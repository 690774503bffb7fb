"""One object's bytes, or a part of them, as they are stored: resumed, and verified at the end.

A whole object is compared with the checksum that the server keeps, or with its ETag where that is
the MD5 of the content. A part has neither; it is compared with what was asked for.
"""

import base64
import hashlib
import re
import zlib
from typing import Any

from botocore.exceptions import ClientError, FlexibleChecksumError

from product1m.errors import TooLargeError
from product1m.storage.base import BLOCK_BYTES
from product1m.storage.s3_client import client, endpoint, is_encrypted
from product1m.storage.s3_errors import ALREADY_THERE, BROKEN_BODY, DAMAGED, interrupted

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class ObjectRead:
    """Reads an object, or `num_bytes` of it from `start`; a second call goes on after the first.

    Args:
        bucket: of the object.
        key: of the object.
        address: for messages.
        start: first byte.
        num_bytes: of a part; None reads the whole object.
        max_bytes: TooLargeError above.
    """

    def __init__(
        self,
        bucket: str,
        key: str,
        address: str,
        start: int = 0,
        num_bytes: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self._request = {"Bucket": bucket, "Key": key}
        self._address = address
        self._start = start
        self._num_bytes = num_bytes
        self._max_bytes = max_bytes
        self._got = bytearray()
        self._etag = ""
        self._checksum = ""
        self._end: int | None = None
        """Bytes that a ranged answer must bring the content to; None if all came in one answer."""
        self._seen: set[str] = set()

    def read(self) -> bytes:
        """All requested bytes; InterruptedTransferError if they did not arrive whole."""
        try:
            answer = client().get_object(**self._request | self._condition())
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "InvalidRange":  # starts behind the end
                return self._verified()
            if code == ALREADY_THERE:  # it was replaced while it was read
                raise self._start_again("changed while it was read") from error
            raise
        self._check_answer(answer)
        try:
            for block in answer["Body"].iter_chunks(BLOCK_BYTES):
                self._got += block
                self._check_size(0)
        except FlexibleChecksumError as error:
            raise self._start_again(f"{DAMAGED} ({error})") from error
        except BROKEN_BODY as error:
            reason = f"interrupted after {len(self._got)} bytes ({error})"
            raise interrupted(self._address, reason) from error
        return self._verified()

    @property
    def _is_ranged(self) -> bool:
        return self._num_bytes is not None or bool(self._got)

    def _condition(self) -> dict[str, str]:
        if not self._is_ranged:
            return {}
        first = self._start + len(self._got)
        last = "" if self._num_bytes is None else str(self._start + self._num_bytes - 1)
        same = {"IfMatch": self._etag} if self._got else {}
        return {"Range": f"bytes={first}-{last}"} | same

    def _check_answer(self, answer: dict[str, Any]) -> None:
        """Note what identifies the object; refuse an answer that is not what was asked for."""
        if not answer.get("ETag"):
            kind = answer.get("ContentType") or "something"
            raise self._start_again(
                f"{endpoint()} sent {kind} instead of the object; check AWS_ENDPOINT_URL"
            )
        if self._is_ranged:
            self._end = self._end_of_range(answer.get("ContentRange", ""))
        else:
            self._check_size(answer.get("ContentLength", 0))
            is_full = answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
            self._checksum = answer.get("ChecksumCRC32", "") if is_full else ""
        self._etag = self._etag or answer["ETag"]

    def _end_of_range(self, stated: str) -> int:
        match = _CONTENT_RANGE.fullmatch(stated)
        if match is None or int(match[1]) != self._start + len(self._got):
            raise self._start_again(f"asked for a part, got {stated or 'the whole object'}")
        size = int(match[3]) - self._start
        return size if self._num_bytes is None else min(size, self._num_bytes)

    def _verified(self) -> bytes:
        content = bytes(self._got)
        if self._end is not None and len(content) < self._end:
            raise interrupted(self._address, f"got {len(content)} of {self._end} bytes")
        if self._num_bytes is None and not self._is_right(content):
            raise self._start_again(f"{DAMAGED}: the content differs from the server's checksum")
        return content

    def _is_right(self, content: bytes) -> bool:
        """Whether a whole object is what the server has; without a checksum two reads must agree.

        Two reads also decide where the ETag is not the MD5: that of an encrypted object looks like
        an MD5, but is none.
        """
        if self._checksum:
            crc32 = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
            return crc32 == self._checksum
        md5 = md5_of(content)
        stated = _MD5.fullmatch(self._etag)
        if md5 in self._seen or (stated and stated[1] == md5):
            return True
        self._seen.add(md5)
        return not stated and (self._end is None or is_encrypted())

    def _start_again(self, reason: str) -> Exception:
        self._got.clear()
        self._etag = self._checksum = ""
        self._end = None
        return interrupted(self._address, reason)

    def _check_size(self, more: int) -> None:
        num_bytes = len(self._got) + more
        if self._max_bytes is not None and num_bytes > self._max_bytes:
            raise TooLargeError(self._address, num_bytes, self._max_bytes)


def md5_of(content: bytes) -> str:
    """What a server's ETag is after an ordinary put."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
