"""The pipeline as a cluster takes it: one package, named by git revision and content."""

import hashlib
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from kfp.dsl.base_component import BaseComponent

from components.images import locked_images
from pipelines.graph.catalogue import NAME as CATALOGUE_NAME
from pipelines.graph.catalogue import catalogue_pipeline
from pipelines.graph.drifted import NAME as DRIFT_NAME
from pipelines.graph.drifted import drift_pipeline
from pipelines.graph.parameters import parameter
from pipelines.graph.resources import Platform, Profile, default_profile, training_job
from pipelines.graph.training import NAME, training_pipeline
from product1m.config import RUN_SECTIONS, Config, Preset, load_config
from product1m.errors import PipelineError
from product1m.telemetry.provenance import UNKNOWN, git_revision

PipelineKind = Literal["training", "catalogue", "drift"]
"""The graphs; `drift` is both others, the training only if it is needed."""
NAMES: dict[PipelineKind, str] = {
    "training": NAME,
    "catalogue": CATALOGUE_NAME,
    "drift": DRIFT_NAME,
}
SECTIONS_OF: dict[PipelineKind, tuple[str, ...]] = {
    "training": RUN_SECTIONS,
    "catalogue": ("catalogue", "storage"),
    "drift": (*RUN_SECTIONS, "catalogue"),
}
"""The sections that are parameters of its runs."""
COMPILED_SECTION = "training_job"
"""The section that is not a run parameter: it decides what pods request, so it is compiled in."""


@dataclass(frozen=True)
class Variant:
    """What distinguishes one compiled pipeline from another."""

    preset: Preset
    """Provides the defaults of the parameters."""
    profile: Profile | None = None
    """Sizes of the tasks; the smallest that the preset fits into if not given."""
    cache: bool = True
    work_volume: str = ""
    overrides: tuple[str, ...] = ()
    """`section.key=value`: defaults that differ from the preset's."""
    rerun: tuple[str, ...] = ()
    """Tasks that run although the cache has their results, named as `runs show` does."""
    kind: PipelineKind = "training"

    def for_run(self) -> "Variant":
        """The variant that runs with these overrides share: only those of `training_job` stay.

        All other overrides are parameters of a run and need no version of their own.
        """
        compiled = (text for text in self.overrides if text.startswith(f"{COMPILED_SECTION}."))
        return replace(self, overrides=tuple(compiled))

    def configuration(self) -> Config:
        """Preset and overrides, with what the profile decides for `training_job`."""
        config = load_config(self.preset, list(self.overrides))
        job = training_job(config.training_job, self.profile or default_profile(self.preset))
        return config.model_copy(update={COMPILED_SECTION: job})

    def run_parameters(self) -> dict[str, Any]:
        """The sections in which a run of `for_run()` differs from the compiled defaults."""
        wanted, default = self.configuration(), self.for_run().configuration()
        return {
            name: parameter(wanted, name)
            for name in SECTIONS_OF[self.kind]
            if getattr(wanted, name) != getattr(default, name)
        }


@dataclass(frozen=True)
class Package:
    """A compiled pipeline, pipeline spec and platform spec."""

    pipeline: BaseComponent
    text: str
    """Two YAML documents: the pipeline spec, the platform spec."""
    name: str = NAME
    """Name of the pipeline on the cluster; its versions are packages."""

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def version(self) -> str:
        """`git-<revision>-<content>`, a name that Kubernetes accepts.

        The content is part of it because presets, profiles and images differ at one revision.
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
            pipeline_name=self.name,
            pipeline_display_name=self.name,
            pipeline_version_name=self.version,
            pipeline_version_display_name=self.version,
            namespace=namespace or None,
            include_pipeline_manifest=True,
        )
        return _compiled(
            self.pipeline, kubernetes_manifest_format=True, kubernetes_manifest_options=options
        )


def package(variant: Variant) -> Package:
    """Compile a variant.

    Raises PipelineError if an image is named so that its content could change, or if there is no
    task of a name in `rerun`.
    """
    config = variant.configuration()
    platform = Platform(
        variant.profile or default_profile(variant.preset),
        locked_images(),
        variant.work_volume,
        config.training_job.num_nodes,
    )
    if variant.kind != "training":
        build = catalogue_pipeline if variant.kind == "catalogue" else drift_pipeline
        graph = build(config, platform)
        return Package(graph, _compiled(graph), NAMES[variant.kind])
    pipeline = training_pipeline(config, platform, variant.cache, variant.rerun)
    names = {
        task.task_info.name.replace("-", "_")
        for task in pipeline.pipeline_spec.root.dag.tasks.values()
    }
    unknown = sorted(set(variant.rerun) - names)
    if unknown:
        raise PipelineError(
            f"--rerun {', '.join(unknown)}: no such task; expected {', '.join(sorted(names))}"
        )
    return Package(pipeline, _compiled(pipeline))


def _compiled(pipeline: BaseComponent, **options: Any) -> str:
    """The text, always the same for the same pipeline, and read alike by YAML 1.1 and 1.2."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path), **options)
        documents = list(yaml.safe_load_all(path.read_text("utf-8")))
    return yaml.dump_all(documents, Dumper=_Quoting, sort_keys=True)


class _Quoting(yaml.SafeDumper):
    """Quotes strings that YAML 1.2, which KFP's server reads, takes for a number or a boolean.

    PyYAML writes YAML 1.1, where `12e3` is a string.
    """


_Quoting.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)
_Quoting.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?0[oO]?[0-7_]+$"), list("-+0")
)
_Quoting.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]$"), list("yYnN"))
