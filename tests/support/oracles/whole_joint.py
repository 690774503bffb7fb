"""The joint transformer over every position, whether or not something reads it."""

import torch
from jaxtyping import Float
from torch import Tensor

from product1m.capture.blocks import Packing
from product1m.capture.network import Capture, StreamStates


def joint_states(
    capture: Capture, states: StreamStates
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B R D"]]:
    """Hidden states of all tokens and all regions after the last layer."""
    text, regions = capture.cross(
        states.text, states.text_packing, states.regions, states.region_packing
    )
    text = text + capture.joint.text_position(states.text_packing.places())
    regions = regions + capture.joint.region_position(states.region_packing.places())
    padding = torch.cat([states.text_packing.padding, states.region_packing.padding], 1)
    packing = Packing.from_padding(padding)
    both = [states.text_packing.unpack(text), states.region_packing.unpack(regions)]
    hidden = packing.pack(torch.cat(both, 1))
    for layer in capture.joint.layers:
        hidden = layer(hidden, packing)
    unpacked = packing.unpack(capture.joint.norm(hidden))
    T = both[0].shape[1]
    return unpacked[:, :T], unpacked[:, T:]
