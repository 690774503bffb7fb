"""What a container image holds, from the lock of its packages."""

import re
from importlib import metadata
from pathlib import Path

from tests.support.paths import ROOT

LOCKS = ROOT / "docker" / "locks"


def pins(path: Path) -> dict[str, str]:
    """Package to version."""
    found = re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+)", path.read_text(), re.MULTILINE)
    return dict(found)


def normalized(name: str) -> str:
    return re.sub(r"[_.]+", "-", name.lower())


def lock(target: str) -> dict[str, str]:
    return pins(LOCKS / f"{target}.txt")


def absent_modules(target: str) -> list[str]:
    """Modules of this environment that come from packages an image does not have."""
    held = set(lock(target)) | set(lock("executor")) | {"product1m"}
    return [
        module
        for module, packages in metadata.packages_distributions().items()
        if module.isidentifier() and not {normalized(name) for name in packages} & held
    ]
