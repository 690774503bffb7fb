"""timm, and the parts of torchvision that detection uses: the only place that imports them.

Both import PyTorch's compiler for two of its functions, which takes as long as importing PyTorch
itself. We compile nothing, so the compiler is imported only if one of these functions is called.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_UTILITIES = f"{_COMPILER}.utils"


class _LateModule(ModuleType):
    """Stands in for a module of the compiler; any name but `functions` imports the real module."""

    def __init__(self, name: str, functions: dict[str, Any]) -> None:
        super().__init__(name)
        self.__path__: list[str] = []  # looks like a package to importers
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _remove_late_modules()
        return getattr(importlib.import_module(self.__name__), name)


def _remove_late_modules() -> None:
    for name in (_COMPILER, _UTILITIES):
        if isinstance(sys.modules.get(name), _LateModule):
            del sys.modules[name]


def _is_compile_supported(device: Any) -> bool:
    return bool(importlib.import_module(_UTILITIES).is_compile_supported(device))


def _disable(function: Callable[..., Any] | None, *args: Any, **options: Any) -> Callable[..., Any]:
    """`function`, excluded from compilation at its first call; a decorator if it is None."""
    if function is None:
        return functools.partial(_disable, **options)

    @functools.wraps(function)
    def call(*call_args: Any, **call_options: Any) -> Any:
        compiler = importlib.import_module(_COMPILER)
        return compiler.disable(function, *args, **options)(*call_args, **call_options)

    return call


@contextmanager
def _late_compiler() -> Iterator[None]:
    """Within the block, `import torch._dynamo` costs nothing."""
    if _COMPILER in sys.modules:
        yield
        return
    utilities = _LateModule(_UTILITIES, {"is_compile_supported": _is_compile_supported})
    sys.modules[_COMPILER] = _LateModule(_COMPILER, {"disable": _disable, "utils": utilities})
    sys.modules[_UTILITIES] = utilities
    try:
        yield
    finally:
        _remove_late_modules()


@functools.cache
def load_timm() -> Any:
    """The module timm, which imports all its models and a client of the model hub."""
    with _late_compiler():
        import timm
    return timm


with _late_compiler():
    from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import TwoMLPHead
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.rpn import (
        RegionProposalNetwork,
        RPNHead,
        concat_box_prediction_layers,
    )
    from torchvision.ops import (
        FeaturePyramidNetwork,
        MultiScaleRoIAlign,
        box_iou,
        clip_boxes_to_image,
        nms,
        roi_align,
    )
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

__all__ = [
    "AnchorGenerator",
    "BalancedPositiveNegativeSampler",
    "BoxCoder",
    "FeaturePyramidNetwork",
    "ImageList",
    "LastLevelMaxPool",
    "MultiScaleRoIAlign",
    "RPNHead",
    "RegionProposalNetwork",
    "TwoMLPHead",
    "box_iou",
    "clip_boxes_to_image",
    "concat_box_prediction_layers",
    "load_timm",
    "nms",
    "roi_align",
]
