"""What a training node requests in the end: the profile's, merged as Kubeflow Trainer merges."""

import pytest

from pipelines.graph.package import Variant
from pipelines.graph.resources import Profile
from product1m.jobs.kubernetes_api import OwnPod
from product1m.jobs.train_job import train_job
from tests.support.manifests.build import build
from tests.support.manifests.policies import pod_templates

POD = OwnPod("step-pod", "registry.example/capture@sha256:5e1f", [], {})


def merged(runtime: dict[str, object], job: dict[str, object]) -> dict[str, str]:
    """Trainer 2.3 merges key by key: what the job does not name stays as the runtime has it."""
    return {key: str(value) for key, value in {**runtime, **job}.items()}


@pytest.mark.parametrize(
    ("profile", "overrides", "expected"),
    [
        ("laptop", (), {"cpu": "2", "memory": "6Gi"}),
        ("gpu-1", (), {"cpu": "12", "memory": "64Gi", "nvidia.com/gpu": "1"}),
        ("gpu-8", (), {"cpu": "96", "memory": "512Gi", "nvidia.com/gpu": "8"}),
        (
            "gpu-8",
            ("training_job.node_resources={cpu: '8', memory: 32Gi, amd.com/gpu: '4'}",),
            {"cpu": "8", "memory": "32Gi", "amd.com/gpu": "4"},
        ),
    ],
)
def test_a_node_requests_what_the_profile_says_and_no_gpu_of_the_runtime(
    profile: Profile, overrides: tuple[str, ...], expected: dict[str, str]
) -> None:
    wanted = ("training_job.num_nodes=2", *overrides)
    variant = Variant("reference", profile, work_volume="work", overrides=wanted)
    job = variant.configuration().training_job
    body = train_job("capture-pretraining-1", POD, job, ["product1m", "capture-pretraining"])
    (runtime,) = pod_templates(build("base/training"))
    given = body["spec"]["trainer"]["resourcesPerNode"]
    for kind in ("requests", "limits"):
        assert merged(runtime.containers[0]["resources"][kind], given[kind]) == expected
