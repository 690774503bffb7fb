"""Artifacts that are used together must come from one RPN and one CAPTURE."""

from product1m.artifacts.folder import Artifact
from product1m.errors import ArtifactError


def require_same_rpn(features: Artifact, model: Artifact) -> None:
    """Raise ArtifactError if the regions of two artifacts come from different RPNs."""
    ours, theirs = _rpn(features), _rpn(model)
    if ours != theirs:
        raise ArtifactError(
            f"{features.folder}: made with the RPN of digest {ours}, but {model.folder} was made "
            f"with the RPN of digest {theirs}; run feature_extraction again with the same RPN for "
            "all"
        )


def require_built_with(index: Artifact, capture: Artifact) -> None:
    """Raise ArtifactError if an index was built with another CAPTURE."""
    built_with = index.manifest.inputs.get("capture", "none")
    if built_with != capture.digest:
        raise ArtifactError(
            f"{index.folder}: built with the CAPTURE of digest {built_with}, but {capture.folder} "
            f"has digest {capture.digest}; run indexing again with it"
        )
    _require_same_facts(index, capture)


def require_descends(artifact: Artifact, ancestor: Artifact) -> None:
    """Raise ArtifactError if `artifact` was made from another artifact of `ancestor`'s kind."""
    summary = artifact.manifest.lineage.get(ancestor.manifest.key)
    made_from = summary.digest if summary else "none"
    if made_from != ancestor.digest:
        raise ArtifactError(
            f"{artifact.folder}: made from {ancestor.manifest.key} with digest {made_from}, but "
            f"{ancestor.folder} has digest {ancestor.digest}; run {artifact.manifest.step} again"
        )
    _require_same_facts(artifact, ancestor)


def _require_same_facts(artifact: Artifact, ancestor: Artifact) -> None:
    """Raise ArtifactError if the ancestor's manifest changed since `artifact` was made from it."""
    read = artifact.manifest.lineage.get(ancestor.manifest.key)
    if read is None or read.identity == ancestor.manifest.identity:
        return
    pairs = ((read.config, ancestor.manifest.config), (read.details, ancestor.manifest.details))
    changed = sorted(
        name for old, new in pairs for name in old | new if old.get(name) != new.get(name)
    )
    raise ArtifactError(
        f"{ancestor.folder}: its manifest has other values than when {artifact.folder} was made "
        f"from it ({', '.join(changed)}); run {ancestor.manifest.step} again"
    )


def _rpn(artifact: Artifact) -> str:
    summary = artifact.manifest.lineage.get("rpn_training")
    return summary.digest if summary else "none"
