"""Settings of the smallest CAPTURE that trains: one layer of each type, 32 numbers wide."""

from product1m.config import CapturePretrainingConfig

SMALL = CapturePretrainingConfig(
    text_model="scratch",
    hidden_dim=32,
    text_layers=1,
    visual_layers=1,
    cross_layers=1,
    joint_layers=1,
    text_heads=2,
    visual_heads=2,
    text_ffn_dim=64,
    visual_ffn_dim=64,
    cross_dim=32,
    projection_dim=16,
    precision="float32",
)
