"""The pretext tasks on whole batches: what each computes, and what it leaves alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from product1m.artifacts.folder import open_artifact
from product1m.capture.batches import (
    PretrainingBatch,
    PretrainingBatches,
    feature_moments,
    shown,
)
from product1m.capture.network import Capture, build_capture, heads_for, network_sizes
from product1m.capture.pretext import pretext_losses, wrong_photos
from product1m.capture.scene_views import SceneViews
from product1m.capture.tokens import TitleTokenizer, train_tokenizer
from product1m.data.regions import FeatureSet
from product1m.errors import ArtifactError
from product1m.steps.capture_pretraining import batch_settings, pretext_tasks
from product1m.training.loop import TrainingPlan, train
from tests.support.oracles import loops as oracles
from tests.support.oracles.whole_joint import joint_states
from tests.support.worlds.feature_artifacts import make_scenes, make_train
from tests.support.worlds.small_capture import SMALL

CONFIG = SMALL.model_copy(
    update={
        "batch_size": 8,
        "scene_batch_size": 6,
        "image_text_matching_weight": 0.5,
        "scene_contrast_weight": 2.0,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    folder = make_train(tmp_path_factory.mktemp("features") / "train")
    return FeatureSet(open_artifact(folder, "feature_extraction", "train"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    folder = make_scenes(tmp_path_factory.mktemp("features") / "scenes")
    return FeatureSet(open_artifact(folder, "feature_extraction", "scenes"))


@pytest.fixture(scope="module")
def tokenizer(items: FeatureSet) -> TitleTokenizer:
    return train_tokenizer(items.rows["caption"].tolist(), 200)


def _batches(
    items: FeatureSet, scenes: FeatureSet, tokenizer: TitleTokenizer, **changes: Any
) -> PretrainingBatches:
    return PretrainingBatches(
        items, scenes, tokenizer, batch_settings(CONFIG.model_copy(update=changes))
    )


def _capture(items: FeatureSet, tokenizer: TitleTokenizer, **changes: Any) -> Capture:
    torch.manual_seed(0)
    config = CONFIG.model_copy(update=changes)
    capture = build_capture(
        network_sizes(config), heads_for(config), tokenizer.vocabulary_size, items.feature_dim
    )
    mean, deviation = feature_moments(items)
    capture.standardization.fit(torch.from_numpy(mean), torch.from_numpy(deviation))
    return capture


@pytest.fixture(scope="module")
def batch(items: FeatureSet, scenes: FeatureSet, tokenizer: TitleTokenizer) -> PretrainingBatch:
    return _batches(items, scenes, tokenizer)(0)


def test_a_batch_is_a_function_of_its_number_and_the_seed(
    items: FeatureSet, scenes: FeatureSet, tokenizer: TitleTokenizer
) -> None:
    first, again = (_batches(items, scenes, tokenizer) for _ in range(2))
    again(3), again(1)
    for mine, theirs in zip(_tensors(first(2)), _tensors(again(2)), strict=True):
        assert torch.equal(mine, theirs)
    other = _batches(items, scenes, tokenizer, seed=1)
    assert first(2).item_ids != other(2).item_ids


def _tensors(batch: PretrainingBatch) -> list[Tensor]:
    parts = (batch.pairs, batch.masking, batch)
    return [value for part in parts for value in vars(part).values() if isinstance(value, Tensor)]


def test_a_source_that_only_a_view_needs_is_embedded_and_nothing_more(
    items: FeatureSet, scenes: FeatureSet, tokenizer: TitleTokenizer
) -> None:
    batches = _batches(items, scenes, tokenizer, batch_size=4, scene_batch_size=6)
    seen: Counter[str] = Counter()
    num_others = 0
    for index in range(3 * batches.batches_per_epoch):
        batch = batches(index)
        n, masking = batch.num_items, batch.masking
        seen.update(batch.item_ids[:n])
        num_others += len(batch.item_ids) - n
        for masked in (masking.masked_tokens, masking.masked_regions, masking.hidden_regions):
            assert not masked[n:].any()
        assert torch.equal(masking.tokens[n:], batch.pairs.tokens[n:])
    assert num_others > 0
    assert seen == dict.fromkeys(items.rows["id"], 3)


def test_every_view_knows_its_source_and_no_held_out_scene_is_used(
    items: FeatureSet, scenes: FeatureSet, tokenizer: TitleTokenizer
) -> None:
    batches = _batches(items, scenes, tokenizer, scene_proposal_probability=0.0)
    titles = {
        tuple(numbers.tolist()): (row, split)
        for row, (numbers, split) in enumerate(
            zip(
                tokenizer.encode(scenes.rows["caption"].tolist(), 36),
                scenes.rows["split"],
                strict=True,
            )
        )
    }
    frame, features = scenes.instances()
    seen = set()
    for index in range(12):
        batch = batches(index)
        assert len(batch.item_ids) == len(set(batch.item_ids)) == len(batch.groups)
        first_view = len(batch.item_ids)
        assert len(batch.pairs) == first_view + len(batch.sources)
        assert len(batch.sources) in (5, 6)
        for view, source in enumerate(batch.sources.tolist(), start=first_view):
            tokens = batch.pairs.tokens[view][~batch.pairs.text_padding[view]].tolist()
            scene, split = titles[tuple(tokens)]
            assert split == "train"
            source_id = batch.item_ids[source]
            of_scene = (frame["scene"] == scene) & (frame["source_id"] == source_id)
            (vector,) = features[of_scene.to_numpy()]
            np.testing.assert_array_equal(batch.pairs.features[view, 0].numpy(), vector)
            seen.add((scene, source_id))
    assert len(seen) > 15


def test_sources_come_from_the_epochs_items_as_far_as_they_go(
    items: FeatureSet, scenes: FeatureSet, tokenizer: TitleTokenizer
) -> None:
    batches = _batches(items, scenes, tokenizer, scene_batch_size=3)
    pasted = {f"item-{row}" for row in SceneViews(scenes, "train", _rows(items)).instances_by_item}
    for index in range(6):
        batch = batches(index)
        in_epoch = len(pasted & set(batch.item_ids[: batch.num_items]))
        assert len(batch.item_ids) - batch.num_items == max(0, 3 - in_epoch)


def _rows(items: FeatureSet) -> dict[str, int]:
    return {str(item): row for row, item in enumerate(items.rows["id"])}


def test_a_proposal_stands_for_an_instance_only_if_it_overlaps_enough(
    items: FeatureSet, scenes: FeatureSet
) -> None:
    views = SceneViews(scenes, "train", _rows(items))
    generator = np.random.default_rng(0)
    for instance in range(len(views)):
        box = views.boxes_xyxy[instance].tolist()
        proposal = views.draw_proposal(instance, 0.6, generator)
        seen = views.regions(instance, proposal)
        assert seen.boxes_xyxy[0].tolist() != box
        assert oracles.iou(seen.boxes_xyxy[0].tolist(), box) >= 0.6
        exact = views.regions(instance, views.draw_proposal(instance, 0.99, generator))
        assert exact.boxes_xyxy[0].tolist() == box
        np.testing.assert_array_equal(exact.features[0], views.features[instance])


def test_scenes_of_other_products_are_refused(
    scenes: FeatureSet, tokenizer: TitleTokenizer, tmp_path: Path
) -> None:
    few = make_train(tmp_path / "few", num_items=5)
    foreign = FeatureSet(open_artifact(few, "feature_extraction", "train"))
    with pytest.raises(ArtifactError, match=r"pasted products, .* come from no train item"):
        _batches(foreign, scenes, tokenizer)


def test_scenes_without_a_train_instance_are_refused(
    items: FeatureSet, tokenizer: TitleTokenizer, tmp_path: Path
) -> None:
    folder = make_scenes(tmp_path / "scenes", num_scenes=4)
    held_out = FeatureSet(open_artifact(folder, "feature_extraction", "scenes"))
    held_out.rows["split"] = "held_out"
    with pytest.raises(ArtifactError, match=r"set capture_pretraining\.scene_contrast_weight=0"):
        _batches(items, held_out, tokenizer)


def test_the_losses_of_a_batch_equal_plain_loops_over_it(
    items: FeatureSet, tokenizer: TitleTokenizer, batch: PretrainingBatch
) -> None:
    capture = _capture(items, tokenizer)
    with torch.no_grad():
        terms = pretext_losses(capture, batch, pretext_tasks(CONFIG))
        states = capture.streams(shown(batch), batch.masking.hidden_regions)
        joint = capture.fuse(states)
        words, regions = _masked_by_loops(capture, batch, *joint_states(capture, states))
    assert terms["masked_language"].item() == pytest.approx(words, abs=1e-4)
    assert terms["masked_region"].item() == pytest.approx(regions, abs=1e-4)
    n, groups = batch.num_items, batch.groups.tolist()
    contrast = oracles.contrastive_loss(
        states.text_embedding[:n], states.image_embedding[:n], groups[:n], 0.07
    )
    assert terms["contrast"].item() == pytest.approx(contrast, abs=1e-4)
    product = joint.text_embedding * joint.image_embedding
    unit = torch.nn.functional.normalize
    streams = torch.cat([unit(states.text_embedding), unit(states.image_embedding)], 1)
    sources = batch.sources.tolist()
    views = range(len(batch.pairs) - len(sources), len(batch.pairs))
    scene = [
        oracles.contrastive_loss(
            rows[list(views)], rows[sources], [groups[source] for source in sources], 0.07
        )
        for rows in (states.image_embedding, streams, product)
    ]
    assert terms["scene_contrast"].item() == pytest.approx(2.0 * sum(scene) / 3, abs=1e-4)


def _masked_by_loops(
    capture: Capture, batch: PretrainingBatch, text: Tensor, regions: Tensor
) -> tuple[float, float]:
    scores, truth, predicted, features = [], [], [], []
    for row in range(len(batch.pairs)):
        for place in range(batch.pairs.tokens.shape[1]):
            if batch.masking.masked_tokens[row, place]:
                head, words = capture.heads["masked_language"], capture.text.embedding.word.weight
                scores.append(head(text[row, place][None], words)[0])
                truth.append(batch.pairs.tokens[row, place])
        for place in range(batch.pairs.features.shape[1]):
            if batch.masking.masked_regions[row, place]:
                predicted.append(capture.heads["masked_region"](regions[row, place][None])[0])
                stored = batch.pairs.features[row, place].double()
                moments = capture.standardization
                features.append((stored - moments.mean) / moments.deviation)
    return (
        oracles.masked_language_loss(torch.stack(scores), torch.stack(truth)),
        oracles.masked_region_loss(torch.stack(predicted), torch.stack(features)),
    )


def test_moments_are_those_of_all_regions(items: FeatureSet) -> None:
    stacked = np.concatenate([items.regions(i).features for i in range(len(items))])
    mean, deviation = feature_moments(items)
    np.testing.assert_allclose(mean, stacked.astype(float).mean(0), atol=1e-5)
    np.testing.assert_allclose(deviation, stacked.astype(float).std(0), atol=1e-5)


TASKS = {
    "masked_language_weight": "masked_language",
    "masked_region_weight": "masked_region",
    "image_text_matching_weight": "image_text_matching",
    "contrast_weight": "contrast",
    "scene_contrast_weight": "scene_contrast",
}


@pytest.mark.parametrize(("weight", "task"), TASKS.items())
def test_a_task_without_weight_is_not_computed_and_has_no_head(
    items: FeatureSet,
    scenes: FeatureSet,
    tokenizer: TitleTokenizer,
    weight: str,
    task: str,
) -> None:
    config = CONFIG.model_copy(update={weight: 0.0})
    batch = PretrainingBatches(items, scenes, tokenizer, batch_settings(config))(0)
    capture = _capture(items, tokenizer, **{weight: 0.0})
    terms = pretext_losses(capture, batch, pretext_tasks(config))
    assert set(terms) == set(TASKS.values()) - {task}
    heads = {"masked_language", "masked_region", "matching"}
    left = {"image_text_matching": "matching"}.get(task, task)
    assert set(capture.heads) == heads - {left}
    assert (len(batch.sources) == 0) == (task == "scene_contrast")
    assert bool(batch.masking.masked_tokens.any()) == (task != "masked_language")
    assert bool(batch.masking.masked_regions.any()) == (task != "masked_region")


def test_a_weight_scales_its_term(
    items: FeatureSet, tokenizer: TitleTokenizer, batch: PretrainingBatch
) -> None:
    capture = _capture(items, tokenizer)
    with torch.no_grad():
        once, thrice = (
            pretext_losses(
                capture,
                batch,
                pretext_tasks(CONFIG.model_copy(update={"masked_region_weight": weight})),
            )["masked_region"]
            for weight in (1.0, 3.0)
        )
    assert thrice.item() == pytest.approx(3 * once.item())


def test_the_released_contrast_can_be_chosen(
    items: FeatureSet, tokenizer: TitleTokenizer, batch: PretrainingBatch
) -> None:
    capture = _capture(items, tokenizer)
    config = CONFIG.model_copy(update={"contrast": "released"})
    with torch.no_grad():
        term = pretext_losses(capture, batch, pretext_tasks(config))["contrast"]
        states = capture.streams(shown(batch), batch.masking.hidden_regions)
    n = batch.num_items
    expected = oracles.released_contrastive_loss(
        states.text_embedding[:n], states.image_embedding[:n], batch.groups[:n].tolist(), 0.07
    )
    assert term.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("learned", [True, False])
def test_the_temperature_is_learned_if_asked(
    items: FeatureSet, tokenizer: TitleTokenizer, batch: PretrainingBatch, learned: bool
) -> None:
    capture = _capture(items, tokenizer)
    config = CONFIG.model_copy(update={"learn_temperature": learned})
    torch.autograd.backward(pretext_losses(capture, batch, pretext_tasks(config))["contrast"])
    assert (capture.log_temperature.grad is not None) == learned


def test_a_wrong_photo_is_of_another_group_and_like_the_title() -> None:
    groups = torch.tensor([0, 0, 1, 2])
    text = torch.eye(4)[[0, 1, 2, 2]]
    image = torch.eye(4)[[0, 1, 2, 3]]
    image[3] = torch.tensor([1.0, 0, 0.2, 0])
    torch.manual_seed(0)
    hard = torch.stack([wrong_photos(text, image, groups, groups, 0.05) for _ in range(200)])
    even = torch.stack([wrong_photos(text, image, groups, groups, None) for _ in range(200)])
    for drawn in (hard, even):
        assert all(groups[row] != groups[wrong] for r in drawn for row, wrong in enumerate(r))
    assert (hard[:, 0] == 3).float().mean() > 0.95
    assert 0.35 < (even[:, 0] == 3).float().mean() < 0.65


def test_a_batch_of_one_group_has_no_wrong_photo(
    items: FeatureSet, tokenizer: TitleTokenizer, batch: PretrainingBatch
) -> None:
    rows = torch.randn(3, 4)
    assert wrong_photos(rows, rows, torch.zeros(3), torch.zeros(3), 0.07).tolist() == [-1, -1, -1]
    capture = _capture(items, tokenizer)
    one_group = vars(batch) | {"groups": torch.zeros_like(batch.groups)}
    terms = pretext_losses(capture, PretrainingBatch(**one_group), pretext_tasks(CONFIG))
    assert all(torch.isfinite(term) for term in terms.values())


def test_eight_samples_are_learned_by_heart(scenes: FeatureSet, tmp_path: Path) -> None:
    eight = FeatureSet(
        open_artifact(make_train(tmp_path / "eight", 8), "feature_extraction", "train")
    )
    changes = {"scene_contrast_weight": 0.0, "image_text_matching_weight": 0.0}
    config = CONFIG.model_copy(update=changes)
    words = train_tokenizer(eight.rows["caption"].tolist(), 200)
    batches = PretrainingBatches(eight, scenes, words, batch_settings(config))
    same = batches(0)  # with the same masks every time: there is nothing left to guess
    capture = _capture(eight, words, **changes)
    plan = TrainingPlan(num_steps=250, learning_rate=5e-3, report_interval_steps=1)
    curve = train(
        capture,
        lambda network, batch: pretext_losses(network, batch, pretext_tasks(config)),
        lambda index: same,
        plan,
        work=tmp_path / "work",
        report=lambda step, terms: None,
    )
    assert curve[0]["contrast"] > 1.5
    assert curve[0]["masked_language"] > 3
    assert curve[-1]["contrast"] < 0.02
    assert curve[-1]["masked_language"] < 0.02
    assert curve[-1]["masked_region"] < 0.05 * curve[0]["masked_region"]
