"""Read what an evaluation wrote."""

import json
from typing import Any

from product1m.artifacts.folder import Artifact


def read_json(artifact: Artifact, name: str) -> Any:
    return json.loads(artifact.file(name).read_text("utf-8"))


def read_list(artifact: Artifact) -> dict[str, list[str]]:
    """The shipped rankings by query id."""
    lines = artifact.file("retrieval_id_list.txt").read_text("utf-8").splitlines()
    return {line.split(",")[0]: line.split(",")[1:] for line in lines}
