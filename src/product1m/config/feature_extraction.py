"""Settings of `feature_extraction`."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from product1m.config.section import Fraction, Precision, StepConfig


class FeatureExtractionConfig(StepConfig):
    """Turn proposals into region features: NMS, RoIAlign, mean (paper)."""

    proposals: Literal["rpn", "grabcut", "whole_photo"] = "rpn"
    """Where regions come from: the trained network (paper), or, to measure what it adds, GrabCut's
    foreground as one box, with the `grabcut_*` settings of the RPN's scenes, or only the whole
    photo (ours)."""
    min_regions: PositiveInt = 10
    """Regions kept of every photo if there are as many proposals (paper)."""
    max_regions: PositiveInt = 36
    """Maximum number of regions of a photo (paper)."""
    min_score: Fraction = 0.2
    """Minimum detector score of the regions beyond the first `min_regions` (released code)."""
    nms_iou: Fraction = 0.7
    """IoU threshold of the class-agnostic NMS over the proposals (released code: 0.3, raised until
    36 are left)."""
    photo_scales: PositiveInt = 2
    """Number of sizes at which a photo is encoded, each half of the one before. A region is pooled
    from the size at which its side is closest to `canonical_side_px` (ours: a product then looks
    the same whether it fills its photo or shares it)."""
    canonical_side_px: PositiveInt = 192
    """Side length at which regions are compared (ours)."""
    roi_size: PositiveInt = 7
    """RoIAlign bins per side, averaged afterwards (ours: torchvision's default)."""
    batch_size: PositiveInt = 16
    """Photos of one aspect ratio per forward pass (ours)."""
    precision: Precision = "bf16"
    """Arithmetic of the backbone (ours)."""
    ocr: Literal["off", "photo", "boxes"] = "off"
    """Read what is printed in the photos of gallery and queries, for the block `ocr`: not at all,
    whole photos, or of queries each box by itself, which reads small products better. What it
    costs is in `ocr.md` (ours)."""
    ocr_photo_side_px: PositiveInt = 736
    """Longer side to which a photo is enlarged or reduced before it is read as a whole (ours)."""
    ocr_box_side_px: PositiveInt = 640
    """The same for a box that is read by itself (ours)."""
    ocr_max_boxes: PositiveInt = 8
    """Maximum number of boxes that are read in a photo (ours)."""
    ocr_min_score: Fraction = 0.5
    """Minimum score of a line; wrong readings often have 0.7 to 0.8, but rarely the letters of
    another product (ours: RapidOCR's default)."""
    ocr_provider: Literal["cpu", "cuda"] = "cpu"
    """Where onnxruntime runs; `cuda` needs the package onnxruntime-gpu (ours)."""
    ocr_num_workers: NonNegativeInt = 0
    """Photos read at the same time, each on one thread; 0 for as many as the container has CPUs
    (ours)."""
    ocr_cache: str = ""
    """Folder or `s3://` prefix that keeps the lines of photos by their content, so that a second
    run reads only new photos; empty for none (ours)."""
    crop_encoder: str = ""
    """Encodes each product cut out of its photo, for the block `crop`: empty for none; `backbone`
    for the RPN's own; `timm:NAME` or `hub:OWNER/NAME` for an image encoder from a hub; or a folder,
    a safetensors file or an `s3://` prefix with one of timm, transformers or OpenCLIP. Which to
    take: `encoders.md` (ours)."""
    crop_encoder_license: str = ""
    """License of the encoder's weights; empty for the one that its folder names (ours)."""
    crop_adaptation: bool = False
    """Also encode train photos and products pasted in scenes: a linear map of the vectors is
    learned from them and used if it finds more of the sources of held-out scenes (ours)."""
    crop_max_boxes: PositiveInt = 8
    """Maximum number of boxes of a query that are encoded (ours)."""
    crop_cache: str = ""
    """Folder or `s3://` prefix that keeps the vectors of photos by their content, so that a second
    run encodes only new photos; empty for none (ours)."""
    gallery_points: NonNegativeInt = 250
    """Maximum number of points (local features, SIFT) of a gallery photo, used to check the first
    answers; 250 take 34 KB, and the colors of the photo 5 KB. 0 turns points off, for queries too
    (ours)."""
    gallery_points_side_px: PositiveInt = 400
    """Longer side to which a larger gallery photo is reduced before its points are looked for: it
    shows one product (ours)."""
    query_points: PositiveInt = 1500
    """Maximum number of points of a query photo, which shows many products (ours)."""
    query_points_side_px: PositiveInt = 640
    """The same as `gallery_points_side_px` for a query photo; at 1,000 px it takes twice the time
    and finds no more of 100 real packs (ours)."""
    num_workers: NonNegativeInt = 8
    """Threads that decode photos in advance (ours)."""
    shard_mib: PositiveInt = 256
    """Maximum size of a feature shard (ours)."""
