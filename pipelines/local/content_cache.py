"""The cache of a local run, which finds results by the content of their inputs, not by their paths.

kfp.local names an input by its path, and every run has its own. So a step that ran again would make
everything behind it run again, even where it wrote the same artifact as before: with one query's
split corrected, ingestion writes other queries and the same training items.
"""

from typing import Any

from kfp import dsl
from kfp.local import cache
from kfp.local.cache import LocalCache

IDENTITY = "identity"
"""Key of an artifact's metadata: what its readers depend on, see `Summary.identity`."""


class ContentCache(LocalCache):  # type: ignore[misc]  # kfp has no types here
    """Names an input by its identity where its component stated one."""

    def compute_key(
        self,
        component_name: str,
        image: str,
        full_command: list[str],
        arguments: Any,
        **others: Any,
    ) -> str:
        """The key of a task."""
        by_content = {name: _by_content(value) for name, value in arguments.items()}
        key: str = super().compute_key(component_name, image, full_command, by_content, **others)
        return key


def use_content_cache(root: str) -> None:
    """Make kfp.local use such a cache below `root`; call it after `local.init`."""
    # kfp.local has no parameter for it: it keeps the cache of the last root here.
    cache._cache_singleton = ContentCache(root)
    cache._cache_singleton_root = root


def _by_content(value: Any) -> Any:
    if isinstance(value, dsl.Artifact) and IDENTITY in value.metadata:
        return {"type": value.schema_title, IDENTITY: value.metadata[IDENTITY]}
    return value
