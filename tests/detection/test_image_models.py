"""Image encoders from folders: vectors as their libraries compute them; broken ones are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.config import FeatureExtractionConfig
from product1m.detection.image_models import ImageModelEncoder
from product1m.errors import ConfigError
from tests.support.servers.s3_server import S3Server
from tests.support.worlds.image_encoders import SIDE_PX, write_clip, write_timm, write_vit

Writer = Callable[[Path], Any]
MEANS: dict[Writer, Any] = {
    write_clip: ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    write_vit: ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    write_timm: ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
}


def picture(side_px: int = SIDE_PX) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), np.uint8)


@torch.no_grad()
def expected(write: Writer, model: Any) -> np.ndarray:
    """The vector of `picture`, which needs no resizing, by the library's own model."""
    mean, std = (np.array(values, np.float32) for values in MEANS[write])
    pixels = (picture().astype(np.float32) / 255 - mean) / std
    batch = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    if write is write_clip:
        states = model.vision_model(pixel_values=batch).pooler_output
        return np.asarray(model.visual_projection(states)[0])
    if write is write_vit:
        return np.asarray(model.vit(pixel_values=batch).last_hidden_state[0, 0])
    return np.asarray(model(batch)[0])


@pytest.mark.parametrize("write", [write_clip, write_vit, write_timm])
def test_a_picture_gets_the_vector_of_the_librarys_own_model(write: Writer, tmp_path: Path) -> None:
    model = write(tmp_path / "encoder")
    encoder = ImageModelEncoder.open(str(tmp_path / "encoder"))
    np.testing.assert_allclose(encoder.encode(picture()), expected(write, model), atol=1e-5)
    assert encoder.encode(picture(90)).shape == (encoder.dim,)
    assert encoder.details["side_px"] == SIDE_PX


@pytest.mark.parametrize("write", [write_clip, write_vit, write_timm])
def test_an_artifact_holds_the_whole_encoder(write: Writer, tmp_path: Path) -> None:
    write(tmp_path / "encoder")
    encoder = ImageModelEncoder.open(str(tmp_path / "encoder"))
    with write_artifact(
        tmp_path / "index", "indexing", FeatureExtractionConfig(), part=""
    ) as writer:
        names = [path.name for path in encoder.save(writer.folder)]
    assert names == ["crop_encoder.safetensors", "crop_encoder.json"]
    loaded = ImageModelEncoder.load(open_artifact(tmp_path / "index", "indexing"), encoder.details)
    np.testing.assert_array_equal(loaded.encode(picture(50)), encoder.encode(picture(50)))
    assert loaded.details == encoder.details


def test_the_license_comes_from_the_setting_the_card_or_the_configuration(tmp_path: Path) -> None:
    clip, own = tmp_path / "clip", tmp_path / "timm"
    write_clip(clip)
    write_timm(own)
    assert ImageModelEncoder.open(str(clip)).details["license"] == "a-license"
    assert ImageModelEncoder.open(str(own)).details["license"] == "mit"
    named = ImageModelEncoder.open(str(own), "apache-2.0")
    assert named.details["license"] == "apache-2.0"
    assert named.key == ImageModelEncoder.open(str(own / "model.safetensors")).key


def test_a_timm_tower_of_open_clip_is_read(tmp_path: Path) -> None:
    tower: dict[str, Any] = {
        "timm_model_name": "test_vit",
        "timm_proj": "none",
        "image_size": 160,
    }
    model = timm.create_model("test_vit", num_classes=0).eval()
    folder = tmp_path / "open_clip"
    folder.mkdir()
    weights = {f"visual.trunk.{name}": value for name, value in model.state_dict().items()}
    save_file(weights | {"text.weight": torch.ones(2)}, folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": {"embed_dim": 8, "vision_cfg": tower},
        "preprocess_cfg": {"mean": [0] * 3},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert ImageModelEncoder.open(str(folder)).details["side_px"] == 160
    tower["timm_proj"] = "linear"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="not a plain model of timm"):
        ImageModelEncoder.open(str(folder))


def test_a_prefix_of_s3_is_read_like_a_folder(s3: S3Server, tmp_path: Path) -> None:
    write_clip(tmp_path / "encoder")
    address = s3.copy(tmp_path / "encoder", "encoders/clip")
    encoder, local = (ImageModelEncoder.open(n) for n in (address, str(tmp_path / "encoder")))
    assert encoder.key == local.key
    assert encoder.details["encoder"] == address
    np.testing.assert_array_equal(encoder.encode(picture()), local.encode(picture()))
    with pytest.raises(ConfigError, match="there are no files"):
        ImageModelEncoder.open(f"{address}-absent")


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def drop(tensors: dict[str, torch.Tensor], end: str) -> None:
    del tensors[next(name for name in tensors if name.endswith(end))]


def cut(tensors: dict[str, torch.Tensor], end: str) -> None:
    name = next(name for name in tensors if name.endswith(end))
    tensors[name] = tensors[name][:-1].clone()


def poison(tensors: dict[str, torch.Tensor], end: str) -> None:
    tensors[next(name for name in tensors if name.endswith(end))].fill_(float("nan"))


@pytest.mark.parametrize(
    ("write", "end"), [(write_vit, "layernorm.bias"), (write_timm, "norm.bias")]
)
@pytest.mark.parametrize(
    ("change", "message"),
    [(drop, "is missing"), (cut, "has the shape"), (poison, "holds values that are not finite")],
)
def test_a_folder_with_broken_weights_is_refused_by_their_name(
    write: Writer, end: str, change: Any, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    write(folder)
    edit_weights(folder, lambda tensors: change(tensors, end))
    with pytest.raises(ConfigError, match=rf"crop_encoder=.*not complete: .*{end} {message}"):
        ImageModelEncoder.open(str(folder))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def only_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    no_weights(folder)


def other_file(folder: Path) -> None:
    edit_config(folder, lambda config: config["model_args"].update(checkpoint_path="evil.pth"))


def huge(folder: Path) -> None:
    edit_config(folder, lambda config: config["model_args"].update(embed_dim=10**9))


def unknown(folder: Path) -> None:
    edit_config(folder, lambda config: config.update(architecture="local-dir:/tmp"))


def edit_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("write", "change", "message"),
    [
        (write_timm, no_config, r"it has no config\.json"),
        (write_timm, no_weights, r"it has no model\.safetensors"),
        (write_vit, only_pickle, "cannot be loaded"),
        (write_timm, other_file, "sets checkpoint_path of the model"),
        (write_timm, huge, "embed_dim is 1000000000, expected at most"),
        (write_timm, unknown, "timm has no model 'local-dir:/tmp'"),
    ],
)
def test_a_folder_that_is_not_an_encoder_is_refused(
    write: Writer, change: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    write(folder)
    change(folder)
    with pytest.raises(ConfigError, match=message):
        ImageModelEncoder.open(str(folder))


def test_code_that_a_configuration_names_is_not_used(tmp_path: Path) -> None:
    write_vit(tmp_path / "encoder")
    plain = ImageModelEncoder.open(str(tmp_path / "encoder")).encode(picture())
    named = {
        "attn_implementation": "somebody/attention",
        "_attn_implementation": "somebody/attention",
        "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"},
    }
    edit_config(tmp_path / "encoder", lambda config: config.update(named))
    (tmp_path / "encoder" / "code.py").write_text("raise SystemExit")
    again = ImageModelEncoder.open(str(tmp_path / "encoder")).encode(picture())
    np.testing.assert_array_equal(again, plain)


def test_a_text_model_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 32}))
    with pytest.raises(ConfigError, match="'bert' is not an image encoder"):
        ImageModelEncoder.open(str(folder))
    with pytest.raises(ConfigError, match="no such folder; expected backbone, timm:NAME"):
        ImageModelEncoder.open(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="timm has no such weights"):
        ImageModelEncoder.open("timm:vit_tiny_patch16_224.nothing")
