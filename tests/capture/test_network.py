from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from product1m.capture.blocks import Attention, Packing
from product1m.capture.heads import InputSkip
from product1m.capture.network import (
    Capture,
    LoadedCapture,
    build_capture,
    heads_for,
    network_sizes,
)
from product1m.capture.pairs import Pairs, collate
from product1m.capture.tokens import TitleTokenizer, train_tokenizer
from product1m.config import CapturePretrainingConfig
from product1m.data.regions import Regions

Rows = np.ndarray[Any, np.dtype[np.float32]]

FEATURE_DIM = 12
CONFIG = CapturePretrainingConfig(
    text_model="scratch",
    max_tokens=12,
    max_regions=8,
    hidden_dim=16,
    text_layers=2,
    visual_layers=2,
    cross_layers=2,
    joint_layers=2,
    text_heads=2,
    visual_heads=4,
    text_ffn_dim=32,
    visual_ffn_dim=24,
    cross_dim=8,
    projection_dim=10,
    image_text_matching_weight=1.0,
)
CAPTIONS = ["水乳霜 cream", "霜", "cream lotion 水乳 30ml red", "red", "乳 乳 乳 30ml lotion blue"]


@pytest.fixture(scope="module")
def tokenizer() -> TitleTokenizer:
    return train_tokenizer([*CAPTIONS, "[MASK] 膜面精华"], 80)


@pytest.fixture(scope="module")
def loaded(tokenizer: TitleTokenizer) -> LoadedCapture:
    return LoadedCapture(_build(CONFIG, tokenizer), tokenizer, network_sizes(CONFIG))


def _build(config: CapturePretrainingConfig, tokenizer: TitleTokenizer) -> Capture:
    torch.manual_seed(0)
    capture = build_capture(
        network_sizes(config), heads_for(config), tokenizer.vocabulary_size, FEATURE_DIM
    )
    for parameter in capture.parameters():  # far from the tiny start, so that mistakes show
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.4)
    return capture.eval()


def _photo(seed: int, count: int) -> Regions:
    generator = np.random.default_rng(seed)
    corners = np.sort(generator.uniform(0, 100, (count - 1, 2, 2)), axis=1).reshape(-1, 4)
    boxes = np.concatenate([[[0, 0, 100, 100]], corners]).astype(np.float32)
    features = generator.standard_normal((count, FEATURE_DIM)).astype(np.float16)
    return Regions(features, boxes, np.ones(count, np.float32))


PHOTOS = [_photo(seed, count) for seed, count in enumerate((3, 1, 9, 5, 2))]


def _all(
    loaded: LoadedCapture, captions: list[str], photos: list[Regions], size: int = 64
) -> list[Rows]:
    found = loaded.embed(captions, photos, size)
    return [found.joint_text, found.joint_image, found.stream_text, found.stream_image]


def test_an_embedding_does_not_depend_on_its_batch_neighbors(loaded: LoadedCapture) -> None:
    together = _all(loaded, CAPTIONS, PHOTOS)
    for size in (1, 2):
        for whole, part in zip(together, _all(loaded, CAPTIONS, PHOTOS, size), strict=True):
            np.testing.assert_allclose(part, whole, atol=1e-5)
    backwards = _all(loaded, CAPTIONS[::-1], PHOTOS[::-1])
    for whole, part in zip(together, backwards, strict=True):
        np.testing.assert_allclose(part[::-1], whole, atol=1e-5)
    for whole in together:
        assert np.abs(whole[0] - whole[1:]).max(axis=1).min() > 0.1, "all rows are different"


def test_an_embedding_does_not_depend_on_padding_or_on_what_lies_there(
    loaded: LoadedCapture, tokenizer: TitleTokenizer
) -> None:
    pairs = collate(tokenizer.encode(CAPTIONS, 12), PHOTOS, 8)
    padded = Pairs(
        _grow(pairs.tokens, 3, 7),
        _grow(pairs.text_padding, 3, True),
        _grow(pairs.features, 4, 9.0),
        _grow(pairs.places, 4, 0.5),
        _grow(pairs.region_padding, 4, True),
    )
    padded.features[padded.region_padding] = torch.nan
    for exact, found in zip(_forward(loaded, pairs), _forward(loaded, padded), strict=True):
        torch.testing.assert_close(found, exact, atol=1e-5, rtol=0)


def _grow(rows: Tensor, count: int, value: float) -> Tensor:
    shape = (len(rows), count, *rows.shape[2:])
    return torch.cat([rows, torch.full(shape, value, dtype=rows.dtype)], 1)


@torch.no_grad()
def _forward(loaded: LoadedCapture, pairs: Pairs) -> list[Tensor]:
    states = loaded.capture.streams(pairs)
    joint = loaded.capture.fuse(states)
    return [
        states.text_embedding,
        states.image_embedding,
        joint.text_embedding,
        joint.image_embedding,
    ]


def test_equal_pairs_have_equal_embeddings_and_dropout_is_off(loaded: LoadedCapture) -> None:
    loaded.capture.train()  # as training leaves it
    for rows in _all(loaded, [CAPTIONS[2]] * 3, [PHOTOS[2]] * 3):
        np.testing.assert_allclose(rows[1:], np.stack([rows[0]] * 2), atol=1e-6)


def test_nothing_to_embed_gives_nothing(loaded: LoadedCapture) -> None:
    assert loaded.embed([], []).joint_text.shape == (0, CONFIG.projection_dim)


def test_every_input_matters_to_the_embedding_that_should_see_it(loaded: LoadedCapture) -> None:
    def changed(captions: list[str], photos: list[Regions]) -> list[bool]:
        base = _all(loaded, CAPTIONS[2:3], PHOTOS[2:3])
        other = _all(loaded, captions, photos)
        return [bool(np.abs(a - b).max() > 1e-3) for a, b in zip(base, other, strict=True)]

    words = CAPTIONS[2].split()
    moved = replace(PHOTOS[2], boxes_xyxy=PHOTOS[2].boxes_xyxy.copy())
    moved.boxes_xyxy[3] = (1, 2, 3, 4)
    assert changed([" ".join(words[::-1])], PHOTOS[2:3]) == [True, True, True, False]
    assert changed(CAPTIONS[2:3], [moved]) == [True, True, False, True]


def test_only_the_first_regions_and_tokens_allowed_are_read(loaded: LoadedCapture) -> None:
    longer = Regions(
        np.concatenate([PHOTOS[2].features, PHOTOS[0].features]),
        np.concatenate([PHOTOS[2].boxes_xyxy, PHOTOS[0].boxes_xyxy]),
        np.ones(12, np.float32),
    )
    base = _all(loaded, ["水" * 10], PHOTOS[2:3])
    for mine, theirs in zip(base, _all(loaded, ["水" * 30], [longer]), strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-6)


def test_attention_equals_plain_loops() -> None:
    torch.manual_seed(0)
    attention = Attention(dim=6, attention_dim=4, num_heads=2, dropout=0.0)
    padding = torch.tensor([[False, False, True], [False, False, False]])
    packing = Packing.from_padding(padding)
    hidden = torch.randn(5, 6)
    found = attention(hidden, packing, hidden, packing)
    samples = [hidden[:2], hidden[2:]]
    expected = []
    for rows in samples:
        q, k, v = (layer(rows) for layer in (attention.query, attention.key, attention.value))
        for query in q:
            mixed = []
            for head in (slice(0, 2), slice(2, 4)):
                scores = torch.stack([query[head] @ key[head] / 2**0.5 for key in k])
                shares = scores.exp() / scores.exp().sum()
                mixed.append(sum(s * value[head] for s, value in zip(shares, v, strict=True)))
            expected.append(attention.out(torch.cat(mixed)))
    torch.testing.assert_close(found, torch.stack(expected))


def test_packing_and_unpacking_keep_every_real_row() -> None:
    padding = torch.tensor([[False, True, True], [False, False, False], [False, False, True]])
    packing = Packing.from_padding(padding)
    rows = torch.arange(9.0).reshape(3, 3, 1)
    packed = packing.pack(rows)
    assert packed.flatten().tolist() == [0, 3, 4, 5, 6, 7]
    assert packing.places().tolist() == [0, 0, 1, 2, 0, 1]
    assert packing.unpack(packed)[:, :, 0].tolist() == [[0, 0, 0], [3, 4, 5], [6, 7, 0]]


def test_a_hidden_region_looks_like_the_mean_feature(
    loaded: LoadedCapture, tokenizer: TitleTokenizer
) -> None:
    pairs = collate(tokenizer.encode(CAPTIONS, 12), PHOTOS, 8)
    hidden = torch.zeros_like(pairs.region_padding)
    hidden[0, 1] = hidden[2, 4] = True
    mean = replace(pairs, features=pairs.features.clone())
    mean.features[hidden] = loaded.capture.standardization.mean.half()
    with torch.no_grad():
        found = loaded.capture.streams(pairs, hidden).regions
        expected = loaded.capture.streams(mean).regions
    torch.testing.assert_close(found, expected)


def test_titles_paired_with_other_photos_are_what_a_batch_of_them_would_be(
    loaded: LoadedCapture, tokenizer: TitleTokenizer
) -> None:
    titles = tokenizer.encode(CAPTIONS, 12)
    order = [3, 0, 4]
    swapped = collate([titles[i] for i in (0, 2, 3)], [PHOTOS[i] for i in order], 8)
    with torch.no_grad():
        states = loaded.capture.streams(collate(titles, PHOTOS, 8))
        found = loaded.capture.fuse(states.paired(torch.tensor([0, 2, 3]), torch.tensor(order), 5))
    for mine, theirs in zip(
        (found.text_embedding, found.image_embedding), _forward(loaded, swapped)[2:], strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_the_input_skip_adds_a_linear_map_of_the_pooled_input(tokenizer: TitleTokenizer) -> None:
    capture = _build(CONFIG, tokenizer)
    plain = _build(CONFIG.model_copy(update={"input_skip": False}), tokenizer)
    plain.load_state_dict(capture.state_dict(), strict=False)
    loaded = LoadedCapture(capture, tokenizer, network_sizes(CONFIG))
    with_skip, without = (
        network.embed(CAPTIONS, PHOTOS)
        for network in (loaded, LoadedCapture(plain, tokenizer, network_sizes(CONFIG)))
    )
    row, skip = 2, _skip(capture, "image")
    first = torch.from_numpy(PHOTOS[row].features[0]).float()
    mapped = skip.linear(skip.norm(first)).detach().numpy()
    expected = without.stream_image[row] * skip.factor.item() + mapped
    np.testing.assert_allclose(with_skip.stream_image[row], expected, atol=1e-4)
    skip, words = _skip(capture, "text"), tokenizer.encode(CAPTIONS, 12)[row][1:-1]
    mean = sum(capture.text.embedding.word.weight[word] for word in words) / len(words)
    mapped = skip.linear(skip.norm(mean)).detach().numpy()
    expected = without.stream_text[row] * skip.factor.item() + mapped
    np.testing.assert_allclose(with_skip.stream_text[row], expected, atol=1e-4)


def test_the_transformers_part_starts_at_a_tenth(tokenizer: TitleTokenizer) -> None:
    capture = build_capture(
        network_sizes(CONFIG), heads_for(CONFIG), tokenizer.vocabulary_size, FEATURE_DIM
    )
    for name in ("text", "image"):
        assert _skip(capture, name).factor.item() == pytest.approx(0.1)


def _skip(capture: Capture, name: str) -> InputSkip:
    skip = capture.skips[name]
    assert isinstance(skip, InputSkip)
    return skip


def test_a_relu_projection_gives_no_negative_number(tokenizer: TitleTokenizer) -> None:
    config = CONFIG.model_copy(update={"relu_projection": True, "input_skip": False})
    loaded = LoadedCapture(_build(config, tokenizer), tokenizer, network_sizes(config))
    for rows in _all(loaded, CAPTIONS, PHOTOS):
        assert rows.min() == 0
        assert rows.max() > 0


@pytest.mark.parametrize("left_out", ["text", "visual", "cross", "joint"])
def test_a_kind_of_layer_can_be_left_out(tokenizer: TitleTokenizer, left_out: str) -> None:
    config = CONFIG.model_copy(update={f"{left_out}_layers": 0})
    loaded = LoadedCapture(_build(config, tokenizer), tokenizer, network_sizes(config))
    assert np.isfinite(_all(loaded, CAPTIONS, PHOTOS)).all()


def test_the_reference_network_has_the_published_shape() -> None:
    with torch.device("meta"):
        capture = build_capture(network_sizes(CapturePretrainingConfig()), set(), 21_128, 2048)

    def millions(module: nn.Module) -> float:
        return sum(parameter.numel() for parameter in module.parameters()) / 1e6

    assert millions(capture.text.layers) == pytest.approx(28.4, abs=0.1)  # cited counts
    assert millions(capture.visual.layers) == pytest.approx(15.8, abs=0.1)
    assert millions(capture.joint.layers) == pytest.approx(43.5 * 4 / 6, abs=1)
    assert millions(capture.visual.embedding) == pytest.approx(1.6, abs=0.1)
