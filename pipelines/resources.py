"""What a step asks of a cluster: one table a profile, applied to tasks in one place."""

from dataclasses import dataclass
from typing import Literal

from kfp.dsl import PipelineTask

from product1m.config import STEPS

Profile = Literal["cpu-small", "gpu-1"]

GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class Resources:
    """Requests of one task; the memory is its limit too, or it could starve its neighbours."""

    cpu: str
    memory: str
    gpus: int = 0


_READER = Resources(cpu="8", memory="16Gi")
_TRAINER = Resources(cpu="12", memory="64Gi", gpus=1)
_RANKER = Resources(cpu="8", memory="32Gi", gpus=1)

PROFILES: dict[Profile, dict[str, Resources]] = {
    "cpu-small": dict.fromkeys(STEPS, Resources(cpu="2", memory="6Gi")),
    "gpu-1": {
        "ingestion": _READER,
        "background_synthesis": Resources(cpu="16", memory="32Gi"),
        "rpn_training": _TRAINER,
        "feature_extraction": _TRAINER,
        "capture_pretraining": _TRAINER,
        "indexing": _RANKER,
        "evaluation": _RANKER,
        "registration": _READER,
    },
}
"""Profile to step to what it asks for: the sample split; the reference run on one GPU (ours)."""


def request(task: PipelineTask, profile: Profile) -> None:
    """Ask for what a profile gives the task's step."""
    resources = PROFILES[profile][task.component_spec.name.replace("-", "_")]
    task.set_cpu_request(resources.cpu)
    task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
    if resources.gpus:
        task.set_accelerator_type(GPU).set_accelerator_limit(resources.gpus)
