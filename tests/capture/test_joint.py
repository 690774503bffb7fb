"""The joint transformer: what nothing reads is not computed, and changes nothing."""

import pytest
import torch
from torch import Tensor

from product1m.capture.masking import Masking
from product1m.capture.network import build_capture, network_sizes
from product1m.capture.pairs import Pairs
from tests.support.oracles.whole_joint import joint_states
from tests.support.worlds.small_capture import SMALL

TOKENS, REGIONS = torch.tensor([7, 3, 5]), torch.tensor([2, 9, 4])


@pytest.mark.parametrize("joint_layers", [0, 1, 2])
def test_what_no_loss_reads_changes_neither_results_nor_gradients(joint_layers: int) -> None:
    pairs, masking = _batch()
    changes = {"joint_layers": joint_layers, "dropout": 0.0, "attention_dropout": 0.0}
    sizes = network_sizes(SMALL.model_copy(update=changes))

    def computed(whole: bool) -> tuple[list[Tensor], list[Tensor | None]]:
        torch.manual_seed(0)
        capture = build_capture(sizes, set(), 100, 8)
        states = capture.streams(pairs)
        if whole:
            text, photo = joint_states(capture, states)
            read = [
                text[masking.masked_tokens],
                photo[masking.masked_regions],
                capture.projections["joint_text"](text[:, 0]),
                capture.projections["joint_image"](photo[:, 0]),
            ]
        else:
            read = list(vars(capture.fuse(states, masking)).values())
        torch.autograd.backward(torch.stack([rows.square().mean() for rows in read]).sum())
        return read, [parameter.grad for parameter in capture.parameters()]

    torch.testing.assert_close(computed(False), computed(True), rtol=1e-4, atol=1e-6)


def _batch() -> tuple[Pairs, Masking]:
    """Three pairs, some tokens and regions masked, none in the last."""
    generator = torch.Generator().manual_seed(0)
    text_padding = torch.arange(int(TOKENS.max())) >= TOKENS[:, None]
    region_padding = torch.arange(int(REGIONS.max())) >= REGIONS[:, None]
    tokens = torch.randint(0, 100, text_padding.shape, generator=generator)
    features = torch.randn(*region_padding.shape, 8, generator=generator)
    places = torch.rand(*region_padding.shape, 5, generator=generator)
    masked_tokens, masked_regions = (
        torch.zeros_like(padding) for padding in (text_padding, region_padding)
    )
    masked_tokens[0, [2, 3]] = masked_tokens[1, 1] = True
    masked_regions[1, [4, 7]] = True
    return (
        Pairs(tokens, text_padding, features, places, region_padding),
        Masking(tokens, masked_tokens, masked_regions, masked_regions),
    )
