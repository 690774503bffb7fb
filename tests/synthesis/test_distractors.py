"""What is in a scene beside products."""

import numpy as np
import pytest

from product1m.config import BackgroundSynthesisConfig
from product1m.synthesis.backgrounds import draw_plain
from product1m.synthesis.distractors import draw_distractor, with_distractors
from product1m.synthesis.paste import PasteSettings

PASTE = PasteSettings.from_config(BackgroundSynthesisConfig(max_shadow=0, max_brightness_change=0))


def test_pieces_of_a_photo_show_its_pixels() -> None:
    donor = np.random.default_rng(0).integers(0, 200, (60, 80, 3), np.uint8)
    colors = {tuple(pixel) for pixel in donor.reshape(-1, 3).tolist()}
    drawn = [draw_distractor(donor, 100, np.random.default_rng(seed)) for seed in range(60)]
    of_photo = 0
    for piece in drawn:
        assert piece.shape[2] == 4
        assert (piece[..., 3] > 0).any()
        of_photo += all(tuple(pixel) in colors for pixel in piece[..., :3].reshape(-1, 3).tolist())
    assert 0.5 < of_photo / 60 < 0.9


@pytest.mark.parametrize("has_donor", [True, False])
def test_distractors_change_a_part_of_the_background(has_donor: bool) -> None:
    donor = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8) if has_donor else None
    background = np.full((100, 120, 3), 128, np.uint8)
    shares = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        photo = with_distractors(background, donor, 3, PASTE, rng)
        assert photo.shape == background.shape
        shares.append((photo != background).any(axis=2).mean())
    assert min(shares) > 0
    assert 0.05 < np.mean(shares) < 0.9


def test_a_plain_background_has_the_size_of_its_scene() -> None:
    seen = set()
    for seed in range(40):
        photo = draw_plain(50, 40, np.random.default_rng(seed))
        assert photo.shape == (40, 50, 3)
        assert photo.dtype == np.uint8
        seen.add(int(photo.std() == 0))
    assert seen == {0, 1}  # some have a single color
