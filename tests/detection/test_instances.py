"""The loss that keeps products apart."""

import pytest
import torch

from product1m.detection.instances import TEMPERATURE, instance_loss


def test_the_loss_is_the_mean_cross_entropy_of_each_products_own_photos() -> None:
    generator = torch.Generator().manual_seed(0)
    products, photos = (torch.randn(rows, 8, generator=generator) for rows in (4, 5))
    own = [[0], [1, 4], [1, 4], [3]]
    loss = instance_loss(
        products, photos, torch.tensor([7, 8, 8, 9]), torch.tensor([7, 8, 5, 9, 8])
    )
    center = torch.cat([products, photos]).mean(dim=0)
    expected = []
    for product, places in zip(products, own, strict=True):
        cosines = torch.cosine_similarity((product - center)[None], photos - center) / TEMPERATURE
        every = torch.exp(cosines).sum()
        expected.append(sum(torch.log(every) - cosines[place] for place in places) / len(places))
    assert loss.item() == pytest.approx(float(sum(expected)) / 4, rel=1e-5)


def test_scenes_without_products_have_no_loss() -> None:
    empty = torch.zeros(0, 8, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    loss = instance_loss(empty, torch.randn(1, 8), none, torch.tensor([3]))
    (gradient,) = torch.autograd.grad(loss, empty)
    assert loss.item() == 0
    assert not gradient.any()
