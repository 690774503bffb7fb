"""The pretext tasks on a batch: one forward pass, one weighted term a task that is switched on."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from product1m.capture.batches import PretrainingBatch, shown
from product1m.capture.losses import (
    contrastive_loss,
    masked_language_loss,
    masked_region_loss,
    matching_loss,
    released_contrastive_loss,
)
from product1m.capture.network import Capture, JointStates, StreamStates
from product1m.config import CapturePretrainingConfig
from product1m.training import distributed

MIN_TEMPERATURE = 0.01
"""A learned temperature does not fall below it (ours, as CLIP's)."""


def pretext_losses(
    capture: Capture, batch: PretrainingBatch, config: CapturePretrainingConfig
) -> dict[str, Tensor]:
    """The weighted losses of the tasks whose weight is not 0; the others are not computed."""
    states = capture.streams(shown(batch), batch.masking.hidden_regions)
    terms: dict[str, Tensor] = {}
    if config.contrast_weight:
        terms["contrast"] = config.contrast_weight * _contrast(capture, states, batch, config)
    if not needs_joint(config):
        return terms
    joint = capture.fuse(states)
    if config.masked_language_weight:
        loss = _masked_language(capture, joint, batch)
        terms["masked_language"] = config.masked_language_weight * loss
    if config.masked_region_weight:
        loss = _masked_region(capture, joint, batch)
        terms["masked_region"] = config.masked_region_weight * loss
    if config.image_text_matching_weight:
        loss = _matching(capture, states, joint, batch, config)
        terms["image_text_matching"] = config.image_text_matching_weight * loss
    if config.scene_contrast_weight:
        loss = _scene_contrast(states, joint, batch, config)
        terms["scene_contrast"] = config.scene_contrast_weight * loss
    return terms


def needs_joint(config: CapturePretrainingConfig) -> bool:
    """Whether a task that is switched on reads what the cross and joint transformers say."""
    return any(
        (
            config.masked_language_weight,
            config.masked_region_weight,
            config.image_text_matching_weight,
            config.scene_contrast_weight,
        )
    )


def _contrast(
    capture: Capture,
    states: StreamStates,
    batch: PretrainingBatch,
    config: CapturePretrainingConfig,
) -> Float[Tensor, ""]:
    n = batch.num_items
    embeddings = states.text_embedding[:n], states.image_embedding[:n]
    if config.contrast == "released":
        return released_contrastive_loss(*embeddings, batch.groups[:n], config.temperature)
    temperature: float | Tensor = config.temperature
    if config.learn_temperature:
        temperature = capture.log_temperature.exp().clamp(min=MIN_TEMPERATURE)
    return contrastive_loss(*embeddings, batch.groups[:n], temperature)


def _masked_language(
    capture: Capture, joint: JointStates, batch: PretrainingBatch
) -> Float[Tensor, ""]:
    masked = batch.masking.masked_tokens
    scores = capture.heads["masked_language"](
        joint.text[masked], capture.text.embedding.word.weight
    )
    return masked_language_loss(scores, batch.pairs.tokens[masked])


def _masked_region(
    capture: Capture, joint: JointStates, batch: PretrainingBatch
) -> Float[Tensor, ""]:
    masked = batch.masking.masked_regions
    predicted = capture.heads["masked_region"](joint.regions[masked])
    return masked_region_loss(predicted, capture.standardization(batch.pairs.features[masked]))


def _matching(
    capture: Capture,
    states: StreamStates,
    joint: JointStates,
    batch: PretrainingBatch,
    config: CapturePretrainingConfig,
) -> Float[Tensor, ""]:
    """Every title with its own photo, and with a wrong one from the batch, of any rank (ours).

    The other tasks never see a wrong pair; in the released code they are trained on them.
    """
    n = batch.num_items
    text, image, groups = (
        distributed.gather_rows(rows[:n].detach())
        for rows in (states.text_embedding, states.image_embedding, batch.groups)
    )
    temperature = config.temperature if config.matching_negatives == "hard" else None
    with distributed.common_randomness():
        drawn = wrong_photos(text, image, groups, temperature)
    wrong = distributed.own_rows(drawn, n)
    titles = (wrong >= 0).nonzero().squeeze(1)
    mismatched = capture.fuse(states.paired(titles, wrong[titles], n))
    logits = capture.heads["matching"](
        torch.cat([joint.text_embedding[:n], mismatched.text_embedding]),
        torch.cat([joint.image_embedding[:n], mismatched.image_embedding]),
    )
    return matching_loss(logits, torch.arange(len(logits), device=logits.device) < n)


@torch.no_grad()
def wrong_photos(
    text: Float[Tensor, "B E"],
    image: Float[Tensor, "B E"],
    groups: Int[Tensor, " B"],
    temperature: float | None,
) -> Int[Tensor, " B"]:
    """For every title the row of a photo of another group, -1 where there is none.

    Drawn in proportion to exp(cosine / temperature), or evenly without a temperature.
    """
    same = groups[:, None] == groups[None, :]
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
    config: CapturePretrainingConfig,
) -> Float[Tensor, ""]:
    """A pasted instance with its scene's title finds its source with its own title (ours).

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
        losses.append(contrastive_loss(views, sources, groups, config.temperature))
    return torch.stack(losses).mean()
