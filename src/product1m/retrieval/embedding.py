"""A photo with its title as one vector: normalized blocks side by side.

The gallery is stored unweighted and the weights scale the blocks of the query, so that one index
serves every choice of weights: the inner product is the weighted sum of the blocks' cosines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float32
from safetensors.numpy import load_file, save_file

from product1m.artifacts.folder import Artifact
from product1m.capture.network import LoadedCapture, load_capture
from product1m.config import Block
from product1m.data.regions import Regions
from product1m.data.vectors import normalize
from product1m.errors import RetrievalError
from product1m.retrieval.crop_block import CROP, CropBlock
from product1m.retrieval.printed_text import PrintedTextEncoder
from product1m.retrieval.reduction import Reductions
from product1m.retrieval.text import TextEncoder

FUSABLE: tuple[str, ...] = get_args(Block)
"""Blocks that may have a weight; the first two come from CAPTURE. An index without printed text has
no `ocr`, and one without encoded crops no `crop`."""
OCR = "ocr"
FIRST_AUTHOR = "stream_product"
"""Only the first author's ranking uses this block; it is not in the index."""
BLOCKS = (*FUSABLE, FIRST_AUTHOR)
"""The blocks of a query's vector, in this order; an item's vector lacks the last."""
STANDARDIZATION = "image_block.safetensors"

Streams = Literal["sum", "concatenation"]


@dataclass(frozen=True)
class BlockLayout:
    """The place of each block in a vector."""

    widths: Mapping[str, int]

    @property
    def dim(self) -> int:
        """Width of a whole vector."""
        return sum(self.widths.values())

    def available(self, blocks: Sequence[str]) -> tuple[str, ...]:
        """Those of the given blocks that the vector has; RetrievalError if it has none of them."""
        available = tuple(block for block in blocks if block in self.widths)
        if not available:
            raise RetrievalError(
                f"evaluation.fused_blocks: the index has none of {', '.join(blocks)}; its blocks "
                f"are {', '.join(self.widths)}. The block ocr needs feature_extraction.ocr, the "
                "block crop feature_extraction.crop_encoder"
            )
        return available

    def columns(self, block: str) -> slice:
        """The columns of a block."""
        names = list(self.widths)
        start = sum(self.widths[name] for name in names[: names.index(block)])
        return slice(start, start + self.widths[block])

    def scale(self, weights: Mapping[str, float]) -> Float32[np.ndarray, " D"]:
        """One factor per column: the weight of its block, or 0 if `weights` does not name it."""
        unknown = sorted(set(weights) - set(self.widths))
        if unknown:
            raise RetrievalError(
                f"weights for {', '.join(unknown)}; the index has the blocks "
                f"{', '.join(self.widths)}"
            )
        factors = [weights.get(name, 0.0) for name in self.widths]
        return np.repeat(np.array(factors, np.float32), list(self.widths.values()))


@dataclass(frozen=True)
class ImageStandardization:
    """Mean and standard deviation of the gallery's whole-photo features, per dimension."""

    mean: Float32[np.ndarray, " F"]
    deviation: Float32[np.ndarray, " F"]

    @classmethod
    def fit(cls, features: Float[np.ndarray, "n F"]) -> "ImageStandardization":
        """Fit to a sample of the gallery; a constant dimension is only centered."""
        wide = features.astype(np.float64)
        deviation = wide.std(axis=0)
        deviation[deviation < 1e-6] = 1.0
        return cls(wide.mean(axis=0).astype(np.float32), deviation.astype(np.float32))

    def save(self, folder: Path) -> None:
        """Write as safetensors."""
        save_file({"mean": self.mean, "deviation": self.deviation}, folder / STANDARDIZATION)

    @classmethod
    def load(cls, artifact: Artifact) -> "ImageStandardization":
        """Read what `save` wrote into an index artifact."""
        return cls(**load_file(artifact.file(STANDARDIZATION)))


class BlockEncoder:
    """Encodes captions and views as blocks, in the same way for gallery items and queries.

    A view is a whole photo or one of its boxes, with the regions inside it.
    """

    def __init__(
        self,
        capture: LoadedCapture,
        standardization: ImageStandardization,
        text: TextEncoder,
        streams: Streams,
        printed: PrintedTextEncoder | None = None,
        reductions: Reductions | None = None,
        crop: CropBlock | None = None,
    ) -> None:
        """`printed` encodes printed text; None if the gallery's was not read.

        `crop` is None if nothing was cut out of the gallery's photos and encoded. Without
        `reductions`, blocks keep their width.
        """
        self.reductions = reductions or Reductions()
        self.capture = capture
        self.printed = printed
        self.crop = crop
        self.standardization = standardization
        self.text = text
        self.streams = streams

    @classmethod
    def load(cls, index: Artifact, capture: Artifact) -> "BlockEncoder":
        """The encoder that built an index, with its CAPTURE."""
        return cls(
            load_capture(capture),
            ImageStandardization.load(index),
            TextEncoder.load(index),
            index.manifest.details["streams"],
            PrintedTextEncoder.load(index),
            Reductions.load(index),
            CropBlock.load(index),
        )

    def encode(
        self, captions: Sequence[str], views: Sequence[Regions], *, items: bool = False
    ) -> dict[str, Float32[np.ndarray, "n W"]]:
        """Every block of every view; `views[i]` belongs to `captions[i]`.

        With `items`, the views are gallery items, and the block `ocr` of an item includes its
        title. A query's title is about all its products, so the block `ocr` of a box has only the
        box's own lines.
        """
        tokens = self.capture.embed(captions, views)
        raw = np.stack([view.features[0] for view in views]).astype(np.float32)
        image = (raw - self.standardization.mean) / self.standardization.deviation
        blocks = {
            "joint": normalize(tokens.joint_text * tokens.joint_image),
            "streams": stream_block(tokens.stream_text, tokens.stream_image, self.streams),
            "image": normalize(image),
            "text": self.text.encode(captions),
            "stream_product": normalize(
                normalize(tokens.stream_text) * normalize(tokens.stream_image)
            ),
        }
        if self.printed is not None:
            printed = [list(view.lines.texts) for view in views]
            if items:
                texts = [[*lines, title] for lines, title in zip(printed, captions, strict=True)]
                blocks[OCR] = self.printed.encode_items(texts)
            else:
                blocks[OCR] = self.printed.encode(printed)
        if self.crop is not None:
            blocks[CROP] = self.crop.encode(views, items=items)
        ordered = {name: blocks[name] for name in BLOCKS if name in blocks}
        return self.reductions.apply(ordered)

    def vectors(
        self, captions: Sequence[str], views: Sequence[Regions], *, items: bool = False
    ) -> Float32[np.ndarray, "n D"]:
        """The blocks of `encode` side by side, unweighted; for `items` only those of an index."""
        blocks = self.encode(captions, views, items=items)
        return concatenate(blocks, FUSABLE if items else BLOCKS)


def concatenate(
    blocks: Mapping[str, Float32[np.ndarray, "n W"]], names: Sequence[str] = BLOCKS
) -> Float32[np.ndarray, "n D"]:
    """Some blocks side by side in their fixed order."""
    ordered = [blocks[name] for name in names if name in blocks]
    return np.ascontiguousarray(np.concatenate(ordered, axis=1))


def stream_block(
    text: Float[np.ndarray, "n P"], image: Float[np.ndarray, "n P"], streams: Streams
) -> Float32[np.ndarray, "n W"]:
    """The two single-stream tokens as one block of unit length.

    The cosine of sums also compares the photo of one item with the title of the other, which the
    contrastive task has made similar.
    """
    if streams == "sum":
        return normalize(normalize(text) + normalize(image))
    return normalize(np.concatenate([normalize(text), normalize(image)], axis=1))
