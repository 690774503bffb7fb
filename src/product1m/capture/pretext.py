"""The pretext tasks on a batch: one forward pass, one weighted term for each task with a weight."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from product1m.capture.batches import PretrainingBatch, shown
from product1m.capture.in_parts import CaptureInParts
from product1m.capture.losses import (
    contrastive_loss,
    masked_language_loss,
    masked_region_loss,
    matching_loss,
    released_contrastive_loss,
)
from product1m.capture.network import Capture, JointStates, StreamStates
from product1m.training import distributed

MIN_TEMPERATURE = 0.01
"""Lower bound of a learned temperature (ours, as in CLIP)."""


@dataclass(frozen=True)
class PretextTasks:
    """Weights and settings of the tasks; a task with weight 0 is not computed."""

    contrast: float
    masked_language: float
    masked_region: float
    image_text_matching: float
    scene_contrast: float
    contrast_kind: Literal["symmetric", "released"]
    temperature: float
    learn_temperature: bool
    hard_negatives: bool
    """Whether wrong photos are drawn by similarity to the title; otherwise uniformly."""

    @property
    def need_joint(self) -> bool:
        """Whether a task reads the output of the cross and joint transformers."""
        return any(
            (
                self.masked_language,
                self.masked_region,
                self.image_text_matching,
                self.scene_contrast,
            )
        )


def pretext_losses(
    capture: Capture, batch: PretrainingBatch, tasks: PretextTasks, num_parts: int = 1
) -> dict[str, Tensor]:
    """The weighted losses of the tasks whose weight is not 0.

    If memory is short, the network runs over the batch in `num_parts` parts; the losses still
    compare all rows with each other.
    """
    network = capture if num_parts == 1 else CaptureInParts(capture, num_parts)
    states = network.streams(shown(batch), batch.masking.hidden_regions)
    terms: dict[str, Tensor] = {}
    if tasks.contrast:
        terms["contrast"] = tasks.contrast * _contrast(capture, states, batch, tasks)
    if not tasks.need_joint:
        return terms
    joint = network.fuse(states, batch.masking)
    if tasks.masked_language:
        terms["masked_language"] = tasks.masked_language * _masked_language(capture, joint, batch)
    if tasks.masked_region:
        terms["masked_region"] = tasks.masked_region * _masked_region(capture, joint, batch)
    if tasks.image_text_matching:
        loss = _matching(capture, network, states, joint, batch, tasks)
        terms["image_text_matching"] = tasks.image_text_matching * loss
    if tasks.scene_contrast:
        loss = _scene_contrast(states, joint, batch, tasks.temperature)
        terms["scene_contrast"] = tasks.scene_contrast * loss
    return terms


def _contrast(
    capture: Capture,
    states: StreamStates,
    batch: PretrainingBatch,
    tasks: PretextTasks,
) -> Float[Tensor, ""]:
    n = batch.num_items
    embeddings = states.text_embedding[:n], states.image_embedding[:n]
    if tasks.contrast_kind == "released":
        return released_contrastive_loss(*embeddings, batch.groups[:n], tasks.temperature)
    temperature: float | Tensor = tasks.temperature
    if tasks.learn_temperature:
        temperature = capture.log_temperature.exp().clamp(min=MIN_TEMPERATURE)
    return contrastive_loss(*embeddings, batch.groups[:n], temperature)


def _masked_language(
    capture: Capture, joint: JointStates, batch: PretrainingBatch
) -> Float[Tensor, ""]:
    masked = batch.masking.masked_tokens
    scores = capture.heads["masked_language"](
        joint.masked_tokens, capture.text.embedding.word.weight
    )
    return masked_language_loss(scores, batch.pairs.tokens[masked])


def _masked_region(
    capture: Capture, joint: JointStates, batch: PretrainingBatch
) -> Float[Tensor, ""]:
    masked = batch.masking.masked_regions
    predicted = capture.heads["masked_region"](joint.masked_regions)
    return masked_region_loss(predicted, capture.standardization(batch.pairs.features[masked]))


def _matching(
    capture: Capture,
    network: Capture | CaptureInParts,
    states: StreamStates,
    joint: JointStates,
    batch: PretrainingBatch,
    tasks: PretextTasks,
) -> Float[Tensor, ""]:
    """Every title with its own photo, and with a wrong photo, which may be on any rank (ours).

    The other tasks never see wrong pairs; in the released code they are trained on them too.
    """
    n = batch.num_items
    text, image, groups = (
        rows[:n].detach() for rows in (states.text_embedding, states.image_embedding, batch.groups)
    )
    wrong = wrong_photos(
        text,
        distributed.gather_rows(image),
        groups,
        distributed.gather_rows(groups),
        tasks.temperature if tasks.hard_negatives else None,
    )
    titles = (wrong >= 0).nonzero().squeeze(1)
    mismatched = network.fuse(states.paired(titles, wrong[titles], n))
    logits = capture.heads["matching"](
        torch.cat([joint.text_embedding[:n], mismatched.text_embedding]),
        torch.cat([joint.image_embedding[:n], mismatched.image_embedding]),
    )
    return matching_loss(logits, torch.arange(len(logits), device=logits.device) < n)


@torch.no_grad()
def wrong_photos(
    text: Float[Tensor, "B E"],
    image: Float[Tensor, "W E"],
    text_groups: Int[Tensor, " B"],
    image_groups: Int[Tensor, " W"],
    temperature: float | None,
) -> Int[Tensor, " B"]:
    """For every title the row of a photo of another group, or -1 if there is none.

    Drawn in proportion to exp(cosine / temperature), or uniformly if temperature is None.
    """
    same = text_groups[:, None] == image_groups[None, :]
    scores = torch.zeros_like(same, dtype=torch.float32)
    if temperature is not None:
        cosines = (
            functional.normalize(text.float(), dim=1) @ functional.normalize(image.float(), dim=1).T
        )
        scores = cosines / temperature
    lonely = same.all(1)
    shares = scores.masked_fill(same & ~lonely[:, None], -torch.inf).softmax(1)
    return torch.multinomial(shares, 1).squeeze(1).masked_fill(lonely, -1)


def _scene_contrast(
    states: StreamStates,
    joint: JointStates,
    batch: PretrainingBatch,
    temperature: float,
) -> Float[Tensor, ""]:
    """A pasted product with its scene's title finds its source with its own title (ours).

    The mean over the visual stream, both streams concatenated, and the product of the joint tokens.
    """
    kinds = (
        states.image_embedding,
        torch.cat(
            [
                functional.normalize(states.text_embedding.float(), dim=1),
                functional.normalize(states.image_embedding.float(), dim=1),
            ],
            dim=1,
        ),
        joint.text_embedding.float() * joint.image_embedding.float(),
    )
    groups = batch.groups[batch.sources]
    losses = []
    for embedded in kinds:
        views = embedded[len(embedded) - len(batch.sources) :]
        sources = embedded[batch.sources]
        losses.append(contrastive_loss(views, sources, groups, temperature))
    return torch.stack(losses).mean()
