"""Settings of `storage`."""

from product1m.config.section import Section


class StorageConfig(Section):
    """Where bulk data is stored; used by the steps that write it."""

    root: str = ""
    """`s3://BUCKET/PREFIX`, or a folder that all steps can see. Image and feature shards are stored
    there under a name made from their content, and an artifact contains only its manifest and
    tables. Empty: an artifact contains its shards (ours)."""
