import numpy as np
import pytest
import torch

from product1m.capture.masking import Masking, mask_pairs
from product1m.capture.pairs import Pairs, collate
from product1m.capture.tokens import TitleTokenizer, train_tokenizer
from product1m.data.regions import Regions
from tests.support.oracles import loops as oracles

TITLES = [f"brand{i % 9} cream{i % 31} 乳霜{'水面膜精华'[i % 5]} {i}ml" for i in range(600)]


@pytest.fixture(scope="module")
def tokenizer() -> TitleTokenizer:
    return train_tokenizer(TITLES, 300)


@pytest.fixture(scope="module")
def pairs(tokenizer: TitleTokenizer) -> Pairs:
    generator = np.random.default_rng(0)
    photos = [_photo(generator, int(generator.integers(1, 37))) for _ in TITLES]
    return collate(tokenizer.encode(TITLES, 36), photos, max_regions=36)


@pytest.fixture(scope="module")
def masking(pairs: Pairs, tokenizer: TitleTokenizer) -> Masking:
    return _mask(pairs, tokenizer)


def _photo(generator: np.random.Generator, count: int) -> Regions:
    corners = np.sort(generator.uniform(0, 100, (count, 2, 2)), axis=1).reshape(count, 4)
    boxes = np.concatenate([[[0, 0, 100, 100]], corners]).astype(np.float32)
    features = generator.standard_normal((count + 1, 6)).astype(np.float16)
    return Regions(features, boxes, np.ones(count + 1, np.float32))


def _mask(pairs: Pairs, tokenizer: TitleTokenizer, overlap: float = 1.0) -> Masking:
    return mask_pairs(
        pairs,
        len(pairs),
        tokenizer,
        np.random.default_rng(1),
        token_probability=0.15,
        region_probability=0.15,
        region_overlap=overlap,
    )


def test_fifteen_in_a_hundred_words_are_masked_eighty_ten_ten(
    pairs: Pairs, masking: Masking, tokenizer: TitleTokenizer
) -> None:
    words = masked = blanked = kept = replaced = 0
    for row in range(len(pairs)):
        for place in range(pairs.tokens.shape[1]):
            token, shown = int(pairs.tokens[row, place]), int(masking.tokens[row, place])
            if pairs.text_padding[row, place] or token in (tokenizer.cls, tokenizer.sep):
                assert shown == token
                assert not masking.masked_tokens[row, place]
                continue
            words += 1
            if not masking.masked_tokens[row, place]:
                assert shown == token
                continue
            masked += 1
            blanked += shown == tokenizer.mask
            kept += shown == token
            replaced += shown not in (tokenizer.mask, token)
    assert words > 3000
    assert masked / words == pytest.approx(0.15, abs=0.02)
    assert blanked / masked == pytest.approx(0.8, abs=0.05)
    assert kept / masked == pytest.approx(0.1, abs=0.04)
    assert replaced / masked == pytest.approx(0.1, abs=0.04)


def test_a_random_token_is_never_a_special_one(
    pairs: Pairs, masking: Masking, tokenizer: TitleTokenizer
) -> None:
    replaced = masking.tokens[masking.masked_tokens & (masking.tokens != pairs.tokens)]
    others = set(replaced.tolist()) - {tokenizer.mask}
    assert others
    assert others.isdisjoint({tokenizer.pad, tokenizer.unknown, tokenizer.cls, tokenizer.sep})


def test_fifteen_in_a_hundred_regions_are_masked_and_nine_in_ten_of_them_hidden(
    pairs: Pairs, masking: Masking
) -> None:
    regions = masked = hidden = 0
    for row in range(len(pairs)):
        assert not masking.masked_regions[row, 0], "the whole photo stays"
        for place in range(1, pairs.places.shape[1]):
            if pairs.region_padding[row, place]:
                assert not masking.masked_regions[row, place]
                continue
            regions += 1
            masked += bool(masking.masked_regions[row, place])
            hidden += bool(masking.hidden_regions[row, place])
            if masking.hidden_regions[row, place]:
                assert masking.masked_regions[row, place]
    assert regions > 5000
    assert masked / regions == pytest.approx(0.15, abs=0.015)
    assert hidden / masked == pytest.approx(0.9, abs=0.03)


def test_overlapping_regions_are_masked_together(
    pairs: Pairs, masking: Masking, tokenizer: TitleTokenizer
) -> None:
    together = _mask(pairs, tokenizer, overlap=0.4)
    spread = 0
    for row in range(40):
        count = int((~pairs.region_padding[row]).sum())
        seeds = [r for r in range(count) if masking.masked_regions[row, r]]
        for region in range(1, count):
            near = any(
                oracles.iou(pairs.places[row, region].tolist(), pairs.places[row, seed].tolist())
                > 0.4
                for seed in seeds
            )
            assert bool(together.masked_regions[row, region]) == (near or region in seeds)
            spread += near and region not in seeds
    assert spread > 10


def test_views_and_switched_off_tasks_stay_as_they_are(
    pairs: Pairs, tokenizer: TitleTokenizer
) -> None:
    masking = mask_pairs(
        pairs, 10, tokenizer, np.random.default_rng(1), token_probability=0.5, region_probability=0
    )
    assert masking.masked_tokens[:10].any()
    assert not masking.masked_tokens[10:].any()
    assert torch.equal(masking.tokens[10:], pairs.tokens[10:])
    assert not masking.masked_regions.any()


def test_a_batch_is_padded_to_its_longest_and_cut_to_the_regions_allowed(
    tokenizer: TitleTokenizer,
) -> None:
    generator = np.random.default_rng(2)
    photos = [_photo(generator, 3), _photo(generator, 9)]
    titles = tokenizer.encode(["乳霜", "brand1 cream2 乳霜 水"], 36)
    pairs = collate(titles, photos, max_regions=5)
    assert pairs.tokens.shape == (2, len(titles[1]))
    assert pairs.text_padding.sum(1).tolist() == [len(titles[1]) - len(titles[0]), 0]
    assert pairs.region_padding.sum(1).tolist() == [2, 0]
    np.testing.assert_array_equal(pairs.features[1].numpy(), photos[1].features[:6])
    np.testing.assert_array_equal(pairs.places[0, :4].numpy(), photos[0].positions())
