"""Settings of `capture_pretraining`."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from product1m.config.section import Fraction, Precision, StepConfig

ARCHITECTURE = (
    "text_model",
    "max_tokens",
    "max_regions",
    "hidden_dim",
    "text_layers",
    "visual_layers",
    "cross_layers",
    "joint_layers",
    "text_heads",
    "visual_heads",
    "text_ffn_dim",
    "visual_ffn_dim",
    "cross_dim",
    "projection_dim",
    "relu_projection",
    "input_skip",
)
"""Settings that decide which weights the network has and what they mean."""


class CapturePretrainingConfig(StepConfig):
    """Train the hybrid-stream transformer with its pretext tasks (paper)."""

    text_model: str = "bert-base-chinese"
    """Folder, `s3://` prefix or hub name of a BERT that gives the text stream its vocabulary and
    initial weights; `scratch` trains a WordPiece vocabulary on the captions (paper: Chinese
    BERT)."""
    text_model_license: str = ""
    """License of the text model's weights, such as `MIT`, for the model card and the gate; empty
    for the one that the README.md in its folder states (ours)."""
    vocabulary_size: PositiveInt = 8000
    """Size of a vocabulary trained from scratch (ours)."""
    max_tokens: Annotated[int, Field(ge=3)] = 36
    """Maximum number of tokens of a title, including [CLS] and [SEP] (released code)."""
    max_regions: PositiveInt = 36
    """Maximum number of regions of a photo, in addition to the whole image (released code)."""
    hidden_dim: PositiveInt = 768
    """Width of every transformer (released code)."""
    text_layers: NonNegativeInt = 4
    """Layers of the text transformer (paper)."""
    visual_layers: NonNegativeInt = 4
    """Layers of the visual transformer (paper)."""
    cross_layers: NonNegativeInt = 4
    """Layers of the cross transformers (paper)."""
    joint_layers: NonNegativeInt = 4
    """Layers of the joint transformer (paper; the released code has 6)."""
    text_heads: PositiveInt = 12
    """Attention heads of the text transformer (released code)."""
    visual_heads: PositiveInt = 8
    """Attention heads of the visual, cross and joint transformers (released code)."""
    text_ffn_dim: PositiveInt = 3072
    """Feed-forward width of the text side and the joint transformer (released code)."""
    visual_ffn_dim: PositiveInt = 1024
    """Feed-forward width of the visual side (released code)."""
    cross_dim: PositiveInt = 512
    """Width of the attention in the cross transformers (released code)."""
    projection_dim: PositiveInt = 512
    """Width of an embedding (released code)."""
    dropout: Fraction = 0.1
    """Dropout of residuals and embeddings (released code)."""
    attention_dropout: Fraction = 0.1
    """Dropout of attention weights (released code)."""
    relu_projection: bool = False
    """Apply a ReLU after every projection as the released code does, so that cosines lie in [0, 1]
    (ours: off)."""
    input_skip: bool = True
    """Add linear maps of the pooled inputs to the outputs of the streams (ours)."""
    input_skip_init: PositiveFloat = 0.1
    """Initial value of the learned factor of the transformer's output, which is added to the skip
    (ours)."""
    masked_language_weight: NonNegativeFloat = 1.0
    """Weight of masked language modeling (paper); 0 turns a task off."""
    masked_region_weight: NonNegativeFloat = 1.0
    """Weight of masked region regression (paper)."""
    image_text_matching_weight: NonNegativeFloat = 0.0
    """Weight of image-text matching (paper's ablation; the released code has none)."""
    matching_negatives: Literal["hard", "swap"] = "hard"
    """How the wrong photo of a title is drawn: `hard` by its similarity to the title, `swap`
    uniformly (ours)."""
    contrast_weight: NonNegativeFloat = 1.0
    """Weight of the cross-modal contrastive loss (paper)."""
    scene_contrast_weight: NonNegativeFloat = 1.0
    """Weight of the contrastive loss between pasted products and their source photos (ours)."""
    scene_proposal_probability: Fraction = 0.5
    """Probability that a proposal that overlaps a pasted product replaces its exact box (ours)."""
    scene_proposal_iou: Fraction = 0.6
    """Minimum IoU of such a proposal with the exact box (ours)."""
    contrast: Literal["symmetric", "released"] = "symmetric"
    """`symmetric`: InfoNCE across modalities; `released`: samples of both modalities are negatives
    (ours)."""
    temperature: PositiveFloat = 0.07
    """Temperature of the contrastive losses; the initial value if `learn_temperature` is true
    (released code)."""
    learn_temperature: bool = True
    """Whether the symmetric contrastive loss learns its temperature (ours)."""
    mask_probability: Fraction = 0.15
    """Probability that a token or a region is masked (paper)."""
    mask_overlap_iou: Fraction = 1.0
    """Regions that overlap a masked region with a larger IoU are masked too; 1 turns this off
    (released code)."""
    batch_size: PositiveInt = 128
    """Items per batch over all ranks, before accumulation (paper, second hand; the script has
    64)."""
    scene_batch_size: PositiveInt = 40
    """Pasted products per batch over all ranks, those of the batch's items first; each of the
    others also costs its source photo, which is embedded too (ours, decision 16)."""
    accumulation_steps: PositiveInt = 1
    """Batches whose gradients are added before an optimizer step (ours)."""
    num_epochs: PositiveInt = 10
    """Passes over the train items (released code)."""
    min_steps: NonNegativeInt = 0
    """Minimum number of optimizer steps: few items are passed over more often (ours)."""
    warm_start: str = ""
    """Model whose weights training starts from: `models:/NAME/VERSION`, a model folder or the
    folder of a checkpoint; empty to start from BERT or at random (ours)."""
    warm_share: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Share of the optimizer steps that a training from an earlier model's weights makes (ours)."""
    learning_rate: PositiveFloat = 1e-4
    """Peak learning rate of AdamW (released code)."""
    text_learning_rate_multiplier: PositiveFloat = 0.1
    """Factor of the learning rate for weights that come from BERT (released code, where it has no
    effect)."""
    weight_decay: NonNegativeFloat = 0.01
    """Weight decay, applied to matrices only (released code, where the groups are swapped)."""
    warmup_share: Fraction = 0.1
    """Share of the optimizer steps over which the learning rate rises linearly; then it falls to 0
    (released code)."""
    max_gradient_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm (released code, there for each tensor)."""
    precision: Precision = "bf16"
    """Arithmetic of the forward pass; weights stay float32 (ours)."""
    checkpoint_interval_steps: PositiveInt = 1000
    """Optimizer steps between two checkpoints (ours)."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "CapturePretrainingConfig":
        for name, dim, heads in (
            ("text_heads", self.hidden_dim, self.text_heads),
            ("visual_heads", self.hidden_dim, self.visual_heads),
            ("visual_heads", self.cross_dim, self.visual_heads),
        ):
            if dim % heads:
                raise ValueError(f"{name}: {heads} heads do not divide a width of {dim}")
        return self
