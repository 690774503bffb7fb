"""Settings of `ingestion`."""

from pydantic import PositiveFloat, PositiveInt

from product1m.config.section import Fraction, StepConfig


class IngestionConfig(StepConfig):
    """Read lists and photos into item tables."""

    max_photo_side_px: PositiveInt = 1000
    """Photos are stored with at most this longer side (released code)."""
    min_photo_side_px: PositiveInt = 16
    """A photo with a shorter side is quarantined (ours)."""
    max_photo_pixels: PositiveInt = 50_000_000
    """A photo that would decode to more pixels is quarantined before decoding: decompression bombs
    (ours)."""
    max_photo_bytes: PositiveInt = 32 * 1024 * 1024
    """A larger file is quarantined (ours)."""
    max_jpeg_scans: PositiveInt = 32
    """A JPEG with more scans is quarantined: each costs as much as a whole photo, and cameras and
    encoders write at most a dozen (ours)."""
    max_title_bytes: PositiveInt = 4096
    """An item with a longer caption, in UTF-8, is quarantined; the longest of the dev list has 92
    (ours)."""
    max_quarantine_share: Fraction = 0.05
    """If a larger share of a list is quarantined, the step stops (ours)."""
    dev_share: Fraction = 0.3
    """Share of the queries used as dev if the data set does not split them; Product1M has 0.29
    (ours)."""
    allowed_sources: tuple[str, ...] = ()
    """Where photos may come from besides the data set and public web servers: host names, IP
    addresses or networks (`10.0.0.0/8`), `s3://` prefixes, and folders that links in the data set
    may lead to. Anything else is quarantined, so that a list cannot reach what only the pipeline
    may read (ours)."""
    download_attempts: PositiveInt = 4
    """Attempts to download a photo (ours)."""
    download_timeout_s: PositiveFloat = 60.0
    """Limit for one request, from connecting to its last byte, however slowly the bytes come
    (ours)."""
    num_workers: PositiveInt = 8
    """Photos read, downloaded and decoded at the same time; downloads mostly wait, so use more
    workers for photos behind URLs (ours)."""
    shard_mib: PositiveInt = 256
    """Maximum size of an image shard (ours)."""
