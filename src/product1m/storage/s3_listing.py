"""The pages of a listing, parsed faster than by botocore, which takes a minute for a million keys.

botocore still signs and repeats the requests, and parses what surrounds the entries. The entries
themselves are taken out of the answer and parsed in C.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from product1m.errors import StorageError
from product1m.storage.base import StoredFile

_ENTRIES = "UnparsedContents"
_START, _END = b"<Contents>", b"</Contents>"


def leave_entries_unparsed(client: Any) -> None:
    """Let a client's listings have their entries as bytes, for `ListingPage`.

    botocore's own handlers for all operations of S3, one of which parses the answer to see whether
    it is an error, come after those with the service left open.
    """
    client.meta.events.register("before-parse.*.ListObjectsV2", _take_out_entries)


@dataclass(frozen=True)
class ListingPage:
    """Up to a thousand objects; small enough to be sent to another process."""

    address: str
    """Of what is listed, for messages."""
    prefix: str
    """What the names of the files are relative to."""
    content: Mapping[str, Any]
    """botocore's answer; its entries may be bytes."""

    def files(self) -> Iterator[StoredFile]:
        """The objects, without the empty ones that represent folders.

        Raises StorageError for entries that are not S3's.
        """
        with self._explained():
            for name, entry in self._entries():
                size, etag = int(entry["Size"]), _etag(entry)
                yield StoredFile(name, size, etag=etag, written=written(entry))

    def etags(self) -> Iterator[tuple[str, str]]:
        """Name and ETag of the same objects, or the size of one that has no ETag."""
        with self._explained():
            for name, entry in self._entries():
                yield name, _etag(entry) or str(int(entry["Size"]))

    def _entries(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for key, entry in _parsed(self.content):
            if not key.endswith("/"):
                yield key.removeprefix(self.prefix), entry

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (ElementTree.ParseError, KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"{self.address}: expected entries of an S3 listing, got others ({error!r:.200}); "
                "try again, and check AWS_ENDPOINT_URL"
            ) from error


def content_of(page: Mapping[str, Any]) -> tuple[object, ...]:
    """What two reads of a page must agree on."""
    entries = page.get(_ENTRIES) or str(page.get("Contents"))
    return entries, page.get("NextContinuationToken")


def written(answer: Mapping[str, Any]) -> float:
    """When an object was written; 0 if the server does not say."""
    moment = answer.get("LastModified")
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment.timestamp() if moment else 0.0


def _take_out_entries(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """An event handler, before botocore parses an answer.

    Names of elements with a namespace's prefix, which no known server writes, are left to botocore.
    """
    body = response_dict["body"]
    start, end = body.find(_START), body.rfind(_END)
    if response_dict["status_code"] == 200 and 0 <= start < end:
        end += len(_END)
        customized_response_dict[_ENTRIES] = body[start:end]
        response_dict["body"] = body[:start] + body[end:]


def _etag(entry: Mapping[str, Any]) -> str:
    return (entry.get("ETag") or "").strip('"')


def _parsed(page: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each key with the fields of its entry."""
    if _ENTRIES not in page:
        yield from ((entry["Key"], entry) for entry in page.get("Contents", ()))
        return
    is_quoted = page.get("EncodingType") == "url"
    inside = b"<page>" + page[_ENTRIES] + b"</page>"  # no place for a DTD, so none for its bombs
    for element in ElementTree.fromstring(inside):  # noqa: S314
        entry = {field.tag: field.text for field in element}
        key = entry["Key"] or ""
        yield unquote_plus(key) if is_quoted else key, entry
