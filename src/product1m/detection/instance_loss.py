"""The loss that keeps products apart: pasted products against photos that they were cut from."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.1
"""Divides the cosines (ours)."""


def instance_loss(
    products: Float[Tensor, "N F"],
    photos: Float[Tensor, "M F"],
    product_groups: Int[Tensor, " N"],
    photo_groups: Int[Tensor, " M"],
) -> Float[Tensor, ""]:
    """InfoNCE of pasted products, with all photos of a product's group as positives (ours).

    The vectors are region vectors of products in scenes and of their source photos. What all of
    them have in common is subtracted, because it makes every cosine large. Every product's group
    has a photo. Mean over products and their positives, in nats; 0 without products.
    """
    if not len(products):
        return products.sum()
    center = torch.cat([products, photos]).mean(dim=0).detach()
    left, right = (functional.normalize(side - center, dim=1) for side in (products, photos))
    likely = functional.log_softmax(left @ right.T / TEMPERATURE, dim=1)
    positive = product_groups[:, None] == photo_groups[None]
    return -((likely * positive).sum(dim=1) / positive.sum(dim=1)).mean()
