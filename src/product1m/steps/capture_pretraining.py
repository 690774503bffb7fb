"""Pretrain CAPTURE on items and on scenes whose products are known (paper; scenes: ours)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.artifacts.model_parts import CAPTURE
from product1m.artifacts.work import work_folder
from product1m.capture.batches import (
    BatchSettings,
    PretrainingBatch,
    PretrainingBatches,
    feature_moments,
)
from product1m.capture.bert import load_bert
from product1m.capture.bert_files import license_of
from product1m.capture.crop_adaptation import ADAPTED, learn_adaptation
from product1m.capture.instance_recall import instance_recall
from product1m.capture.network import (
    WEIGHTS,
    Capture,
    LoadedCapture,
    build_capture,
    heads_for,
    network_sizes,
)
from product1m.capture.pretext import PretextTasks, pretext_losses
from product1m.capture.tokens import TitleTokenizer, bert_tokenizer, train_tokenizer
from product1m.config import CapturePretrainingConfig
from product1m.data.regions import FeatureSet
from product1m.errors import ArtifactError, ConfigError
from product1m.steps.bracket import open_step
from product1m.telemetry.tracking import StepRun
from product1m.training import distributed
from product1m.training.earlier_weights import num_steps, pretrained_details, weights_of
from product1m.training.exact import deterministic_kernels
from product1m.training.loop import TrainingPlan, train
from product1m.training.optimizer import ParameterGroup
from product1m.training.weights import load_weights, plain_state

STEP = "capture_pretraining"
PICTURE = "losses.png"
SCRATCH = "scratch"
STANDARDIZATION = ("standardization.mean", "standardization.deviation")
"""Weights that come from the items, whatever model training starts from."""
MAX_UNKNOWN = 0.05
"""Largest share of words that a model to start from may not know (ours)."""
NUM_POINTS = 200
"""Points of a loss curve (ours)."""


def run(
    train_features: Path, scene_features: Path, checkpoint: Path, config: CapturePretrainingConfig
) -> dict[str, float]:
    """Train on the train items and the `train` scenes, measure on the `held_out` scenes.

    Continues from the last checkpoint after a kill. Under `torchrun` every rank calls it, and
    rank 0 writes.

    Raises:
        ArtifactError: the two feature sets come from different RPNs or from different ingestions.
        TrainingError: the loss is not finite; the last good checkpoint is kept.
    """
    with distributed.process_group():
        if distributed.rank() > 0:
            inputs = _open(train_features, scene_features)
            work = work_folder(checkpoint, STEP, config, inputs)
            _Pretraining.prepare(inputs, config).train(work)
            return {}
        with open_step(STEP, config, checkpoint) as step:
            inputs = step.read(_open(train_features, scene_features))
            work = step.work_folder()
            training = _Pretraining.prepare(inputs, config)
            curve = training.train(work, step.tracking)
            training.tokenizer.save(step.folder)
            save_file(plain_state(training.capture), step.folder / WEIGHTS)
            draw_losses(curve, step.folder / PICTURE)
            step.details.update(training.details())
            adaptation = learn_adaptation(training.items, training.scenes, config.seed)
            if adaptation is not None:
                adaptation.save(step.folder)
                step.details[ADAPTED] = adaptation.encoder
                step.metrics.update(adaptation.metrics)
            loaded = LoadedCapture(
                training.capture.eval(), training.tokenizer, network_sizes(config)
            )
            step.metrics.update(_last_losses(curve))
            step.metrics.update(instance_recall(loaded, training.items, training.scenes))
            step.attach(PICTURE)
    step.remove_work()
    return step.all_metrics()


@dataclass
class _Pretraining:
    """Inputs, tokenizer and network of a training: equal on every rank and in every attempt."""

    config: CapturePretrainingConfig
    items: FeatureSet
    scenes: FeatureSet
    tokenizer: TitleTokenizer
    capture: Capture
    groups: list[ParameterGroup]

    @classmethod
    def prepare(
        cls, inputs: dict[str, Artifact], config: CapturePretrainingConfig
    ) -> "_Pretraining":
        torch.manual_seed(config.seed)
        items, scenes = FeatureSet(inputs["train_features"]), FeatureSet(inputs["scene_features"])
        from_scratch = config.text_model == SCRATCH
        tokenizer = _tokenizer(items, config)
        capture = build_capture(
            network_sizes(config), heads_for(config), tokenizer.vocabulary_size, items.feature_dim
        )
        mean, deviation = feature_moments(items)
        capture.standardization.fit(torch.from_numpy(mean), torch.from_numpy(deviation))
        pretrained = [] if from_scratch else load_bert(capture.text, config.text_model)
        if config.warm_start:
            with weights_of(config, CAPTURE) as earlier:
                load_weights(capture, earlier.file(WEIGHTS), keep=STANDARDIZATION)
        groups = parameter_groups(capture, pretrained, config.text_learning_rate_multiplier)
        return cls(config, items, scenes, tokenizer, capture, groups)

    def train(self, work: Path, tracking: StepRun | None = None) -> list[dict[str, float]]:
        """Train the network in place; the loss curve."""
        config = self.config
        batches = PretrainingBatches(
            self.items, self.scenes, self.tokenizer, batch_settings(config)
        )
        plan = _plan(config, batches.batches_per_epoch)
        tasks = pretext_tasks(config)

        def report(step: int, terms: dict[str, float]) -> None:
            if tracking is not None:
                tracking.log_metrics({f"loss/{name}": value for name, value in terms.items()}, step)

        def losses(
            capture: Capture, batch: PretrainingBatch, num_parts: int = 1
        ) -> dict[str, Tensor]:
            return pretext_losses(capture, batch, tasks, num_parts)

        with deterministic_kernels(distributed.device()):
            return train(
                self.capture,
                losses,
                batches,
                plan,
                work=work,
                report=report,
                groups=self.groups,
                description="capture pretraining",
                max_parts=config.batch_size,
            )

    def details(self) -> dict[str, object]:
        """Sizes and origin that the manifest states."""
        config = self.config
        known = license_of(config.text_model)
        return {
            "feature_dim": self.items.feature_dim,
            "vocabulary_size": self.tokenizer.vocabulary_size,
            "rpn": self.items.artifact.manifest.details["rpn"],
            "num_parameters": sum(p.numel() for p in self.capture.parameters()),
            **pretrained_details(
                config, CAPTURE, config.text_model, known, config.text_model_license
            ),
        }


def _tokenizer(items: FeatureSet, config: CapturePretrainingConfig) -> TitleTokenizer:
    """The words of the text model, of the train titles, or of the model that training starts from.

    Raises ConfigError if that model's words or region vectors are not those of the items.
    """
    if not config.warm_start:
        if config.text_model == SCRATCH:
            return train_tokenizer(items.rows["caption"], config.vocabulary_size)
        return bert_tokenizer(config.text_model)
    with weights_of(config, CAPTURE) as earlier:
        tokenizer, feature_dim = (
            TitleTokenizer.load(earlier),
            earlier.manifest.details["feature_dim"],
        )
    where = f"capture_pretraining.warm_start={config.warm_start!r}"
    if feature_dim != items.feature_dim:
        raise ConfigError(
            f"{where}: it reads region vectors of {feature_dim} numbers, and the items' have "
            f"{items.feature_dim}; train from scratch, or keep the model's rpn_training.backbone"
        )
    unknown = tokenizer.unknown_share(items.rows["caption"])
    if unknown > MAX_UNKNOWN:
        raise ConfigError(
            f"{where}: its vocabulary does not know {unknown:.0%} of the words in the titles, at "
            f"most {MAX_UNKNOWN:.0%} may be; train from scratch"
        )
    return tokenizer


def batch_settings(config: CapturePretrainingConfig) -> BatchSettings:
    """How this section's batches are made; a task without a weight masks and draws nothing."""
    probability = config.mask_probability
    return BatchSettings(
        batch_size=config.batch_size,
        scene_batch_size=config.scene_batch_size if config.scene_contrast_weight else 0,
        max_tokens=config.max_tokens,
        max_regions=config.max_regions,
        token_mask_probability=probability if config.masked_language_weight else 0.0,
        region_mask_probability=probability if config.masked_region_weight else 0.0,
        mask_overlap_iou=config.mask_overlap_iou,
        scene_proposal_probability=config.scene_proposal_probability,
        scene_proposal_iou=config.scene_proposal_iou,
        seed=config.seed,
    )


def pretext_tasks(config: CapturePretrainingConfig) -> PretextTasks:
    """This section's tasks."""
    return PretextTasks(
        contrast=config.contrast_weight,
        masked_language=config.masked_language_weight,
        masked_region=config.masked_region_weight,
        image_text_matching=config.image_text_matching_weight,
        scene_contrast=config.scene_contrast_weight,
        contrast_kind=config.contrast,
        temperature=config.temperature,
        learn_temperature=config.learn_temperature,
        hard_negatives=config.matching_negatives == "hard",
    )


def _plan(config: CapturePretrainingConfig, batches_per_epoch: int) -> TrainingPlan:
    steps_of_passes = batches_per_epoch * config.num_epochs // config.accumulation_steps
    steps = num_steps(max(1, config.min_steps, steps_of_passes), config)
    return TrainingPlan(
        num_steps=steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_share=config.warmup_share,
        max_gradient_norm=config.max_gradient_norm,
        accumulation_steps=config.accumulation_steps,
        precision=config.precision,
        checkpoint_interval_steps=config.checkpoint_interval_steps,
        report_interval_steps=max(1, steps // NUM_POINTS),
        seed=config.seed,
    )


def parameter_groups(
    capture: Capture, pretrained: list[nn.Parameter], multiplier: float
) -> list[ParameterGroup]:
    """Weights from BERT at `multiplier` times the learning rate, all others at the full rate."""
    taken = {id(parameter) for parameter in pretrained}
    others = [p for p in capture.parameters() if id(p) not in taken]
    return [ParameterGroup(others), ParameterGroup(pretrained, multiplier)]


def _open(train_features: Path, scene_features: Path) -> dict[str, Artifact]:
    inputs = {
        "train_features": open_artifact(train_features, "feature_extraction", "train"),
        "scene_features": open_artifact(scene_features, "feature_extraction", "scenes"),
    }
    made_by = [artifact.manifest.details["rpn"] for artifact in inputs.values()]
    if made_by[0] != made_by[1]:
        raise ArtifactError(
            f"{scene_features}: features of the RPN {made_by[1]}, but {train_features} has those "
            f"of {made_by[0]}; extract both with the same RPN"
        )
    return inputs


def _last_losses(curve: list[dict[str, float]]) -> dict[str, float]:
    """The last point of the curve, and how many steps led there."""
    last = dict(curve[-1])
    num_steps = last.pop("step")
    del last["learning_rate"]
    return {"num_steps": num_steps, **{f"loss/{name}": value for name, value in last.items()}}


def draw_losses(curve: list[dict[str, float]], path: Path) -> None:
    """Draw every term over the steps."""
    from matplotlib.figure import Figure

    names = [name for name in curve[0] if name not in {"step", "learning_rate"}]
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axes.plot([row["step"] for row in curve], [row[name] for row in curve])
        axes.set(title=name.replace("_", " "), xlabel="step", ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
