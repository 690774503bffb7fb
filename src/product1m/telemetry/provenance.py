"""Where a result comes from: code revision and pipeline run; `unknown` if not known."""

import os
import subprocess
from pathlib import Path

import product1m

UNKNOWN = "unknown"


def git_revision() -> str:
    """`$PRODUCT1M_GIT_REVISION`, else the checkout's commit, with `+changes` if files differ.

    `unknown` if the package is not part of a git checkout.
    """
    named = os.environ.get("PRODUCT1M_GIT_REVISION")
    if named:
        return named
    package = Path(product1m.__file__).parent
    # A virtual environment may be inside a repository without belonging to it.
    if not _git(package, "ls-files", "--error-unmatch", "__init__.py"):
        return UNKNOWN
    revision = _git(package, "rev-parse", "HEAD")
    changed = _git(package, "status", "--porcelain", "--untracked-files=no")
    return f"{revision}+changes" if changed else revision


def pipeline_run() -> str:
    """`$PRODUCT1M_PIPELINE_RUN`, which a cluster sets from the pod's label `pipeline/runid`.

    `unknown` for a step that was started by hand.
    """
    return os.environ.get("PRODUCT1M_PIPELINE_RUN") or UNKNOWN


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:  # git is not installed
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
