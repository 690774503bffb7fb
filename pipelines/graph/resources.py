"""What a step requests from a cluster: one table per profile, applied to tasks in one place.

kfp.local ignores all of this silently, so only a package for a cluster carries it, and tests read
it from there. Configuration is never set here: the cluster's cache key does not contain the
environment, which therefore carries only addresses, credentials, names and what to monitor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kfp import kubernetes
from kfp.dsl import PipelineTask

from components.images import image_of, locked_images
from product1m import __version__
from product1m.config import STEPS, Preset, TrainingJobConfig
from product1m.errors import PipelineError
from product1m.registry.roles import CATALOGUES
from product1m.serving.signatures import KEYS, PUBLIC_KEY

Profile = Literal["laptop", "cpu-small", "gpu-1", "gpu-8"]

GPU = "nvidia.com/gpu"
USER_ID = 10001
"""The user of the images (docker/Dockerfile), who owns no files."""
CONFIG_MAP = "product1m"
"""Where a run finds its addresses and its MLflow experiment."""
MLFLOW_SECRET = "product1m-mlflow"  # noqa: S105 a name
"""`MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD` of the pipeline's account."""
S3_SECRET = "product1m-s3"  # noqa: S105 a name
"""`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`; optional where pods have a cloud role."""
CATALOGUE_SECRET = "product1m-mlflow-catalogue"  # noqa: S105 a name
"""The same of the account that refreshes the catalogue, for its task alone."""
KEYS_MAP = "product1m-reviewer-keys"
"""ConfigMap with the reviewers' public key, `reviewer.pub`: a catalogue is built with a champion
that one of them signed."""
KEYS_FOLDER = "/etc/product1m"
CREDENTIALS = {
    MLFLOW_SECRET: ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    S3_SECRET: ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
}
"""Secret to the keys that a step needs."""
EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"
REQUIRED_SETTINGS = ("MLFLOW_TRACKING_URI", EXPERIMENT)
"""Keys of the ConfigMap. The pipeline's account may write to this one experiment only."""
OPTIONAL_SETTINGS = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
WORK_FOLDER = "/work"
SHARED_MEMORY = "/dev/shm"  # noqa: S108 a mount point
TRAINING_STEPS = ("rpn_training", "capture_pretraining")
"""The steps that keep checkpoints between attempts."""


@dataclass(frozen=True)
class Resources:
    """What one task requests and what it may use at most."""

    cpu: str
    memory: str
    timeout_s: int
    """An attempt that takes longer is ended."""
    gpus: int = 0
    shared_memory: str = "1Gi"
    """Size of /dev/shm, through which data loaders pass batches; counts as memory."""
    cpu_request: str = ""
    memory_request: str = ""
    """Requests; equal to the limits unless given, so that no task starves its neighbors."""

    @property
    def requests(self) -> dict[str, str]:
        """Requests by Kubernetes' names, with GPUs."""
        return {
            "cpu": self.cpu_request or self.cpu,
            "memory": self.memory_request or self.memory,
            **self._gpus(),
        }

    @property
    def limits(self) -> dict[str, str]:
        """Limits by Kubernetes' names, with GPUs."""
        return {"cpu": self.cpu, "memory": self.memory, **self._gpus()}

    def _gpus(self) -> dict[str, str]:
        return {GPU: str(self.gpus)} if self.gpus else {}


_HOUR = 3600
_SMALL = Resources(cpu="2", memory="6Gi", timeout_s=1 * _HOUR)
_LAPTOP = Resources(
    cpu="2", memory="6Gi", timeout_s=2 * _HOUR, cpu_request="100m", memory_request="512Mi"
)
_READER = Resources(cpu="8", memory="16Gi", timeout_s=12 * _HOUR)
_PASTER = Resources(cpu="16", memory="32Gi", timeout_s=12 * _HOUR, shared_memory="4Gi")
_TRAINER = Resources(cpu="12", memory="64Gi", timeout_s=72 * _HOUR, gpus=1, shared_memory="16Gi")
_NODE = Resources(cpu="96", memory="512Gi", timeout_s=24 * _HOUR, gpus=8, shared_memory="128Gi")
_RANKER = Resources(cpu="8", memory="32Gi", timeout_s=12 * _HOUR, gpus=1, shared_memory="4Gi")
_FOLLOWER = Resources(cpu="1", memory="4Gi", timeout_s=26 * _HOUR)
"""Resources of a training step whose nodes are the pods of a TrainJob (ours)."""
_LISTER = Resources(
    cpu="2", memory="4Gi", timeout_s=1 * _HOUR, cpu_request="100m", memory_request="256Mi"
)
"""Resources of `data_state`, which lists files, and parses long listings on both CPUs (ours)."""
_REGISTRAR = Resources(cpu="2", memory="8Gi", timeout_s=1 * _HOUR)

_GPU_1 = {
    "data_state": _LISTER,
    "ingestion": _READER,
    "background_synthesis": _PASTER,
    "rpn_training": _TRAINER,
    "feature_extraction": _TRAINER,
    "capture_pretraining": _TRAINER,
    "indexing": _RANKER,
    "evaluation": _RANKER,
    "registration": _REGISTRAR,
    "catalogue": _RANKER,
}
PROFILES: dict[Profile, dict[str, Resources]] = {
    "laptop": dict.fromkeys((*STEPS, "catalogue"), _LAPTOP) | {"data_state": _LISTER},
    "cpu-small": dict.fromkeys((*STEPS, "catalogue"), _SMALL) | {"data_state": _LISTER},
    "gpu-1": _GPU_1,
    "gpu-8": _GPU_1 | dict.fromkeys(TRAINING_STEPS, _NODE),
}
"""Profile to step to resources: the sample split on a node of 2 to 4 CPUs and 8 GiB; the same with
guaranteed resources; the reference run on one GPU; the same with training on all GPUs of a node
(ours)."""

NUM_RETRIES = 2
"""How often Argo starts a step's pod again that was deleted or lost with its node. With KFP's own
default policy, `OnError`, a step that exits with an error is not started again: the step itself
retries after temporary errors (a lost MLflow, S3 or network), see `product1m.jobs.retries`."""
BACKOFF_S = 10
"""Before the first retry; doubled for each further one. Argo waits this long before it reports a
failed step, retried or not."""
MAX_BACKOFF_S = 300


def default_profile(preset: Preset) -> Profile:
    """The smallest profile that a preset fits into."""
    return "gpu-1" if preset == "reference" else "laptop"


def training_job(job: TrainingJobConfig, profile: Profile) -> TrainingJobConfig:
    """The job with what the profile decides: processes and resources of a node, unless given."""
    node = max((PROFILES[profile][step] for step in TRAINING_STEPS), key=lambda step: step.gpus)
    decided = {"processes_per_node": max(1, node.gpus), "node_resources": node.limits}
    given = job.model_fields_set
    return job.model_copy(
        update={name: value for name, value in decided.items() if name not in given}
    )


@dataclass(frozen=True)
class Platform:
    """How the pipeline's tasks run on a cluster."""

    profile: Profile
    images: Mapping[str, str] = field(default_factory=locked_images)
    work_volume: str = ""
    """Volume claim that keeps checkpoints between attempts; `USER_ID` must have write access."""
    num_nodes: int = 1
    """Pods that train. Several are those of a TrainJob, and the step's own pod is small."""

    def __post_init__(self) -> None:
        if self.num_nodes > 1 and not self.work_volume:
            raise PipelineError(
                f"training_job.num_nodes={self.num_nodes}: the nodes share their inputs and "
                "checkpoints on a volume; name its claim: --work-volume CLAIM"
            )

    def apply(self, task: PipelineTask) -> None:
        """Set a task's image and everything else that a cluster needs to know about it."""
        step = task.component_spec.name.replace("-", "_")
        resources = PROFILES[self.profile][step]
        if self.num_nodes > 1 and step in TRAINING_STEPS:
            resources = _FOLLOWER
        image = image_of(step, self.images)
        task.set_container_image(image)
        task.set_env_variable("PRODUCT1M_IMAGE", image)
        _request(task, resources)
        _survive(task, resources)
        _describe(task, step)
        _connect(task, step)
        kubernetes.set_image_pull_policy(task, "IfNotPresent")
        kubernetes.set_security_context(
            task, run_as_user=USER_ID, run_as_group=USER_ID, run_as_non_root=True
        )
        if self.work_volume and step in TRAINING_STEPS:
            kubernetes.mount_pvc(task, pvc_name=self.work_volume, mount_path=WORK_FOLDER)
            task.set_env_variable("PRODUCT1M_WORK", WORK_FOLDER)


def _request(task: PipelineTask, resources: Resources) -> None:
    task.set_cpu_request(resources.requests["cpu"]).set_cpu_limit(resources.cpu)
    task.set_memory_request(resources.requests["memory"]).set_memory_limit(resources.memory)
    kubernetes.empty_dir_mount(
        task, "shm", SHARED_MEMORY, medium="Memory", size_limit=resources.shared_memory
    )
    if resources.gpus:
        task.set_accelerator_type(GPU).set_accelerator_limit(resources.gpus)
        kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")


def _survive(task: PipelineTask, resources: Resources) -> None:
    """Retries for lost pods, and a timeout for steps that hang."""
    kubernetes.set_timeout(task, resources.timeout_s)
    task.set_retry(
        NUM_RETRIES,
        backoff_duration=f"{BACKOFF_S}s",
        backoff_factor=2.0,
        backoff_max_duration=f"{MAX_BACKOFF_S}s",
    )


def _describe(task: PipelineTask, step: str) -> None:
    """Labels, by which network policies and `kubectl` select."""
    kubernetes.add_pod_label(task, "app.kubernetes.io/name", "product1m")
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", step.replace("_", "-"))
    kubernetes.add_pod_label(task, "app.kubernetes.io/version", __version__)


def _connect(task: PipelineTask, step: str) -> None:
    """Addresses and credentials by reference, the run's id, what to monitor."""
    is_catalogue = step == "catalogue"
    required = [name for name in REQUIRED_SETTINGS if not (is_catalogue and name == EXPERIMENT)]
    if is_catalogue:  # its account may write to an experiment of its own only
        task.set_env_variable(EXPERIMENT, CATALOGUES)
        kubernetes.use_config_map_as_volume(task, KEYS_MAP, KEYS_FOLDER)
        task.set_env_variable(KEYS, f"{KEYS_FOLDER}/{PUBLIC_KEY}")
    for names, optional in ((required, False), (OPTIONAL_SETTINGS, True)):
        kubernetes.use_config_map_as_env(
            task, CONFIG_MAP, {name: name for name in names}, optional=optional
        )
    for secret, names in CREDENTIALS.items():
        own = CATALOGUE_SECRET if is_catalogue and secret == MLFLOW_SECRET else secret
        kubernetes.use_secret_as_env(
            task, own, {name: name for name in names}, optional=secret == S3_SECRET
        )
    kubernetes.use_field_path_as_env(
        task, "PRODUCT1M_PIPELINE_RUN", "metadata.labels['pipeline/runid']"
    )
    task.set_env_variable("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
