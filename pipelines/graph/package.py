"""The pipeline as a cluster takes it: one package, named by git revision and content."""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from kfp.dsl.base_component import BaseComponent

from components.images import locked_images
from pipelines.graph.resources import Platform, Profile, default_profile, training_job
from pipelines.graph.training import NAME, training_pipeline
from product1m.config import Preset, load_config
from product1m.telemetry.provenance import UNKNOWN, git_revision


@dataclass(frozen=True)
class Variant:
    """What a compiled pipeline differs in; configuration is a parameter of its runs."""

    preset: Preset
    """The sections that are the parameters' defaults."""
    profile: Profile | None = None
    """Sizes of the tasks; what the preset needs at least if not given."""
    cache: bool = True
    work_volume: str = ""
    overrides: tuple[str, ...] = ()
    """`section.key=value`: defaults that are not the preset's."""


@dataclass(frozen=True)
class Package:
    """A compiled pipeline, pipeline spec and platform spec."""

    pipeline: BaseComponent
    text: str
    """Two YAML documents: the pipeline spec, the platform spec."""

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def version(self) -> str:
        """`git-<revision>-<content>`, a name Kubernetes takes.

        The content is in it because a preset, a profile and the images differ at one revision.
        """
        revision, _, changes = git_revision().partition("+")
        name = "no-git" if revision == UNKNOWN else f"git-{revision[:12]}"
        return f"{name}{'-changed' if changes else ''}-{self.digest[:10]}"

    @property
    def images(self) -> dict[str, str]:
        """Image by executor."""
        executors: dict[str, Any] = next(yaml.safe_load_all(self.text))["deploymentSpec"][
            "executors"
        ]
        return {name: executor["container"]["image"] for name, executor in executors.items()}

    def manifests(self, namespace: str = "") -> str:
        """The same as `Pipeline` and `PipelineVersion` resources, for `kubectl apply`."""
        options = KubernetesManifestOptions(
            pipeline_name=NAME,
            pipeline_display_name=NAME,
            pipeline_version_name=self.version,
            pipeline_version_display_name=self.version,
            namespace=namespace or None,
            include_pipeline_manifest=True,
        )
        return _compiled(
            self.pipeline, kubernetes_manifest_format=True, kubernetes_manifest_options=options
        )


def package(variant: Variant) -> Package:
    """Compile a variant; PipelineError if an image is named so that its content could change."""
    profile = variant.profile or default_profile(variant.preset)
    config = load_config(variant.preset, list(variant.overrides))
    job = training_job(config.training_job, profile)
    config = config.model_copy(update={"training_job": job})
    platform = Platform(profile, locked_images(), variant.work_volume, job.num_nodes)
    pipeline = training_pipeline(config, platform, variant.cache)
    return Package(pipeline, _compiled(pipeline))


def _compiled(pipeline: BaseComponent, **how: Any) -> str:
    """Without KFP's comments, in which the keys of a default come in another order every time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path), **how)
        lines = path.read_text("utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))
