"""The cache of a local run, which finds results by the content of their inputs, not by their paths.

kfp.local names an input by its path, and every run has its own. So a step that ran again would make
everything behind it run again, even where it wrote the same artifact as before: with one query's
split corrected, ingestion writes other queries and the same training items. Its entries name
results by absolute paths, too, so that a run's folder could not be moved.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.local import cache
from kfp.local.cache import LocalCache

IDENTITY = "identity"
"""Key of an artifact's metadata: what its readers depend on, see `Summary.identity`."""


class ContentCache(LocalCache):  # type: ignore[misc]  # kfp has no types here
    """Names an input by its identity where its component stated one, and results by their place."""

    def __init__(self, cache_root: str, output: Path) -> None:
        """`output` is the folder of the run, which has the results."""
        super().__init__(cache_root)
        self._output = output

    def compute_key(
        self,
        component_name: str,
        image: str,
        full_command: list[str],
        arguments: Any,
        **others: Any,
    ) -> str:
        """The key of a task."""
        by_content = {name: self._by_content(value) for name, value in arguments.items()}
        key: str = super().compute_key(component_name, image, full_command, by_content, **others)
        return key

    def _by_content(self, value: Any) -> Any:
        if not isinstance(value, dsl.Artifact):
            return value
        content = IDENTITY if IDENTITY in value.metadata else "uri"
        named = value.metadata.get(IDENTITY) or self._place(value.uri)
        return {"type": value.schema_title, content: named}

    def _serialize_outputs(self, outputs: dict[str, Any]) -> dict[str, Any]:
        serialized: dict[str, Any] = LocalCache._serialize_outputs(outputs)
        return {name: _with_uris(value, self._place) for name, value in serialized.items()}

    def _deserialize_outputs(self, serialized: dict[str, Any]) -> dict[str, Any]:
        placed = _with_uris(serialized, lambda uri: str(placed_in(self._output, uri)))
        outputs: dict[str, Any] = LocalCache._deserialize_outputs(placed)
        return outputs

    def _place(self, uri: str) -> str:
        path = Path(uri)
        return str(path.relative_to(self._output)) if path.is_relative_to(self._output) else uri


def use_content_cache(root: str, output: Path) -> None:
    """Make kfp.local use such a cache below `root`; call it after `local.init`."""
    # kfp.local has no parameter for it: it keeps the cache of the last root here.
    cache._cache_singleton = ContentCache(root, output)
    cache._cache_singleton_root = root


def placed_in(output: Path, uri: str) -> Path:
    """Where a result lies that a cache names `uri`, in a run's folder of today's path."""
    return output / uri


def _with_uris(value: Any, changed: Callable[[str], str]) -> Any:
    """A copy of a cache's entry with other addresses of artifacts."""
    if isinstance(value, dict):
        own = value.get("uri")
        copy = {name: _with_uris(part, changed) for name, part in value.items()}
        return copy | {"uri": changed(own)} if isinstance(own, str) and own else copy
    return [_with_uris(part, changed) for part in value] if isinstance(value, list) else value
