"""Train the class-agnostic region proposal network on the scenes (paper), and measure it."""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.artifacts.model_parts import RPN
from product1m.artifacts.work import work_folder
from product1m.config import BackgroundSynthesisConfig, RpnTrainingConfig
from product1m.data.geometry import CHOSEN_BOXES, MIN_SCORE, NMS_IOU, Boxes, BoxSelection
from product1m.detection.backbone import license_of
from product1m.detection.box_training import (
    FITTED_BATCHES,
    MIN_PRODUCTS,
    BoxBatches,
    BoxBatchSettings,
    box_losses,
)
from product1m.detection.held_out_boxes import HeldOutBoxes
from product1m.detection.instances import InstanceBatches, instance_losses
from product1m.detection.map_cache import CacheSettings, MapCache, cache_maps
from product1m.detection.measuring import (
    DEPTHS,
    IMAGE_ONLY,
    IMAGE_ONLY_BEFORE,
    ScoredBoxes,
    best_selection,
    measure,
    recalls,
)
from product1m.detection.proposal_plots import draw_proposals
from product1m.detection.proposals import MODEL, NetworkSettings, ProposalNetwork, frozen_copy
from product1m.detection.same_products import image_only_map, keep_if_apart
from product1m.detection.scene_batches import SceneBatches, SceneBatchSettings, Scenes, losses
from product1m.detection.scene_proposals import propose_on
from product1m.detection.untrained_boxes import grabcut_box, usual_places, whole_image_box
from product1m.steps.bracket import open_step
from product1m.synthesis.grabcut import GrabCutSettings
from product1m.telemetry.progress import track
from product1m.telemetry.tracking import StepRun
from product1m.training import distributed
from product1m.training.earlier_weights import num_steps, pretrained_details, weights_of
from product1m.training.exact import deterministic_kernels
from product1m.training.loop import Report, TrainingPlan, train
from product1m.training.memory import keep_freed_memory
from product1m.training.weights import load_weights, plain_state

STEP = "rpn_training"
PICTURE = "proposals.png"
NUM_PICTURES = 12


def run(scenes: Path, checkpoint: Path, config: RpnTrainingConfig) -> dict[str, float]:
    """Train on the `train` scenes and measure on the `held_out` ones; resumes after a kill.

    Under `torchrun` every rank calls it, and rank 0 writes.
    """
    with distributed.process_group():
        if distributed.rank() > 0:
            inputs = _open(scenes)
            work = work_folder(checkpoint, STEP, config, inputs)
            _train(_new_network(config), Scenes(inputs["scenes"]), config, work)
            return {}
        with open_step(STEP, config, checkpoint) as step:
            inputs = step.read(_open(scenes))
            work = step.work_folder()
            all_scenes = Scenes(inputs["scenes"])
            held_out = all_scenes.split("held_out")
            network = _new_network(config)
            kept_apart = _train(network, all_scenes, config, work, step.tracking)
            save_file(plain_state(network), step.folder / MODEL)
            step.details.update(_details(network, config))
            proposals = propose_on(network.eval(), all_scenes, held_out)
            truth = [all_scenes.boxes_xyxy[position] for position in held_out]
            HeldOutBoxes(proposals, truth).write(step.folder)
            selection = best_selection(proposals, truth)
            step.details[CHOSEN_BOXES] = {
                MIN_SCORE: selection.min_score,
                NMS_IOU: selection.max_iou,
            }
            step.metrics.update(_measure(all_scenes, held_out, proposals, selection))
            kept_apart = kept_apart or _products_kept_apart(network, all_scenes, held_out, config)
            step.metrics.update(kept_apart)
            _draw(step.folder / PICTURE, all_scenes, held_out, proposals, selection)
            step.attach(PICTURE)
    step.remove_work()
    return step.all_metrics()


def _open(scenes: Path) -> dict[str, Artifact]:
    return {"scenes": open_artifact(scenes, "background_synthesis")}


def _new_network(config: RpnTrainingConfig) -> ProposalNetwork:
    """A network with the same weights on every rank and in every attempt.

    The statistics that the second stage takes from its examples are never an earlier model's.
    """
    torch.manual_seed(config.seed)
    network = ProposalNetwork(NetworkSettings.from_config(config), config.weights)
    if config.warm_start:
        with weights_of(config, RPN) as earlier:
            fitted = [f"box_head.{name}" for name, _ in network.box_head.named_buffers()]
            load_weights(network, earlier.file(MODEL), keep=fitted)
    return network


def _train(
    network: ProposalNetwork,
    scenes: Scenes,
    config: RpnTrainingConfig,
    work: Path,
    tracking: StepRun | None = None,
) -> dict[str, float]:
    """First the proposal network, then, on its proposals, the second stage.

    Before them the backbone, if it trains with instances; returns what that gave.
    """
    keep_freed_memory(distributed.device())
    positions = scenes.split("train")
    kept_apart: dict[str, float] = {}
    if config.instance_weight and config.trainable_stages:
        report = _reporter(tracking, "backbone_")
        kept_apart = _train_backbone(network, scenes, config, work / "backbone", report)

    def batches(num_epochs: int, cached: MapCache | None = None) -> SceneBatches:
        settings = replace(SceneBatchSettings.from_config(config), num_epochs=num_epochs)
        return SceneBatches(scenes, positions, settings, cached)

    longest = batches(max(config.num_epochs, config.box_num_epochs))
    seen = longest.scenes_of(_plan(config, longest.num_steps).num_steps)
    shown = [position for position in positions if position in seen]
    cached = cache_maps(network, scenes.items, shown, CacheSettings.from_config(config))
    first, second = (
        batches(number, cached) for number in (config.num_epochs, config.box_num_epochs)
    )
    _train_proposals(network, first, config, work, _reporter(tracking, ""))
    _train_boxes(network, second, config, work / "box_head", _reporter(tracking, "box_"))
    return kept_apart


def _train_backbone(
    network: ProposalNetwork, scenes: Scenes, config: RpnTrainingConfig, work: Path, report: Report
) -> dict[str, float]:
    """Train the backbone with proposals and instances; it stays if products stay apart.

    In any case it is frozen afterwards. Returns retrieval by image alone.
    """
    settings = SceneBatchSettings.from_config(config)
    batches = SceneBatches(scenes, scenes.split("train"), settings)
    sides_px = config.short_side_px, config.long_side_px
    instances = InstanceBatches(batches, scenes, sides_px)
    trained = copy.deepcopy(network)
    trained.box_head.requires_grad_(False)
    train(
        trained,
        partial(instance_losses, weight=config.instance_weight),
        instances,
        _plan(config, batches.num_steps),
        work=work,
        report=report,
        description="backbone",
    )
    return keep_if_apart(network, trained, scenes, scenes.split("held_out"))


def _reporter(tracking: StepRun | None, prefix: str) -> Report:
    def report(step: int, metrics: dict[str, float]) -> None:
        if tracking is not None:
            named = {f"loss/{prefix}{name}": value for name, value in metrics.items()}
            tracking.log_metrics(named, step)

    return report


def _train_proposals(
    network: ProposalNetwork,
    batches: SceneBatches,
    config: RpnTrainingConfig,
    work: Path,
    report: Report,
) -> None:
    network.box_head.requires_grad_(False)
    with deterministic_kernels(distributed.device()):
        train(
            network,
            losses,
            batches,
            _plan(config, batches.num_steps),
            work=work,
            report=report,
            description="rpn training",
            max_parts=config.batch_size,
        )


def _train_boxes(
    network: ProposalNetwork,
    batches: SceneBatches,
    config: RpnTrainingConfig,
    work: Path,
    report: Report,
) -> None:
    """Without `deterministic_kernels`, for which torchvision would compile another RoIAlign.

    RoIAlign makes the batches and needs no gradient here.
    """
    network.box_head.requires_grad_(True)
    boxes = BoxBatches(batches, frozen_copy(network), BoxBatchSettings.from_config(config))
    plan = _plan(config, batches.num_steps)
    num_fitted = min(FITTED_BATCHES, plan.num_steps, batches.batches_per_pass)
    examples = track(boxes.examples(num_fitted), "boxes of the second stage", num_fitted)
    network.box_head.fit(examples, MIN_PRODUCTS)
    train(
        network.box_head,
        box_losses,
        boxes,
        plan,
        work=work,
        report=report,
        description="second stage",
    )


def _plan(config: RpnTrainingConfig, steps_of_passes: int) -> TrainingPlan:
    return TrainingPlan(
        num_steps=num_steps(max(config.min_steps, steps_of_passes), config),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_share=config.warmup_share,
        precision=config.precision,
        checkpoint_interval_steps=config.checkpoint_interval_steps,
        seed=config.seed,
    )


def _details(network: ProposalNetwork, config: RpnTrainingConfig) -> dict[str, Any]:
    return {
        "feature_dim": network.feature_dim,
        "backbone": config.backbone,
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        **pretrained_details(
            config, RPN, config.weights, license_of(config.weights), config.weights_license
        ),
    }


def _products_kept_apart(
    network: ProposalNetwork, scenes: Scenes, held_out: Sequence[int], config: RpnTrainingConfig
) -> dict[str, float]:
    """Retrieval by image alone, before and after training; empty if the backbone is frozen."""
    if not config.trainable_stages:
        return {}
    untrained = ProposalNetwork(NetworkSettings.from_config(config), config.weights)
    return {
        IMAGE_ONLY_BEFORE: image_only_map(untrained.to(network.device).eval(), scenes, held_out),
        IMAGE_ONLY: image_only_map(network, scenes, held_out),
    }


def _measure(
    scenes: Scenes,
    held_out: Sequence[int],
    proposals: Sequence[ScoredBoxes],
    selection: BoxSelection,
) -> dict[str, float]:
    """The network's figures, and those of three baselines on the same scenes.

    Whole photo and GrabCut have one box, so they are measured at one box only; the usual places of
    the train scenes' products are measured at as many boxes as the network has.
    """
    truth = [scenes.boxes_xyxy[position] for position in held_out]
    synthesis = BackgroundSynthesisConfig.model_validate(scenes.items.artifact.manifest.config)
    settings = GrabCutSettings.from_config(synthesis)

    def cut(position: int) -> Boxes:
        return grabcut_box(scenes.items.photo(position), settings)

    # GrabCut releases the interpreter's lock, so threads use all cores.
    with ThreadPoolExecutor(synthesis.num_workers) as pool:
        grabcut = list(track(pool.map(cut, held_out), "GrabCut baseline", len(held_out)))
    every_size = scenes.items.rows[["width", "height"]].to_numpy()
    sizes, known = every_size[list(held_out)], scenes.split("train")
    whole = [whole_image_box(width, height) for width, height in sizes]
    places = usual_places(
        [scenes.boxes_xyxy[position] for position in known], every_size[known], max(DEPTHS)
    )
    usual = [places * np.tile(size, 2).astype(np.float32) for size in sizes]
    baselines = {
        "whole_image": recalls(whole, truth, DEPTHS[:1]),
        "grabcut_box": recalls(grabcut, truth, DEPTHS[:1]),
        "usual_places": recalls(usual, truth),
    }
    return measure(proposals, truth, selection) | {
        f"{name}/{key}": value for name, own in baselines.items() for key, value in own.items()
    }


def _draw(
    path: Path,
    scenes: Scenes,
    held_out: Sequence[int],
    proposals: Sequence[ScoredBoxes],
    selection: BoxSelection,
) -> None:
    shown = list(held_out[:NUM_PICTURES])
    photos = [scenes.items.photo(position) for position in shown]
    truth = [scenes.boxes_xyxy[position] for position in shown]
    draw_proposals(path, photos, proposals, truth, selection)
