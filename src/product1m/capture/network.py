"""CAPTURE: hybrid-stream transformer over a title and the regions of a photo (paper)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from product1m.artifacts.folder import Artifact
from product1m.capture.blocks import (
    Dropouts,
    LayerSizes,
    Packing,
    initialize,
    rows_of_first,
)
from product1m.capture.cross import CrossTransformer
from product1m.capture.embeddings import Standardization
from product1m.capture.heads import (
    InputSkip,
    MaskedLanguageHead,
    MaskedRegionHead,
    MatchingHead,
    Projection,
)
from product1m.capture.joint import JointTransformer
from product1m.capture.masking import Masking
from product1m.capture.pairs import Pairs, collate
from product1m.capture.streams import TextStream, VisualStream
from product1m.capture.tokens import TitleTokenizer
from product1m.config import CapturePretrainingConfig
from product1m.data.regions import Regions
from product1m.errors import ArtifactError
from product1m.training import distributed

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class StreamStates:
    """Outputs of the two streams for a batch."""

    text: Float[Tensor, "P D"]
    text_packing: Packing
    regions: Float[Tensor, "K D"]
    region_packing: Packing
    text_embedding: Float[Tensor, "B E"]
    image_embedding: Float[Tensor, "B E"]

    def paired(
        self, titles: Int[Tensor, " M"], photos: Int[Tensor, " M"], num_rows: int
    ) -> "StreamStates":
        """The titles of some rows with photos among the first `num_rows` rows of all ranks."""
        text_packing = Packing.from_padding(self.text_packing.padding[titles])
        padding = self.region_packing.padding[:num_rows]
        regions = self.region_packing.unpack(self.regions)[:num_rows]
        missing = distributed.largest(padding.shape[1]) - padding.shape[1]
        padding = functional.pad(padding, (0, missing), value=True)
        regions = functional.pad(regions, (0, 0, 0, missing))
        region_packing = Packing.from_padding(distributed.gather_rows(padding)[photos])
        return StreamStates(
            text_packing.pack(self.text_packing.unpack(self.text)[titles]),
            text_packing,
            region_packing.pack(distributed.gather_rows(regions)[photos]),
            region_packing,
            self.text_embedding[titles],
            distributed.gather_rows(self.image_embedding[:num_rows])[photos],
        )


@dataclass(frozen=True)
class JointStates:
    """Outputs of the joint transformer, where they are read."""

    masked_tokens: Float[Tensor, "M D"]
    """Hidden states of the masked tokens, sample after sample."""
    masked_regions: Float[Tensor, "N D"]
    """Hidden states of the masked regions, sample after sample."""
    text_embedding: Float[Tensor, "B E"]
    image_embedding: Float[Tensor, "B E"]


class Capture(nn.Module):
    """The network with its heads; `build_capture` makes its parts."""

    def __init__(
        self,
        *,
        text: TextStream,
        visual: VisualStream,
        cross: CrossTransformer,
        joint: JointTransformer,
        projections: dict[str, Projection],
        skips: dict[str, InputSkip],
        heads: dict[str, nn.Module],
        feature_dim: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.standardization = Standardization(feature_dim)
        self.text, self.visual, self.cross, self.joint = text, visual, cross, joint
        self.projections = nn.ModuleDict(projections)
        self.skips = nn.ModuleDict(skips)
        self.heads = nn.ModuleDict(heads)
        self.log_temperature = nn.Parameter(torch.tensor(float(np.log(temperature))))

    def streams(
        self, pairs: Pairs, hidden_regions: Bool[Tensor, "B R"] | None = None
    ) -> StreamStates:
        """Both streams; the mean feature replaces the features of `hidden_regions`."""
        text_packing, region_packing = (
            Packing.from_padding(pairs.text_padding),
            Packing.from_padding(pairs.region_padding),
        )
        features = self.standardization(region_packing.pack(pairs.features))
        if hidden_regions is not None:
            features = features.masked_fill(region_packing.pack(hidden_regions)[:, None], 0.0)
        words = self.text.embedding.word(text_packing.pack(pairs.tokens))
        text = self.text(words, text_packing)
        regions = self.visual(features, region_packing.pack(pairs.places), region_packing)
        text_embedding = self.projections["stream_text"](text[rows_of_first(text_packing)])
        first = rows_of_first(region_packing)
        image_embedding = self.projections["stream_image"](regions[first])
        if self.skips:
            text_embedding = self.skips["text"](text_embedding, _mean_word(words, text_packing))
            image_embedding = self.skips["image"](image_embedding, features[first])
        return StreamStates(
            text, text_packing, regions, region_packing, text_embedding, image_embedding
        )

    def fuse(self, states: StreamStates, masking: Masking | None = None) -> JointStates:
        """Cross and joint transformers over both streams; without `masking` nothing is masked."""
        packings = states.text_packing, states.region_packing
        masked = (
            (masking.masked_tokens, masking.masked_regions)
            if masking
            else tuple(torch.zeros_like(packing.padding) for packing in packings)
        )
        read = [_with_first(mask) for mask in masked]
        text, regions = self.cross(states.text, packings[0], states.regions, packings[1])
        text, regions = self.joint(text, packings[0], regions, packings[1], *read)
        text_packing, region_packing = (Packing.from_padding(~mask) for mask in read)
        return JointStates(
            text[text_packing.pack(masked[0])],
            regions[region_packing.pack(masked[1])],
            self.projections["joint_text"](text[rows_of_first(text_packing)]),
            self.projections["joint_image"](regions[rows_of_first(region_packing)]),
        )


def _mean_word(words: Float[Tensor, "P D"], packing: Packing) -> Float[Tensor, "B D"]:
    """Mean word embedding between [CLS] and [SEP]; zero for an empty title."""
    lengths = (~packing.padding).sum(1, keepdim=True)
    places = torch.arange(packing.padding.shape[1], device=lengths.device)
    ordinary = (places > 0) & (places < lengths - 1)  # [B, T]
    total = (packing.unpack(words) * ordinary[:, :, None]).sum(1)
    return total / ordinary.sum(1, keepdim=True).clamp(min=1)


def _with_first(masked: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """The positions that are read: the first of every sample, and the masked ones."""
    read = masked.clone()
    read[:, 0] = True
    return read


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes and parts of the network; each field is the setting of the same name."""

    max_tokens: int
    max_regions: int
    hidden_dim: int
    projection_dim: int
    cross_dim: int
    text_layers: int
    visual_layers: int
    cross_layers: int
    joint_layers: int
    text_heads: int
    visual_heads: int
    text_ffn_dim: int
    visual_ffn_dim: int
    dropout: float
    attention_dropout: float
    relu_projection: bool
    input_skip: bool
    input_skip_init: float
    temperature: float
    """Initial value of a learned temperature."""


def build_capture(
    sizes: NetworkSizes, heads: Collection[str], vocabulary_size: int, feature_dim: int
) -> Capture:
    """The network with random weights from the global random state.

    `heads` names its prediction heads: some of `masked_language`, `masked_region`, `matching`.
    """
    D, E = sizes.hidden_dim, sizes.projection_dim
    dropouts = Dropouts(sizes.dropout, sizes.attention_dropout)
    skips = {"text": D, "image": feature_dim} if sizes.input_skip else {}
    text, visual = _streams(sizes, vocabulary_size, feature_dim, dropouts)
    cross, joint = _both_streams(sizes, dropouts)
    capture = Capture(
        text=text,
        visual=visual,
        cross=cross,
        joint=joint,
        projections={
            name: Projection(D, E, sizes.relu_projection)
            for name in ("stream_text", "stream_image", "joint_text", "joint_image")
        },
        skips={name: InputSkip(dim, E, sizes.input_skip_init) for name, dim in skips.items()},
        heads=_heads(sizes, heads, vocabulary_size, feature_dim),
        feature_dim=feature_dim,
        temperature=sizes.temperature,
    )
    capture.apply(initialize)
    return capture


def _streams(
    sizes: NetworkSizes, vocabulary_size: int, feature_dim: int, dropouts: Dropouts
) -> tuple[TextStream, VisualStream]:
    text = LayerSizes(sizes.text_layers, sizes.text_heads, sizes.text_ffn_dim, dropouts)
    visual = LayerSizes(sizes.visual_layers, sizes.visual_heads, sizes.visual_ffn_dim, dropouts)
    return (
        TextStream(vocabulary_size, sizes.max_tokens, sizes.hidden_dim, text),
        VisualStream(feature_dim, sizes.hidden_dim, visual),
    )


def _both_streams(
    sizes: NetworkSizes, dropouts: Dropouts
) -> tuple[CrossTransformer, JointTransformer]:
    heads, dim = sizes.visual_heads, sizes.hidden_dim
    text = LayerSizes(sizes.cross_layers, heads, sizes.text_ffn_dim, dropouts)
    visual = LayerSizes(sizes.cross_layers, heads, sizes.visual_ffn_dim, dropouts)
    joint = LayerSizes(sizes.joint_layers, heads, sizes.text_ffn_dim, dropouts)
    return (
        CrossTransformer(dim, sizes.cross_dim, text, visual),
        JointTransformer(dim, sizes.max_tokens, sizes.max_regions, joint),
    )


def _heads(
    sizes: NetworkSizes, names: Collection[str], vocabulary_size: int, feature_dim: int
) -> dict[str, nn.Module]:
    """Prediction heads, made in a fixed order."""
    heads: dict[str, nn.Module] = {}
    if "masked_language" in names:
        heads["masked_language"] = MaskedLanguageHead(sizes.hidden_dim, vocabulary_size)
    if "masked_region" in names:
        heads["masked_region"] = MaskedRegionHead(sizes.hidden_dim, feature_dim)
    if "matching" in names:
        heads["matching"] = MatchingHead(sizes.projection_dim)
    return heads


@dataclass(frozen=True)
class Embeddings:
    """Four embeddings of every pair, not normalized."""

    joint_text: Float32[np.ndarray, "n E"]
    joint_image: Float32[np.ndarray, "n E"]
    stream_text: Float32[np.ndarray, "n E"]
    stream_image: Float32[np.ndarray, "n E"]


class LoadedCapture:
    """A trained network with its tokenizer, ready to embed."""

    def __init__(self, capture: Capture, tokenizer: TitleTokenizer, sizes: NetworkSizes) -> None:
        self.capture = capture
        self.tokenizer = tokenizer
        self.sizes = sizes

    def embed(
        self, captions: Sequence[str], regions: Sequence[Regions], batch_size: int = 64
    ) -> Embeddings:
        """Embed titles with their photos, in their order; a pair does not depend on the others.

        Pairs of similar lengths share a batch, which keeps padding short.
        """
        titles = self.tokenizer.encode(captions, self.sizes.max_tokens)
        order = sorted(range(len(titles)), key=lambda i: (len(regions[i]), len(titles[i])))
        shape = (4, len(titles), self.sizes.projection_dim)
        embedded = np.zeros(shape, np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            pairs = collate(
                [titles[i] for i in rows], [regions[i] for i in rows], self.sizes.max_regions
            )
            embedded[:, rows] = self._embed(pairs)
        return Embeddings(*embedded)

    @torch.inference_mode()
    def _embed(self, pairs: Pairs) -> Float32[np.ndarray, "4 B E"]:
        self.capture.eval()
        device = next(self.capture.parameters()).device
        states = self.capture.streams(pairs.to(device))
        joint = self.capture.fuse(states)
        stacked = torch.stack(
            [
                joint.text_embedding,
                joint.image_embedding,
                states.text_embedding,
                states.image_embedding,
            ]
        )
        return np.asarray(stacked.float().cpu().numpy())


def network_sizes(config: CapturePretrainingConfig) -> NetworkSizes:
    """The sizes in a configuration section."""
    names = [field.name for field in fields(NetworkSizes)]
    return NetworkSizes(**{name: getattr(config, name) for name in names})


def heads_for(config: CapturePretrainingConfig) -> set[str]:
    """The prediction heads of the tasks that have a weight."""
    weights = {
        "masked_language": config.masked_language_weight,
        "masked_region": config.masked_region_weight,
        "matching": config.image_text_matching_weight,
    }
    return {name for name, weight in weights.items() if weight}


def load_capture(artifact: Artifact) -> LoadedCapture:
    """The network in an artifact of `capture_pretraining`, on this process's device."""
    config = CapturePretrainingConfig.model_validate(artifact.manifest.config)
    sizes = network_sizes(config)
    details = artifact.manifest.details
    tokenizer = TitleTokenizer.load(artifact)
    vocabulary_size, feature_dim = int(details["vocabulary_size"]), int(details["feature_dim"])
    capture = build_capture(sizes, heads_for(config), vocabulary_size, feature_dim)
    path = artifact.file(WEIGHTS)
    try:
        capture.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ArtifactError(
            f"{path}: not the weights that its manifest describes ({error}); "
            "run capture_pretraining again"
        ) from error
    return LoadedCapture(capture.to(distributed.device()).eval(), tokenizer, sizes)
