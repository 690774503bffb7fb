"""Run the network over a batch in parts if the activations of the whole batch do not fit."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from product1m.capture.blocks import Packing
from product1m.capture.masking import Masking
from product1m.capture.network import Capture, JointStates, StreamStates
from product1m.capture.pairs import Pairs
from product1m.training.memory import in_parts


class CaptureInParts:
    """The two passes of a network, each over one part of the rows at a time.

    They return the states of the whole batch, so the losses are those of the whole batch too.
    """

    def __init__(self, capture: Capture, num_parts: int) -> None:
        self._capture, self._num_parts = capture, num_parts

    def streams(
        self, pairs: Pairs, hidden_regions: Bool[Tensor, "B R"] | None = None
    ) -> StreamStates:
        """Same as `Capture.streams`."""

        def some(rows: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            hidden = None if hidden_regions is None else hidden_regions[rows]
            states = self._capture.streams(pairs.part(rows), hidden)
            return states.text, states.regions, states.text_embedding, states.image_embedding

        parts = in_parts(some, len(pairs), self._num_parts)
        text, regions, text_embedding, image_embedding = (
            torch.cat(columns) for columns in zip(*parts, strict=True)
        )
        return StreamStates(
            text,
            Packing.from_padding(pairs.text_padding),
            regions,
            Packing.from_padding(pairs.region_padding),
            text_embedding,
            image_embedding,
        )

    def fuse(self, states: StreamStates, masking: Masking | None = None) -> JointStates:
        """Same as `Capture.fuse`."""

        def some(rows: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            part = None if masking is None else masking.part(rows)
            joint = self._capture.fuse(_rows(states, rows), part)
            return (
                joint.masked_tokens,
                joint.masked_regions,
                joint.text_embedding,
                joint.image_embedding,
            )

        parts = in_parts(some, len(states.text_embedding), self._num_parts)
        return JointStates(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _rows(states: StreamStates, rows: slice) -> StreamStates:
    """The states of some rows."""
    text_packing, text = states.text_packing.part(states.text, rows)
    region_packing, regions = states.region_packing.part(states.regions, rows)
    return replace(
        states,
        text=text,
        text_packing=text_packing,
        regions=regions,
        region_packing=region_packing,
        text_embedding=states.text_embedding[rows],
        image_embedding=states.image_embedding[rows],
    )
