"""What was never seen is less sure to be a product."""

import numpy as np
import torch

from product1m.detection.familiarity import NUM_DIRECTIONS, TOLERANCE, WEIGHT, Familiarity


def test_vectors_like_the_products_keep_their_score_and_others_lose_with_their_distance() -> None:
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.normal(size=(200, 200)))[0]
    spread = np.concatenate([np.full(20, 3.0), np.full(180, 0.1)])

    def draw(number: int) -> np.ndarray:
        drawn = generator.normal(size=(number, 200)) * spread
        return np.asarray(5 + drawn @ axes.T)

    products = draw(3000)
    familiarity = Familiarity(200)
    familiarity.fit(torch.tensor(products))
    new = familiarity(torch.tensor(draw(500)))
    assert float(new.mean()) < 0.2, "new products are familiar"
    outside, inside = axes[:, 150], axes[:, 0]
    for direction in (outside, inside):
        far = [5 + distance * direction for distance in (40.0, 80.0, 160.0)]
        penalties = familiarity(torch.tensor(np.array(far))).tolist()
        assert 1 < penalties[0] < penalties[1] < penalties[2]


def test_the_penalty_equals_its_definition() -> None:
    generator = np.random.default_rng(1)
    products = generator.normal(size=(500, 60)) * np.linspace(0.1, 3, 60)
    familiarity = Familiarity(60)
    familiarity.fit(torch.tensor(products))

    first, second = products[:250], products[250:]
    center = first.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(first.T, bias=True))
    number = min(NUM_DIRECTIONS, 30)
    values, axes = values[-number:], axes[:, -number:]

    def distances(vectors: np.ndarray) -> np.ndarray:
        along = (vectors - center) @ axes
        within = np.sqrt((along**2 / values).mean(axis=1))
        rest = np.linalg.norm(vectors - center - along @ axes.T, axis=1)
        return np.stack([within, rest], axis=1)

    usual = distances(second)
    strangers = generator.normal(size=(5, 60)) * 4
    excess = (distances(strangers) - usual.mean(axis=0)) / usual.std(axis=0, ddof=1) - TOLERANCE
    expected = WEIGHT * np.clip(excess, 0, None).sum(axis=1)
    np.testing.assert_allclose(familiarity(torch.tensor(strangers)), expected, rtol=1e-3)


def test_few_products_do_not_make_other_products_strange() -> None:
    products = np.random.default_rng(2).normal(size=(220, 400))
    familiarity = Familiarity(400)
    familiarity.fit(torch.tensor(products[:120]))
    assert float(familiarity(torch.tensor(products[120:])).mean()) < 0.2


def test_before_products_are_known_and_with_few_alone_everything_is_familiar() -> None:
    familiarity = Familiarity(8)
    familiarity.fit(torch.randn(3, 8))
    assert familiarity(100 * torch.randn(4, 8)).tolist() == [0, 0, 0, 0]
