"""The class-agnostic region proposal network: torchvision's RPN over a feature pyramid (paper).

A second stage (`box_head`, ours) decides which of its proposals are products.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from product1m.artifacts.folder import Artifact
from product1m.artifacts.manifest import MANIFEST
from product1m.config import RpnTrainingConfig
from product1m.data.photos import Photo
from product1m.detection.anchor_sampling import AnchorSampler
from product1m.detection.backbone import LITE0, Backbone
from product1m.detection.box_head import BoxHead
from product1m.detection.canvas import Canvas, make_canvas
from product1m.detection.libraries import (
    AnchorGenerator,
    FeaturePyramidNetwork,
    ImageList,
    LastLevelMaxPool,
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
    nms,
)
from product1m.errors import ArtifactError
from product1m.training import distributed
from product1m.training.memory import in_parts

MODEL = "model.safetensors"
BACKBONE = "backbone."
"""Prefix of the backbone's weights in that file."""
WITHOUT_BACKBONE = "backbone_from"
"""Key in the manifest if the file lacks the backbone's weights: the installed package that has
them."""
ANCHOR_STRIDES = 8
"""An anchor's side in strides of its level (released code's detector library, torchvision)."""

ANCHORS_PER_IMAGE, POSITIVE_SHARE = 256, 0.5
"""Number of anchors per image in the losses, and the largest share of positive ones among them
(ours: torchvision's defaults)."""

NUM_JUDGEMENTS = 2
"""Passes of the second stage over a photo's boxes, each where the last one moved them (cascade
R-CNN with one head; ours)."""

Maps = list[Float[Tensor, "B C H_s W_s"]]


@dataclass(frozen=True)
class Proposals:
    """Boxes that a network proposes on one canvas, best first."""

    boxes_xyxy: Float[Tensor, "P 4"]
    """Pixels of the canvas, clipped to the photo on it."""
    scores: Float[Tensor, " P"]
    """Detector scores in 0 … 1."""


@dataclass(frozen=True)
class NetworkSettings:
    """Architecture of a proposal network and the photo size that it is trained for.

    The section `rpn_training` of the configuration explains each value.
    """

    backbone: str
    trainable_stages: int
    fpn_channels: int
    anchor_ratios: tuple[float, ...]
    nms_iou: float
    num_candidates: int
    num_proposals: int
    num_boxes: int
    box_head_dim: int
    short_side_px: int
    long_side_px: int

    @classmethod
    def from_config(cls, config: RpnTrainingConfig) -> "NetworkSettings":
        """The settings in a configuration section."""
        return cls(
            backbone=config.backbone,
            trainable_stages=config.trainable_stages,
            fpn_channels=config.fpn_channels,
            anchor_ratios=config.anchor_ratios,
            nms_iou=config.nms_iou,
            num_candidates=config.num_candidates,
            num_proposals=config.num_proposals,
            num_boxes=config.num_boxes,
            box_head_dim=config.box_head_dim,
            short_side_px=config.short_side_px,
            long_side_px=config.long_side_px,
        )


class ProposalNetwork(nn.Module):
    """Backbone, feature pyramid, RPN, and the second stage on the backbone's maps.

    The pyramid starts at stride 8, because products in scenes and in customers' photos are at least
    a tenth as long as the photo's side (ours).
    """

    def __init__(self, settings: NetworkSettings, weights: str) -> None:
        super().__init__()
        backbone = Backbone(settings.backbone, weights, settings.trainable_stages)
        self.backbone = backbone
        self.short_side_px, self.long_side_px = settings.short_side_px, settings.long_side_px
        self.fpn = FeaturePyramidNetwork(
            backbone.channels, settings.fpn_channels, LastLevelMaxPool()
        )
        strides = [*backbone.strides, 2 * backbone.strides[-1]]
        anchors = AnchorGenerator(
            sizes=tuple((ANCHOR_STRIDES * stride,) for stride in strides),
            aspect_ratios=(settings.anchor_ratios,) * len(strides),
        )
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(settings.fpn_channels, len(settings.anchor_ratios)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=ANCHORS_PER_IMAGE,
            positive_fraction=POSITIVE_SHARE,
            pre_nms_top_n=dict.fromkeys(("training", "testing"), settings.num_candidates),
            post_nms_top_n=dict.fromkeys(("training", "testing"), settings.num_proposals),
            nms_thresh=settings.nms_iou,
        )
        self.rpn.fg_bg_sampler = AnchorSampler(ANCHORS_PER_IMAGE, POSITIVE_SHARE)
        self.num_boxes = settings.num_boxes
        self.box_head = BoxHead(backbone.channels, backbone.strides, settings.box_head_dim)

    @property
    def feature_dim(self) -> int:
        """F, the width of a region vector."""
        return self.backbone.feature_dim

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.mean.device

    def canvas(self, photo: Photo, reduction: int = 1) -> Canvas:
        """The photo at the size this network was trained for, divided by `reduction`."""
        return make_canvas(photo, self.short_side_px // reduction, self.long_side_px // reduction)

    def forward(self, photos: UInt8[Tensor, "B 3 H W"]) -> Maps:
        """The backbone's maps, finest first."""
        maps: Maps = self.backbone(photos)
        return maps

    def losses(self, maps: Maps, boxes_xyxy: Sequence[Float[Tensor, "K 4"]]) -> dict[str, Tensor]:
        """Objectness and box regression on sampled anchors; `boxes_xyxy` are a canvas's products.

        torchvision's `forward` would also decode and suppress proposals, which training never uses.
        """
        return self.losses_in_parts(lambda rows: [level[rows] for level in maps], boxes_xyxy, 1)

    def losses_in_parts(
        self,
        maps: Callable[[slice], Maps],
        boxes_xyxy: Sequence[Float[Tensor, "K 4"]],
        num_parts: int,
    ) -> dict[str, Tensor]:
        """`losses`, with predictions for one of `num_parts` parts of the canvases at a time.

        `maps` computes the maps of some of the canvases.
        """

        def predict(rows: slice) -> tuple[Tensor, Tensor, list[Tensor]]:
            levels = maps(rows)
            frames = [(1, 1)] * len(boxes_xyxy[rows])
            objectness, deltas, anchors, _ = self._predict(levels, self.pyramid(levels), frames)
            return objectness, deltas, anchors

        parts = in_parts(predict, len(boxes_xyxy), num_parts)
        objectness, deltas = (
            torch.cat([part[0] for part in parts]),
            torch.cat([part[1] for part in parts]),
        )
        anchors = [photo for part in parts for photo in part[2]]
        targets = [{"boxes": boxes} for boxes in boxes_xyxy]
        labels, matched = self.rpn.assign_targets_to_anchors(anchors, targets)
        regression = self.rpn.box_coder.encode(matched, anchors)
        means = self.rpn.compute_loss(objectness, deltas, labels, regression)
        num_sampled = self.rpn.fg_bg_sampler.num_sampled
        objectness_loss, box_loss = (distributed.weigh(mean, num_sampled) for mean in means)
        return {"objectness": objectness_loss, "boxes": box_loss}

    def propose(self, maps: Maps, inner_px: Sequence[tuple[int, int]]) -> list[Proposals]:
        """Boxes on each canvas with the second stage's scores, best first.

        `inner_px` is (height, width) of the photo on it. The second stage judges the best
        `num_boxes` proposals, and then, where it moved them, once more.
        """
        proposals = [
            Proposals(photo.boxes_xyxy[: self.num_boxes], photo.scores[: self.num_boxes])
            for photo in self.first_stage(maps, inner_px)
        ]
        for _ in range(NUM_JUDGEMENTS):
            proposals = self._judged(maps, proposals, inner_px)
        return proposals

    def _judged(
        self, maps: Maps, proposals: Sequence[Proposals], inner_px: Sequence[tuple[int, int]]
    ) -> list[Proposals]:
        """The boxes moved and scored by the second stage, after NMS."""
        boxes = [photo.boxes_xyxy for photo in proposals]
        features = self.box_head.features(maps, boxes)
        own = torch.split(features, [len(photo) for photo in boxes])
        refined = map(self.box_head.refine, own, boxes, inner_px)
        return [self._distinct(Proposals(*photo)) for photo in refined]

    def _distinct(self, proposals: Proposals) -> Proposals:
        """What NMS keeps of a photo's boxes, best first."""
        kept = nms(proposals.boxes_xyxy, proposals.scores, self.rpn.nms_thresh)
        return Proposals(proposals.boxes_xyxy[kept], proposals.scores[kept])

    def first_stage(self, maps: Maps, inner_px: Sequence[tuple[int, int]]) -> list[Proposals]:
        """The RPN's proposals on each canvas, with its objectness for scores."""
        pyramid = self.pyramid(maps)
        objectness, deltas, anchors, per_level = self._predict(maps, pyramid, inner_px)
        decoded = self.rpn.box_coder.decode(deltas, anchors).view(len(inner_px), -1, 4)
        boxes, scores = self.rpn.filter_proposals(decoded, objectness, list(inner_px), per_level)
        # Suppress across levels too: torchvision does it within each level only.
        return [self._distinct(Proposals(*photo)) for photo in zip(boxes, scores, strict=True)]

    def pyramid(self, maps: Maps) -> Maps:
        """The maps as a feature pyramid with one more, coarser level, in float32.

        Anchors have the pyramid's data type.
        """
        named = {str(level): level_map for level, level_map in enumerate(maps)}
        return [level.float() for level in self.fpn(named).values()]

    def canvas_px(self, maps: Maps) -> tuple[int, int]:
        """Height and width of the canvases whose maps these are."""
        height, width = (self.backbone.strides[0] * side for side in maps[0].shape[2:])
        return height, width

    def _predict(
        self, maps: Maps, pyramid: Maps, inner_px: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor, list[Tensor], list[int]]:
        """Objectness logits, box deltas, anchors, and the number of anchors of every level."""
        logits, deltas = self.rpn.head(pyramid)
        height, width = self.canvas_px(maps)
        frame = ImageList(maps[0].new_empty(1).expand(1, height, width), list(inner_px))
        anchors = self.rpn.anchor_generator(frame, pyramid)
        per_level = [level[0].numel() for level in logits]
        flat, flat_deltas = concat_box_prediction_layers(logits, deltas)
        return flat.float(), flat_deltas.float(), anchors, per_level


def load_rpn(artifact: Artifact) -> ProposalNetwork:
    """The trained network of an `rpn_training` artifact, ready to propose."""
    package = str(artifact.manifest.details.get(WITHOUT_BACKBONE, ""))
    if package not in ("", LITE0):
        raise ArtifactError(
            f"{artifact.folder / MANIFEST}: {WITHOUT_BACKBONE}: expected {LITE0!r}, got "
            f"{package!r}; this version has no such weights"
        )
    network = ProposalNetwork(network_settings(artifact), weights=package or "none")
    path = artifact.file(MODEL)
    try:
        stored = load_file(path)
        if package:
            stored |= {f"{BACKBONE}{n}": t for n, t in network.backbone.state_dict().items()}
        network.load_state_dict(stored)
    except RuntimeError as error:
        raise ArtifactError(f"{path}: does not fit its manifest's configuration: {error}") from None
    return _made_ready(network)


def frozen_copy(network: ProposalNetwork) -> ProposalNetwork:
    """A copy that only proposes, and does not change while the original trains."""
    return _made_ready(copy.deepcopy(network))


def _made_ready(network: ProposalNetwork) -> ProposalNetwork:
    network.requires_grad_(False)
    network.backbone.fold_batch_norms()
    network.to(memory_format=torch.channels_last)
    return network.eval().to(distributed.device())


def network_settings(artifact: Artifact) -> NetworkSettings:
    """Architecture and photo size of the network of an `rpn_training` artifact."""
    try:
        config = RpnTrainingConfig.model_validate(artifact.manifest.config)
    except ValidationError as error:
        raise ArtifactError(
            f"{artifact.folder / MANIFEST}: this version cannot read its configuration "
            f"({error}); run rpn_training again"
        ) from error
    return NetworkSettings.from_config(config)
