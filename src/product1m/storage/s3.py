"""A prefix of an S3 bucket as a store, through boto3.

boto3 does multipart uploads, retries of requests, and checksums of whole objects. This module adds
what it lacks: operations that are interrupted or damaged are done again and resume where they
stopped, only the first of several writers publishes, and errors say what to do.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from product1m.errors import NotStoredError, StorageError
from product1m.storage import s3_client
from product1m.storage.base import S3, StoredFile, agreed, checked_name, sha256_of
from product1m.storage.s3_client import client
from product1m.storage.s3_errors import (
    ALREADY_THERE,
    ConflictError,
    InterruptedTransferError,
    explained,
    interrupted,
)
from product1m.storage.s3_listing import ListingPage, content_of, written
from product1m.storage.s3_reading import ObjectRead, md5_of

T = TypeVar("T")

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]")


class S3Prefix:
    """The objects below `s3://BUCKET/PREFIX`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.bucket, _, prefix = uri.removeprefix(S3).rstrip("/").partition("/")
        if not _BUCKET.fullmatch(self.bucket):
            raise StorageError(f"{uri}: expected s3://BUCKET/PREFIX, got bucket {self.bucket!r}")
        prefix = "/".join(part for part in prefix.split("/") if part not in ("", "."))
        self._prefix = f"{prefix}/" if prefix else ""

    def address(self, name: str) -> str:
        """The object's `s3://` address."""
        return f"{S3}{self.bucket}/{self._key(name)}"

    def local(self, name: str) -> None:
        """None: nothing of a prefix is on this machine."""

    def files(self, below: str = "") -> Iterator[StoredFile]:
        """The objects, page by page, without the empty ones that represent folders."""
        for page in self.pages(below):
            yield from page.files()

    def pages(self, below: str = "") -> Iterator[ListingPage]:
        """The pages of the listing, not parsed yet.

        A listing has no checksum, so on an unencrypted connection two must agree.
        """
        where: dict[str, str] = {"Bucket": self.bucket, "Prefix": self._prefix + below}
        while True:
            page = self._agreed_page(where)
            yield ListingPage(self.uri, self._prefix, page)
            if not page.get("NextContinuationToken"):
                return
            where["ContinuationToken"] = page["NextContinuationToken"]

    def find(self, name: str) -> StoredFile | None:
        """Size and digest from a HEAD request."""
        try:
            head = self._head(name)
        except NotStoredError:
            return None
        sha256 = head["Metadata"].get("sha256", "")
        return StoredFile(name, head["ContentLength"], sha256, written=written(head))

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """The whole object, verified by the server's checksum."""
        whole = ObjectRead(self.bucket, self._key(name), self.address(name), max_bytes=max_bytes)
        return self._tried(self.address(name), whole.read)

    def read_range(self, name: str, start: int, num_bytes: int) -> bytes:
        """A part of the object; it has no checksum, so the caller verifies it."""
        part = ObjectRead(self.bucket, self._key(name), self.address(name), start, num_bytes)
        return self._tried(self.address(name), part.read)

    def fetch(self, name: str, target: Path, sha256: str = "") -> None:
        """Download, a large object in parts; an interrupted or damaged part is downloaded again.

        Without a digest, and without encryption, each part of a large object is read until two
        reads agree.
        """
        if self._size(name) <= s3_client.PART_BYTES:
            target.write_bytes(self.read(name))
            return

        def fetch() -> None:
            target.unlink(missing_ok=True)
            self._fetch_parts(name, target)
            if not (sha256_of(target) == sha256 if sha256 else s3_client.is_encrypted()):
                self._fetch_parts(name, target)

        self._tried(self.address(name), fetch)

    def put(self, path: Path, name: str, sha256: str) -> None:
        """Upload in parts; the object appears when all parts have arrived."""
        address, expected = self.address(name), StoredFile(name, path.stat().st_size, sha256)
        extra = {"Metadata": {"sha256": sha256}, "ChecksumAlgorithm": "CRC32"}

        def upload() -> None:
            stored = self.find(name)
            if stored == expected and stored.is_fresh:
                return
            try:
                with explained(address, self.bucket), s3_client.transfers() as manager:
                    manager.upload(str(path), self.bucket, self._key(name), extra).result()
            except KeyError as error:  # a field that s3transfer takes for granted
                raise interrupted(address, f"an answer without {error}") from error
            stored = agreed(lambda: self.find(name), lambda facts: facts, expected)
            if stored != expected:
                raise interrupted(
                    address,
                    f"uploaded {expected.num_bytes} bytes with sha256 {sha256}, but the server has "
                    f"{stored}; check whether another program writes there",
                )

        self._tried(address, upload)

    def publish(self, name: str, content: bytes) -> bool:
        """A conditional put.

        If the object exists, its content shows whether this or another writer wrote it.
        """
        address = self.address(name)
        request = {"Bucket": self.bucket, "Key": self._key(name), "IfNoneMatch": "*"}
        for attempt in range(s3_client.ATTEMPTS):
            try:
                answer = self._tried(address, lambda: client().put_object(Body=content, **request))
                if answer.get("ETag", "").strip('"') == md5_of(content):
                    return True
            except ConflictError as conflict:
                if conflict.code != ALREADY_THERE:
                    s3_client.wait(attempt)
                    continue
            stored = self._published(name)
            if stored is not None:
                return stored == content
        raise StorageError(
            f"{address}: other writers interfered {s3_client.ATTEMPTS} times; try again"
        )

    def replace(self, name: str, content: bytes) -> None:
        """Put the object."""
        request = {"Bucket": self.bucket, "Key": self._key(name), "ChecksumAlgorithm": "CRC32"}
        self._tried(self.address(name), lambda: client().put_object(Body=content, **request))

    def remove(self, name: str) -> None:
        """Delete the object; S3 reports no error if there is none."""
        request = {"Bucket": self.bucket, "Key": self._key(name)}
        self._tried(self.address(name), lambda: client().delete_object(**request))

    def abort_unfinished(self, older_than: timedelta) -> list[str]:
        """Abort multipart uploads below this prefix that are older; returns their addresses.

        What a killed upload has sent takes space until somebody does this.
        """
        limit = datetime.now(UTC) - older_than
        with explained(self.uri, self.bucket):
            pages = client().get_paginator("list_multipart_uploads")
            uploads = [
                upload
                for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix)
                for upload in page.get("Uploads", ())
                if upload["Initiated"] <= limit
            ]
            for upload in uploads:
                client().abort_multipart_upload(
                    Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
        return [f"{S3}{self.bucket}/{upload['Key']}" for upload in uploads]

    def _published(self, name: str) -> bytes | None:
        """The object under a name after a conditional put; None if it was removed in between.

        StorageError if the name cannot be used, because there are other objects below it.
        """
        try:
            return self.read(name)
        except NotStoredError:
            below = next(self.files(f"{name}/"), None)
            if below is None:
                return None
            address = self.address(name)
            raise StorageError(
                f"{address}: cannot be written, because {self.address(below.name)} is below it, "
                "and on this server a name is either an object or a folder; remove what lies "
                "below, or choose another address"
            ) from None

    def _fetch_parts(self, name: str, target: Path) -> None:
        """Write an object's parts to a file; two reads must agree on a part that it has."""
        num_bytes, part_bytes = self._size(name), s3_client.PART_BYTES
        has_parts = target.exists()
        with target.open("r+b" if has_parts else "w+b") as file:
            file.truncate(num_bytes)

        def write_part(start: int) -> None:
            length = min(part_bytes, num_bytes - start)
            with target.open("r+b") as file:
                file.seek(start)
                first = [file.read(length)] if has_parts else []
                content = self._part(name, start, length, first)
                file.seek(start)
                file.write(content)

        with ThreadPoolExecutor(s3_client.PARTS_AT_ONCE, "download") as pool:
            list(pool.map(write_part, range(0, num_bytes, part_bytes)))

    def _part(self, name: str, start: int, length: int, first: list[bytes]) -> bytes:
        """A part, or what it and an earlier read agree on; it must have its length."""

        def read() -> bytes:
            return first.pop() if first else self.read_range(name, start, length)

        content = agreed(read, _sha256) if first else read()
        if len(content) != length:
            raise interrupted(
                self.address(name),
                f"{len(content)} of {length} bytes at {start}; it changed while it was read",
            )
        return content

    def _size(self, name: str) -> int:
        def read() -> int:
            return int(self._head(name)["ContentLength"])

        return read() if s3_client.is_encrypted() else agreed(read, int)

    def _head(self, name: str) -> Any:
        request = {"Bucket": self.bucket, "Key": self._key(name)}
        head = self._tried(self.address(name), lambda: client().head_object(**request))
        if not head.get("ETag"):
            raise StorageError(
                f"{self.address(name)}: {s3_client.endpoint()} sent an answer that is not S3's; "
                "check AWS_ENDPOINT_URL"
            )
        return head

    def _agreed_page(self, request: dict[str, str]) -> Any:
        if s3_client.is_encrypted():
            return self._page(request)
        return agreed(lambda: self._page(request), content_of)

    def _page(self, request: dict[str, str]) -> Any:
        page = self._tried(self.uri, lambda: client().list_objects_v2(**request))
        if page.get("Name") != self.bucket:
            raise StorageError(
                f"{self.uri}: {s3_client.endpoint()} sent an answer that is not a listing of the "
                "bucket; check AWS_ENDPOINT_URL"
            )
        return page

    def _tried(self, address: str, action: Callable[[], T]) -> T:
        """Result of `action`, which is called again when it was interrupted."""
        for attempt in range(s3_client.ATTEMPTS):
            try:
                with explained(address, self.bucket):
                    return action()
            except InterruptedTransferError as error:
                if attempt == s3_client.ATTEMPTS - 1:
                    raise error.final from error
                s3_client.wait(attempt)
        raise AssertionError("unreachable")

    def _key(self, name: str) -> str:
        return self._prefix + checked_name(name)


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
