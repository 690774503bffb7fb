"""Every number of the workflow, once: the defaults are the reference run, the paper's scale.

A docstring under a field says what it means and ends with its source: `(paper)`,
`(released code)` or `(ours)`; `docs/reproduction.md` spells the choices out. A preset is a YAML
file that lists only what differs.
"""

import difflib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from product1m.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]
Preset = Literal["reference", "sample"]
Precision = Literal["float32", "bf16"]
Block = Literal["joint", "streams", "image", "text"]


class Section(BaseModel):
    """Keys that belong together. Unknown ones are refused; 12.0 is a fine 12: KFP sends that."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class StepConfig(Section):
    """A step's section."""

    seed: NonNegativeInt = 0
    """Seed of everything random in the step (ours)."""


class StorageConfig(Section):
    """Where bulk data lies; read by the steps that write it."""

    root: str = ""
    """`s3://BUCKET/PREFIX`, or a folder that all steps see: image and feature shards go there under
    their content's name, and an artifact carries its manifest and tables only. Empty: an artifact
    holds its shards (ours)."""


class TrainingJobConfig(Section):
    """The processes that train together, and where; read by the two training steps."""

    num_nodes: PositiveInt = 1
    """Pods that train. One is the step's own; more are those of a Kubeflow Trainer `TrainJob`, and
    the step only starts and follows it (ours)."""
    processes_per_node: PositiveInt = 1
    """One for each GPU of a pod; a profile whose pods have several sets it (ours)."""
    max_restarts: NonNegativeInt = 3
    """How often a node's processes start again from the last checkpoint when one was lost
    (ours)."""
    node_resources: dict[str, str] = {}
    """What each pod of a `TrainJob` requests, as in Kubernetes: `{cpu: "12", memory: 64Gi,
    nvidia.com/gpu: "1"}`. The profile sets it; an own value may name another GPU resource or none
    (ours)."""
    runtime: str = "product1m-torch"
    """`ClusterTrainingRuntime` of the pods: their volumes, account, tolerations (ours)."""
    max_pending_s: PositiveInt = 3600
    """A `TrainJob` whose pods do not all run after this is removed, and the step fails (ours)."""
    max_running_s: PositiveInt = 86_400
    """A `TrainJob` that trains longer is removed, and the step fails (ours)."""


class IngestionConfig(StepConfig):
    """Lists and photos in, item tables out."""

    max_photo_side_px: PositiveInt = 1000
    """Photos are stored with at most this longer side (released code)."""
    min_photo_side_px: PositiveInt = 16
    """A photo with a shorter side is set aside (ours)."""
    max_photo_pixels: PositiveInt = 50_000_000
    """A photo that would decode to more is set aside undecoded: decompression bombs (ours)."""
    max_photo_bytes: PositiveInt = 32 * 1024 * 1024
    """A larger file is set aside (ours)."""
    max_quarantine_share: Fraction = 0.05
    """More than this share of set-aside items of one list stops the step (ours)."""
    dev_share: Fraction = 0.3
    """Share of the queries used as dev where the data set does not say; Product1M's own is 0.29
    (ours)."""
    download_attempts: PositiveInt = 4
    """Tries of a photo that is given by its URL (ours)."""
    download_timeout_s: PositiveFloat = 60.0
    """For one try to have the whole photo, and for a server to say anything (ours)."""
    num_workers: PositiveInt = 8
    """Photos read, downloaded and decoded at once; a download waits most of its time, so take more
    for photos behind URLs (ours)."""
    shard_mib: PositiveInt = 256
    """Largest size of an image shard (ours)."""


class BackgroundSynthesisConfig(StepConfig):
    """Copy-and-paste scenes of products cut out of single-product photos (paper)."""

    num_scenes: PositiveInt = 50_000
    """Scenes to compose, held-out ones included (ours; the paper does not say)."""
    held_out_share: Fraction = 0.1
    """Share of scenes held out; they share no source product with the others (ours)."""
    scene_width_px: PositiveInt = 800
    """Width of a scene (ours)."""
    scene_height_px: PositiveInt = 800
    """Height of a scene (ours)."""
    min_products: PositiveInt = 2
    """Fewest products pasted into a scene (ours)."""
    max_products: PositiveInt = 5
    """Most products pasted into a scene (ours)."""
    min_scale: PositiveFloat = 0.25
    """Smallest longer side of a pasted product, relative to the scene's shorter side (ours)."""
    max_scale: PositiveFloat = 0.65
    """Largest longer side of a pasted product, relative to the scene's shorter side (ours)."""
    max_rotation_deg: NonNegativeFloat = 15.0
    """A pasted product is turned by up to this, either way (ours)."""
    flip_probability: Fraction = 0.0
    """How often a product is mirrored; a pack's lettering argues against it (ours)."""
    max_brightness_change: Fraction = 0.25
    """A pasted product's brightness is scaled by 1 ± this (ours)."""
    edge_softness_px: NonNegativeFloat = 1.0
    """Standard deviation of the blur of a cut-out's edge (ours)."""
    max_occlusion: Fraction = 0.4
    """Of no pasted product more than this share is covered by others (ours)."""
    max_shadow: Fraction = 0.4
    """A pasted product's shadow darkens what lies under it by up to this (ours)."""
    shared_words_share: Fraction = 0.9
    """Share of scenes whose products have words of their titles in common, so that they are mostly
    of one brand, as in 97 % of real multi-product photos (ours)."""
    repeat_share: Fraction = 0.15
    """Share of scenes that show a product twice (ours: what the real lists have)."""
    max_damaged_backgrounds: Fraction = 0.5
    """More than this share of background photos that cannot be decoded stops the step (ours)."""
    grabcut_side_px: PositiveInt = 256
    """Longer side of the photo GrabCut works on (ours)."""
    grabcut_iterations: PositiveInt = 2
    """GrabCut iterations; more change nothing measurable (ours)."""
    grabcut_margin: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
    """Frame of the photo that GrabCut takes for background, relative to its sides (ours)."""
    grabcut_dither: NonNegativeFloat = 3.0
    """Gray levels of noise that keep a backdrop of one exact color from fitting too tightly
    (ours)."""
    min_mask_area: Fraction = 0.05
    """A cut-out that covers less of its photo is rejected (ours)."""
    max_mask_area: Fraction = 0.9
    """A cut-out that covers more of its photo is rejected (ours)."""
    max_border_contact: Fraction = 0.15
    """A cut-out that touches more of the photo's border is rejected (ours)."""
    min_dominant_share: Fraction = 0.75
    """The largest connected part holds at least this share of the mask: one product, and a badge
    or a banner's letters at most (ours)."""
    max_faint_edge: Fraction = 0.5
    """Of a mask's outline no larger share lies where the photo shows no edge: a product of its
    backdrop's color (ours)."""
    max_cutouts: PositiveInt = 50_000
    """Photos GrabCut works on at most; they are drawn at random among the candidates (ours)."""
    set_words: tuple[str, ...] = (
        "套装",
        "套盒",
        "礼盒",
        "组合",
        "件套",
        "两件",
        "三件",
        "四件",
        "全套",
        "set of",
        "gift set",
        "bundle",
    )
    """A title with one of these names several products, so its photo is not cut (ours)."""
    max_title_chars: PositiveInt = 34
    """Length of a composed scene title: what fits 36 tokens with [CLS] and [SEP] (ours)."""
    num_workers: PositiveInt = 2
    """Processes that cut and paste (ours)."""
    shard_mib: PositiveInt = 256
    """Largest size of a scene shard (ours)."""

    @model_validator(mode="after")
    def _bounds_do_not_cross(self) -> "BackgroundSynthesisConfig":
        for name, low, high in (
            ("products", self.min_products, self.max_products),
            ("scale", self.min_scale, self.max_scale),
            ("mask_area", self.min_mask_area, self.max_mask_area),
        ):
            if low > high:
                raise ValueError(f"min_{name} = {low} is above max_{name} = {high}")
        return self


class RpnTrainingConfig(StepConfig):
    """Class-agnostic region proposals, learned from the scenes (paper)."""

    backbone: str = "resnet101"
    """timm model with `features_only`; ResNet-101 as in bottom-up attention (released code)."""
    weights: str = "hub:resnet101.tv_in1k"
    """`none`, `hub:NAME`, `package:efficientnet-lite0`, or a safetensors file, `s3://` or not
    (ours)."""
    trainable_stages: Annotated[int, Field(ge=0, le=5)] = 3
    """Backbone stages that train, counted from the last; 3 is torchvision's default (ours)."""
    fpn_channels: PositiveInt = 256
    """Width of the feature pyramid (ours: torchvision's default)."""
    anchor_ratios: tuple[PositiveFloat, ...] = (0.33, 0.5, 1.0, 2.0, 3.0)
    """Height over width of the anchors; 0.33 and 3 for lipsticks and pumps (ours)."""
    short_side_px: PositiveInt = 600
    """Photos are resized to this shorter side … (released code)."""
    long_side_px: PositiveInt = 1000
    """… unless the longer side would exceed this (released code)."""
    num_epochs: PositiveInt = 12
    """Passes over the synthesized scenes (ours)."""
    batch_size: PositiveInt = 16
    """Scenes a step, over all ranks (ours)."""
    learning_rate: PositiveFloat = 2e-4
    """AdamW's peak rate (ours)."""
    weight_decay: NonNegativeFloat = 1e-4
    """On matrices only (ours)."""
    warmup_share: Fraction = 0.05
    """Share of the steps over which the rate rises (ours)."""
    color_jitter: Fraction = 0.1
    """Brightness and contrast of a training scene are scaled by 1 ± this (ours)."""
    scale_jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """A training batch's scenes are resized by 1 ± this (ours)."""
    cached_views: NonNegativeInt = 0
    """Jittered views of every scene whose maps are computed once, where the backbone is frozen; 0
    jitters anew at every step (ours)."""
    feature_cache_mib: NonNegativeInt = 1024
    """Main memory for them; views that need more are not cached (ours)."""
    nms_iou: Fraction = 0.7
    """Of two proposals whose IoU exceeds this, the weaker is dropped (released code)."""
    num_candidates: PositiveInt = 1000
    """Best boxes of a pyramid level that enter NMS (ours: torchvision's default)."""
    num_proposals: PositiveInt = 300
    """Proposals kept after NMS (released code)."""
    precision: Precision = "bf16"
    """Arithmetic of the forward pass; weights stay float32 (ours)."""
    checkpoint_interval_steps: PositiveInt = 500
    """Steps between two checkpoints (ours)."""
    num_workers: NonNegativeInt = 8
    """Threads that decode a batch's scenes (ours)."""


class FeatureExtractionConfig(StepConfig):
    """Proposals to region features: NMS, RoIAlign, mean (paper)."""

    proposals: Literal["rpn", "grabcut", "whole_photo"] = "rpn"
    """What proposes regions: the trained network (paper), or, to tell what it is worth, GrabCut's
    foreground as one box, or nothing beside the photo itself (ours)."""
    min_regions: PositiveInt = 10
    """Regions kept of every photo where the RPN proposes as many (paper)."""
    max_regions: PositiveInt = 36
    """Most regions kept of a photo (paper)."""
    min_score: Fraction = 0.2
    """Objectness from which a region beyond `min_regions` is kept (released code)."""
    nms_iou: Fraction = 0.7
    """Class-agnostic NMS over the proposals (released code: 0.3, raised until 36 are left)."""
    photo_scales: PositiveInt = 2
    """Sizes at which a photo is encoded, each half the one before; a region is pooled where its
    side comes closest to `canonical_side_px` (ours: a product then looks alike whether it fills
    its photo or shares it with others)."""
    canonical_side_px: PositiveInt = 192
    """The size at which regions are compared (ours)."""
    roi_size: PositiveInt = 7
    """RoIAlign bins a side, averaged afterwards (ours: torchvision's default)."""
    batch_size: PositiveInt = 16
    """Photos of one aspect ratio a forward pass (ours)."""
    precision: Precision = "bf16"
    """Arithmetic of the backbone (ours)."""
    num_workers: NonNegativeInt = 8
    """Threads that decode photos ahead (ours)."""
    shard_mib: PositiveInt = 256
    """Largest size of a feature shard (ours)."""


class CapturePretrainingConfig(StepConfig):
    """The hybrid-stream transformer and its pretext tasks (paper)."""

    text_model: str = "bert-base-chinese"
    """Folder, s3 URI or hub name of a BERT whose vocabulary and weights the text stream takes;
    `scratch` trains a WordPiece vocabulary on the captions (paper: Chinese BERT)."""
    vocabulary_size: PositiveInt = 8000
    """Of a vocabulary trained from scratch (ours)."""
    max_tokens: Annotated[int, Field(ge=3)] = 36
    """Tokens of a title, [CLS] and [SEP] included (released code)."""
    max_regions: PositiveInt = 36
    """Regions of a photo beside the whole image (released code)."""
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
    """Feed-forward width on the text side and in the joint transformer (released code)."""
    visual_ffn_dim: PositiveInt = 1024
    """Feed-forward width on the visual side (released code)."""
    cross_dim: PositiveInt = 512
    """Width of the attention in the cross transformers (released code)."""
    projection_dim: PositiveInt = 512
    """Width of an embedding (released code)."""
    dropout: Fraction = 0.1
    """On residuals and embeddings (released code)."""
    attention_dropout: Fraction = 0.1
    """On attention weights (released code)."""
    relu_projection: bool = False
    """End every projection in a ReLU, as the released code does; cosines then stay in [0, 1]
    (ours: off)."""
    input_skip: bool = True
    """Add linear maps of the pooled raw inputs to the stream outputs (ours)."""
    input_skip_init: PositiveFloat = 0.1
    """Learned factor of the transformer's part beside the skip, at the start (ours)."""
    masked_language_weight: NonNegativeFloat = 1.0
    """Weight of masked language modelling (paper); 0 switches a task off."""
    masked_region_weight: NonNegativeFloat = 1.0
    """Weight of masked region regression (paper)."""
    image_text_matching_weight: NonNegativeFloat = 0.0
    """Weight of image-text matching (paper's ablation; the released code has none)."""
    matching_negatives: Literal["hard", "swap"] = "hard"
    """A title's wrong photo is drawn by its likeness to the title, or evenly (ours)."""
    contrast_weight: NonNegativeFloat = 1.0
    """Weight of the cross-modal contrast (paper)."""
    scene_contrast_weight: NonNegativeFloat = 1.0
    """Weight of the contrast between pasted instances and their sources (ours)."""
    scene_proposal_probability: Fraction = 0.5
    """How often a proposal that overlaps a pasted instance stands for its exact box (ours)."""
    scene_proposal_iou: Fraction = 0.6
    """From this IoU with the exact box (ours)."""
    contrast: Literal["symmetric", "released"] = "symmetric"
    """`symmetric`: InfoNCE across modalities; `released`: both modalities' samples are negatives
    (ours)."""
    temperature: PositiveFloat = 0.07
    """Of the contrasts; learned from there when `learn_temperature` (released code)."""
    learn_temperature: bool = True
    """The symmetric contrast learns its temperature (ours)."""
    mask_probability: Fraction = 0.15
    """Of tokens and of regions (paper)."""
    mask_overlap_iou: Fraction = 1.0
    """Regions that overlap a masked one more are masked with it; 1 for never (released code)."""
    batch_size: PositiveInt = 128
    """Items a step over all ranks, before accumulation (paper, second hand; the script has 64)."""
    scene_batch_size: PositiveInt = 128
    """Pasted instances a step over all ranks, of the batch's items first (ours)."""
    accumulation_steps: PositiveInt = 1
    """Batches whose gradients are added before a step (ours)."""
    num_epochs: PositiveInt = 10
    """Passes over the train items (released code)."""
    learning_rate: PositiveFloat = 1e-4
    """AdamW's peak rate (released code)."""
    text_learning_rate_multiplier: PositiveFloat = 0.1
    """For weights that came from BERT (released code, where it silently does nothing)."""
    weight_decay: NonNegativeFloat = 0.01
    """On matrices only (released code, where the groups are swapped)."""
    warmup_share: Fraction = 0.1
    """Share of the steps over which the rate rises linearly; then it falls to 0 (released code)."""
    max_gradient_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm (released code, there tensor by tensor)."""
    precision: Precision = "bf16"
    """Arithmetic of the forward pass; weights stay float32 (ours)."""
    checkpoint_interval_steps: PositiveInt = 1000
    """Steps between two checkpoints (ours)."""

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


class IndexingConfig(StepConfig):
    """Gallery items to block vectors to a FAISS index."""

    streams: Literal["sum", "concatenation"] = "sum"
    """How the two single-stream embeddings form one block; their product, the first author's
    choice, is always there beside it (ours: sum, as OpenBG-Align does)."""
    text_dim: PositiveInt = 256
    """Width of the character n-gram TF-IDF block after reduction (ours)."""
    text_max_ngram: PositiveInt = 3
    """Longest character n-gram (ours)."""
    text_max_terms: PositiveInt = 100_000
    """Most n-grams counted, the gallery's most frequent ones (ours)."""
    num_training_items: PositiveInt = 65_536
    """Gallery items, drawn at random, that fit the blocks and the index's cells: bounds memory
    (ours)."""
    batch_size: PositiveInt = 256
    """Gallery items embedded and added at once (ours)."""
    factory: str = "IVF1024,SQ8"
    """FAISS factory string. About 4 √items cells: the paper's gallery has 40,033 items; for a
    million take `IVF4096,SQ8`. A byte a dimension costs 0.002 of recall@100 (ours)."""
    probes: PositiveInt = 64
    """Cells visited a query (IVF) or breadth of the search (HNSW); with 64 a query with all its
    weight on one block still finds 0.99 of its true nearest (ours)."""
    num_recall_queries: PositiveInt = 1000
    """Gallery items whose recall@100 against exact search is measured (ours)."""


class EvaluationConfig(StepConfig):
    """Per-instance retrieval, its metrics and its report."""

    depth: PositiveInt = 100
    """Length of a ranking (paper)."""
    instance_nms_iou: Fraction = 0.3
    """Regions that overlap more are one instance (ours)."""
    instance_min_score: Fraction = 0.5
    """Objectness from which a region is an instance (ours)."""
    max_instances: PositiveInt = 8
    """Most instances of a photo; the test list's longest rows have 12 labels, 99.8 % have at most 8
    (ours)."""
    merge: Literal["best_score", "round_robin", "score_sorted", "reciprocal_rank"] = "best_score"
    """How the instances' rankings become one, no item twice: by an item's best score over the
    instances; in turns, the best-scored instance first; by score, each ranking's scaled to 0 … 1;
    or by the sum of 1 / (60 + rank). All are measured, this one ships (ours)."""
    encode_crops: bool = True
    """Also rank with every instance cut out of its photo and encoded at the network's full size, to
    tell what pooling it from the photo loses; the evaluation's most expensive part (ours)."""
    num_timed_queries: PositiveInt = 100
    """Test queries answered one by one to measure how long embedding, search and merging take
    (ours)."""
    num_bootstrap: PositiveInt = 2000
    """Resamples of the queries for an interval (ours)."""
    confidence: Fraction = 0.95
    """Of the intervals (ours)."""
    fused_blocks: Annotated[tuple[Block, ...], Field(min_length=1)] = get_args(Block)
    """Blocks that the shipped ranking may weigh (ours)."""
    fusion_weights: tuple[NonNegativeFloat, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Block weights tried on the dev queries (ours)."""
    num_report_queries: PositiveInt = 40
    """Queries shown with pictures: best, worst and drawn at random (ours)."""

    @model_validator(mode="after")
    def _some_weight(self) -> "EvaluationConfig":
        if not any(self.fusion_weights):
            raise ValueError("fusion_weights: at least one must be above 0")
        return self


class RegistrationConfig(StepConfig):
    """The candidate, its gate and its page in the registry."""

    candidate_model: str = "product1m-candidate"
    """Registered model the pipeline writes (ours)."""
    champion_model: str = "product1m"
    """Registered model a reviewer promotes to (ours)."""
    min_map_at_10: Fraction = 0.0
    """Floor of the shipped ranking's strict mAP@10 (ours)."""
    min_index_recall: Fraction = 0.95
    """Floor of the index's recall@100 against exact search (ours)."""
    min_baseline_lead: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Least lead in strict mAP@10 over each baseline, the paired interval included (ours)."""
    min_served_agreement: Fraction = 0.9
    """Floor of the share of an evaluated first ten that the registered model finds too (ours)."""
    max_map_loss: Fraction = 0.01
    """Largest strict mAP@10 the candidate may lose to the champion, interval included (ours)."""
    max_slice_loss: Fraction = 0.05
    """A slice whose whole interval lies below this loss to the champion fails the gate (ours)."""
    min_slice_queries: PositiveInt = 20
    """Slices with fewer queries are not held against the candidate (ours)."""
    max_leaked_photos: Fraction = 0.0
    """Largest share of train and gallery photos among the queries', relative to the queries
    (ours)."""
    max_dev_photos_in_test: Fraction = 0.05
    """Largest share of test queries whose photo is a dev query's too; 0.04 in the paper's lists
    (ours)."""
    max_quarantine_share: Fraction = 0.05
    """Largest share of set-aside items in any of the lists (ours)."""
    num_pictured_queries: PositiveInt = 10
    """Queries with the largest losses that the version's page shows as pictures (ours)."""
    thumbnail_side_px: NonNegativeInt = 96
    """Longer side of the gallery photos that the version carries for `product1m search`, about
    2 KB each; 0 carries none (ours)."""
    sample_data: bool = False
    """The data is a sample: the version says so and is not for promotion (ours)."""


def _section(value: Any) -> Any:
    return {} if value is None else value


class Config(BaseModel):
    """One section a step, under the step's name, and two that several steps read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ingestion: Annotated[IngestionConfig, BeforeValidator(_section)] = IngestionConfig()
    background_synthesis: Annotated[BackgroundSynthesisConfig, BeforeValidator(_section)] = (
        BackgroundSynthesisConfig()
    )
    rpn_training: Annotated[RpnTrainingConfig, BeforeValidator(_section)] = RpnTrainingConfig()
    feature_extraction: Annotated[FeatureExtractionConfig, BeforeValidator(_section)] = (
        FeatureExtractionConfig()
    )
    capture_pretraining: Annotated[CapturePretrainingConfig, BeforeValidator(_section)] = (
        CapturePretrainingConfig()
    )
    indexing: Annotated[IndexingConfig, BeforeValidator(_section)] = IndexingConfig()
    evaluation: Annotated[EvaluationConfig, BeforeValidator(_section)] = EvaluationConfig()
    registration: Annotated[RegistrationConfig, BeforeValidator(_section)] = RegistrationConfig()
    storage: Annotated[StorageConfig, BeforeValidator(_section)] = StorageConfig()
    training_job: Annotated[TrainingJobConfig, BeforeValidator(_section)] = TrainingJobConfig()


SECTIONS: tuple[str, ...] = tuple(Config.model_fields)
STEPS: tuple[str, ...] = tuple(
    name for name in SECTIONS if isinstance(Config.model_fields[name].default, StepConfig)
)
"""The eight steps in the order of the flow."""


def section_model(section: str) -> type[Section]:
    """The model of a section."""
    model = Config.model_fields[section].annotation
    if not (isinstance(model, type) and issubclass(model, Section)):
        raise ConfigError(f"{section}: not a section; expected one of {', '.join(SECTIONS)}")
    return model


def load_config(preset: Preset = "reference", overrides: Iterable[str] = ()) -> Config:
    """The preset with `section.key=value` overrides; `seed=N` sets the seed of every section.

    Raises ConfigError for an unknown key, naming the nearest valid one, and for a bad value.
    """
    values = preset_values(preset)
    for override in overrides:
        _apply(values, override)
    return parse_config(values)


def preset_values(preset: Preset) -> dict[str, dict[str, Any]]:
    """What a preset's file states, by section: only what differs from the defaults."""
    _check_known(preset, get_args(Preset), "preset")
    text = resources.files("product1m.config").joinpath(f"presets/{preset}.yaml").read_text("utf-8")
    return yaml.safe_load(text) or {}


def parse_config(values: Mapping[str, Any]) -> Config:
    """A Config from plain values; ConfigError names key, value, range and the nearest valid key."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(line) for line in error.errors())) from None


def dump_config(config: Config, path: Path) -> None:
    """Write the effective configuration as YAML that `load` would read back."""
    values = config.model_dump(mode="json")
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "utf-8")


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"{override!r}: expected section.key=value, as in indexing.factory=Flat")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not YAML: {error}") from None
    if key == "seed":
        for step in STEPS:
            values.setdefault(step, {})["seed"] = value
        return
    section, dot, name = key.partition(".")
    if not dot:
        raise ConfigError(
            f"{key!r}: expected section.key with a section of {', '.join(SECTIONS)}, or seed"
        )
    _check_known(section, SECTIONS, "section")
    _check_known(name, tuple(section_model(section).model_fields), f"{section} key")
    values.setdefault(section, {})[name] = value


def _check_known(name: str, known: tuple[str, ...], kind: str) -> None:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ConfigError(f"unknown {kind} {name!r}; did you mean {nearest[0]!r}?")


def _explain(error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        model: type[BaseModel] = section_model(location[0]) if len(location) > 1 else Config
        known = tuple(model.model_fields)
        nearest = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.0)
        return f"{key}: unknown key; did you mean {nearest[0]!r}?"
    return f"{key}: {error['msg']}, got {error['input']!r}"
