"""A batch in parts: the losses and gradients of the whole batch, its negatives included."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from product1m.artifacts.folder import open_artifact
from product1m.capture.batches import PretrainingBatches, feature_moments
from product1m.capture.network import build_capture, heads_for, network_sizes
from product1m.capture.pretext import pretext_losses
from product1m.capture.tokens import train_tokenizer
from product1m.data.regions import FeatureSet
from product1m.steps.capture_pretraining import batch_settings, pretext_tasks
from tests.support.worlds.feature_artifacts import make_scenes, make_train
from tests.support.worlds.small_capture import SMALL

WITHOUT_DROPOUT = {
    "batch_size": 8,
    "scene_batch_size": 6,
    "image_text_matching_weight": 0.5,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}


@pytest.mark.parametrize("contrast", ["symmetric", "released"])
def test_a_batch_in_parts_has_the_losses_and_gradients_of_the_whole_batch(
    contrast: str, tmp_path: Path
) -> None:
    config = SMALL.model_copy(update={**WITHOUT_DROPOUT, "contrast": contrast})
    train, scenes = make_train(tmp_path / "train"), make_scenes(tmp_path / "scenes")
    items = FeatureSet(open_artifact(train, "feature_extraction", "train"))
    views = FeatureSet(open_artifact(scenes, "feature_extraction", "scenes"))
    words = train_tokenizer(items.rows["caption"].tolist(), 200)
    batch = PretrainingBatches(items, views, words, batch_settings(config))(0)
    mean, deviation = feature_moments(items)

    def computed(num_parts: int) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        torch.manual_seed(0)
        capture = build_capture(
            network_sizes(config), heads_for(config), words.vocabulary_size, items.feature_dim
        )
        capture.standardization.fit(torch.from_numpy(mean), torch.from_numpy(deviation))
        torch.manual_seed(1)  # draws the wrong photos of matching
        terms = pretext_losses(capture, batch, pretext_tasks(config), num_parts)
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        return terms, [parameter.grad for parameter in capture.parameters()]

    expected_terms, expected_gradients = computed(1)
    for num_parts in (2, 3, 100):
        terms, gradients = computed(num_parts)
        torch.testing.assert_close(terms, expected_terms, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)
