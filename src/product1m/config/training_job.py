"""Settings of `training_job`."""

from pydantic import Field, NonNegativeInt, PositiveInt

from product1m.config.section import Section


class TrainingJobConfig(Section):
    """The processes that train together; used by the two training steps."""

    num_nodes: PositiveInt = 1
    """Pods that train. With 1, the step's own pod trains; with more, the step starts a Kubeflow
    Trainer `TrainJob` and follows it (ours)."""
    processes_per_node: PositiveInt = 1
    """Training processes per pod, one for each GPU (ours)."""
    max_restarts: NonNegativeInt = 3
    """How often the processes of a node restart from the last checkpoint after a failure (ours)."""
    node_resources: dict[str, str] = Field(default={})
    """Resources that each pod of a `TrainJob` requests, as in Kubernetes: `{cpu: "12",
    memory: 64Gi, nvidia.com/gpu: "1"}`. The profile sets it; set it yourself for another GPU
    resource or none (ours)."""
    runtime: str = "product1m-torch"
    """`ClusterTrainingRuntime` of the pods; it sets their volumes, service account and
    tolerations (ours)."""
    max_pending_s: PositiveInt = 3600
    """If the pods of a `TrainJob` do not all run after this time, it is deleted and the step fails
    (ours)."""
    max_running_s: PositiveInt = 86_400
    """A `TrainJob` that trains longer is deleted and the step fails (ours)."""
