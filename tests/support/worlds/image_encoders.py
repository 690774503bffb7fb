"""Small image encoders on disk, as their libraries write them, without a hub."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

SIDE_PX = 32
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 2, "image_size": SIDE_PX, "patch_size": 8}
CARD = "---\nlicense: other\nlicense_name: a-license\n---\n# A model\n"


def write_clip(folder: Path) -> CLIPModel:
    """A model like CLIP, with its text side; vectors of 12 numbers."""
    torch.manual_seed(0)
    text = CLIPTextConfig(**SIZES, num_attention_heads=2, vocab_size=40)
    vision = CLIPVisionConfig(**SIZES, **HEADS)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    side = {"height": SIDE_PX, "width": SIDE_PX}
    CLIPImageProcessor(size={"shortest_edge": SIDE_PX}, crop_size=side).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return model


def write_vit(folder: Path) -> ViTForImageClassification:
    """A ViT that classifies, as most are published: without a pooling layer."""
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**SIZES, **HEADS)).eval()
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": SIDE_PX, "width": SIDE_PX}).save_pretrained(folder)
    return model


def timm_model() -> Any:
    """A small ViT of timm without a classifier; vectors of 192 numbers."""
    torch.manual_seed(0)
    options = {"img_size": SIDE_PX, "depth": 1, "num_classes": 0}
    return timm.create_model("vit_tiny_patch16_224", **options).eval()


def write_timm(folder: Path) -> Any:
    """It as a folder."""
    model = timm_model()
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"img_size": SIDE_PX, "depth": 1},
        "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "license": "mit"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return model
