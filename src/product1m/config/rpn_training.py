"""Settings of `rpn_training`."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from product1m.config.section import Fraction, Precision, StepConfig

ARCHITECTURE = ("backbone", "fpn_channels", "anchor_ratios", "box_head_dim")
"""Settings that decide which weights the network has."""


class RpnTrainingConfig(StepConfig):
    """Train class-agnostic region proposals on the scenes (paper)."""

    backbone: str = "resnet101"
    """timm model with `features_only`; ResNet-101 as in bottom-up attention (released code)."""
    weights: str = "hub:resnet101.tv_in1k"
    """Initial weights: `none`, `hub:NAME`, `package:efficientnet-lite0`, or a safetensors file,
    local or at `s3://` (ours)."""
    weights_license: str = ""
    """License of these weights, such as `MIT`, for the model card and the gate; empty for the one
    that the package or the hub states, and for a file, whose license is unknown (ours)."""
    trainable_stages: Annotated[int, Field(ge=0, le=5)] = 0
    """Number of backbone stages that train, counted from the last; training them for proposals
    destroys the features that retrieval uses (ours)."""
    instance_weight: NonNegativeFloat = 0.0
    """Weight of a loss that keeps products apart while `trainable_stages` train: a pasted product
    against its source photo, which `background_synthesis.keep_sources` keeps. The trained backbone
    stays only if retrieval by image alone does not fall on held-out scenes, then it is frozen
    (ours)."""
    fpn_channels: PositiveInt = 256
    """Width of the feature pyramid (ours: torchvision's default)."""
    anchor_ratios: tuple[PositiveFloat, ...] = (0.33, 0.5, 1.0, 2.0, 3.0)
    """Height divided by width of the anchors; 0.33 and 3 fit lipsticks and pumps (ours)."""
    short_side_px: PositiveInt = 600
    """Photos are resized to this shorter side (released code)."""
    long_side_px: PositiveInt = 1000
    """Photos are resized to at most this longer side (released code)."""
    num_epochs: PositiveInt = 12
    """Passes over the scenes (ours)."""
    min_steps: NonNegativeInt = 0
    """Minimum number of optimizer steps: few scenes are passed over more often (ours)."""
    warm_start: str = ""
    """Model whose weights training starts from: `models:/NAME/VERSION`, a model folder or the
    folder of a checkpoint; empty to start from `weights` (ours)."""
    warm_share: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Share of the optimizer steps that a training from an earlier model's weights makes (ours)."""
    batch_size: PositiveInt = 16
    """Scenes per optimizer step, over all ranks (ours)."""
    learning_rate: PositiveFloat = 2e-4
    """Peak learning rate of AdamW (ours)."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay, applied to matrices only (ours)."""
    warmup_share: Fraction = 0.05
    """Share of the optimizer steps over which the learning rate rises (ours)."""
    color_jitter: Fraction = 0.1
    """Brightness and contrast of a training scene are scaled by 1 ± this value (ours)."""
    camera_share: Fraction = 0.5
    """Share of the training scenes that are changed as a camera would: uneven and tinted light,
    blur, noise, JPEG (ours)."""
    scale_jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Size of the scenes of a training batch is scaled by 1 ± this value (ours)."""
    cached_views: NonNegativeInt = 0
    """Number of jittered versions of each scene whose feature maps are computed once, for a frozen
    backbone; with 0, scenes are jittered again at every step (ours)."""
    feature_cache_mib: NonNegativeInt = 1024
    """Memory for cached feature maps; if they need more, nothing is cached (ours)."""
    nms_iou: Fraction = 0.7
    """If two proposals overlap with a larger IoU, the one with the lower score is dropped (released
    code)."""
    num_candidates: PositiveInt = 1000
    """Boxes of a pyramid level that enter NMS, best first (ours: torchvision's default)."""
    num_proposals: PositiveInt = 300
    """Maximum number of proposals after NMS (released code)."""
    num_boxes: PositiveInt = 100
    """Proposals that the second stage judges, best first (ours)."""
    box_head_dim: PositiveInt = 256
    """Width of the second stage's two layers (ours; torchvision's default is 1,024)."""
    box_num_epochs: PositiveInt = 4
    """Passes over the scenes that train the second stage, after the proposal network (ours)."""
    num_interiors: NonNegativeInt = 2000
    """Drawn photos of rooms without products that the second stage sees besides the scenes, one for
    every four of them (ours)."""
    precision: Precision = "bf16"
    """Arithmetic of the forward pass; weights stay float32 (ours)."""
    checkpoint_interval_steps: PositiveInt = 500
    """Optimizer steps between two checkpoints (ours)."""
    num_workers: NonNegativeInt = 8
    """Threads that decode the scenes of a batch (ours)."""
