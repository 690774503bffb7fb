"""Listings of S3: entries parsed by us are those that botocore parses; pages in any process."""

from collections.abc import Iterator
from typing import Any

import pytest

from product1m.data import state
from product1m.data.state import data_digest
from product1m.errors import StorageError
from product1m.storage import s3_client
from product1m.storage.opening import open_store
from product1m.storage.s3_listing import ListingPage
from tests.support.servers.s3_server import BUCKET, S3Server

KEYS = ("a b+c%20.jpg", "images/&amp;<é>.jpg", "images/0.jpg", "images/日本.jpg", "train.jsonl")
PAGE = 2


@pytest.fixture
def prefix(s3: S3Server) -> Iterator[str]:
    """Objects with names that are written otherwise in XML and in addresses; two a page."""
    for key in KEYS:
        s3.client().put_object(Bucket=BUCKET, Key=f"odd names/{key}", Body=key.encode())
    events = s3_client.client().meta.events

    def ask_for_few(params: dict[str, Any], **_: object) -> None:
        params["MaxKeys"] = PAGE

    events.register("before-parameter-build.s3.ListObjectsV2", ask_for_few)
    yield f"s3://{BUCKET}/odd names"
    events.unregister("before-parameter-build.s3.ListObjectsV2", ask_for_few)


def test_a_listing_is_what_a_plain_client_lists(s3: S3Server, prefix: str) -> None:
    listed = s3.client().list_objects_v2(Bucket=BUCKET, Prefix="odd names/")["Contents"]
    expected = [
        (
            entry["Key"].removeprefix("odd names/"),
            entry["Size"],
            entry["ETag"].strip('"'),
            entry["LastModified"].timestamp(),
        )
        for entry in listed
    ]
    files = [(f.name, f.num_bytes, f.etag, f.written) for f in open_store(prefix).files()]
    assert files == expected
    assert {name for name, *_ in files} == set(KEYS)
    assert list(open_store(f"{prefix}/none").files()) == []


def test_a_state_is_the_same_whatever_process_parses_the_pages(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = data_digest(open_store(prefix), "images/")
    monkeypatch.setattr(state, "_PAGES_IN_PROCESS", 1)
    assert data_digest(open_store(prefix), "images/") == here
    assert data_digest(open_store(prefix)) != here


@pytest.mark.parametrize(
    "entries",
    [
        "<Contents><Size>1</Size></Contents>",
        "<Contents><Key>a</Key><Size>many</Size></Contents>",
        "<Contents><Key>a</Key></Contents>",
        "<Contents><Key>a</Key><Size>1</Siz></Contents>",
        "<Contents><Key>a</Key><Size>1</Size><LastModified>today</LastModified></Contents>",
    ],
)
def test_entries_that_are_not_a_listings_are_an_error_with_the_address(entries: str) -> None:
    page = ListingPage("s3://shop/data", "", {"UnparsedContents": entries.encode()})
    with pytest.raises(StorageError, match="s3://shop/data: expected entries of an S3 listing"):
        list(page.files())
