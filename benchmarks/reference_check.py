"""Run the reference preset end to end at its real sizes, with little data and few optimizer steps.

ResNet-101, 768 hidden dimensions, 4/4/4/4 layers and a BERT of the size of bert-base-chinese, on a
few dozen items of the sample. Their weights are random and made on the spot, so the figures mean
nothing; what is checked is that every step runs and that the registered model answers a photo.

    python benchmarks/reference_check.py build/reference-check --sample build/sample-data
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from product1m.config import load_config

NUM_CLASSES = 3
"""Classes of the sample to keep: about 50 train, 24 gallery and 30 query items."""
BERT_VOCABULARY = 21_128
"""Words of bert-base-chinese; the other sizes of the model are BertConfig's defaults."""
SIZES = (
    "hidden_dim",
    "text_layers",
    "visual_layers",
    "cross_layers",
    "joint_layers",
    "text_ffn_dim",
    "visual_ffn_dim",
    "cross_dim",
    "projection_dim",
    "max_tokens",
    "max_regions",
    "precision",
)
"""Settings of CAPTURE that the run must have as the preset says."""
SETTINGS = {
    # The amount of work; the sizes of the models stay those of the preset.
    "background_synthesis.num_scenes": "16",
    "rpn_training.num_epochs": "1",
    "rpn_training.batch_size": "4",
    "rpn_training.num_workers": "0",
    "feature_extraction.num_workers": "0",
    "feature_extraction.batch_size": "4",
    "capture_pretraining.num_epochs": "1",
    "capture_pretraining.batch_size": "16",
    "capture_pretraining.scene_batch_size": "8",
    # A gallery of 24 cannot fill 1,024 cells.
    "indexing.factory": "IVF4,SQ8",
    "evaluation.num_timed_queries": "5",
    "evaluation.encode_crops": "false",
    # Both hold for the sample's data; figures of random weights do not fail the check.
    "registration.max_leaked_photos": "1",
    "registration.sample_data": "true",
}


def main() -> None:
    arguments = parse_arguments()
    folder: Path = arguments.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start = time.monotonic()
    program = Path(sys.executable).with_name("product1m")
    subprocess.run(
        [program, "make-sample", folder / "data", "--from", arguments.sample,
         "--classes", str(NUM_CLASSES)],
        check=True,
    )  # fmt: skip
    write_resnet(folder / "resnet101.safetensors")
    write_bert(folder / "bert", folder / "data")
    settings = {
        **SETTINGS,
        "rpn_training.weights": str(folder / "resnet101.safetensors"),
        "capture_pretraining.text_model": str(folder / "bert"),
    }
    changes = [word for item in settings.items() for word in ("--set", "=".join(item))]
    pipelines = (sys.executable, "-m", "pipelines")
    subprocess.run(
        [*pipelines, "compile", "--preset", "reference", "-o", str(folder / "training.yaml")],
        check=True,
    )
    subprocess.run(
        [*pipelines, "run", "--preset", "reference", "--dataset", str(folder / "data"),
         "--output", str(folder / "run"), *changes],
        check=True,
    )  # fmt: skip
    print(f"{check_run(folder / 'run')}, {time.monotonic() - start:.0f} s")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder to write; replaced")
    parser.add_argument("--sample", type=Path, required=True, help="sample split to take items of")
    return parser.parse_args()


def write_resnet(path: Path) -> None:
    """Random weights of timm's ResNet-101."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("resnet101", pretrained=False).state_dict(), path)


def write_bert(folder: Path, data: Path) -> None:
    """A BERT of the size of bert-base-chinese with random weights; its words are characters."""
    import torch
    from transformers import BertConfig, BertModel

    characters = {
        character
        for path in data.glob("*_ossurl_v2.txt")
        for character in path.read_text("utf-8").lower()
        if not character.isspace()
    }
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(characters)]
    words += [f"[unused{number}]" for number in range(BERT_VOCABULARY - len(words))]
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=BERT_VOCABULARY), add_pooling_layer=False).save_pretrained(
        folder
    )
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")


def check_run(run: Path) -> str:
    """What ran, once its models have the sizes of the preset and the registered one answers alike.

    Raises:
        SystemExit: they have not, or it gave other answers than the evaluation.
    """
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    capture, registration = (
        manifest(summary["artifacts"][name]["path"]) for name in ("capture", "registration")
    )
    preset = load_config("reference").capture_pretraining
    for name in SIZES:
        expected, actual = getattr(preset, name), capture["config"][name]
        if actual != expected:
            sys.exit(f"capture_pretraining.{name}: expected {expected}, got {actual}")
    agreement = registration["metrics"]["served_agreement"]
    if agreement < 1:
        sys.exit(f"the registered model gave the evaluation's answers for {agreement:.0%} only")
    parameters = capture["details"]["num_parameters"] / 1e6
    return (
        f"The reference preset runs: CAPTURE with {parameters:.0f} M parameters, version "
        f"{summary['model']['version']} of {summary['model']['name']} answers as evaluated, "
        f"peak {summary['peak_memory_mib'] / 1024:.1f} GiB"
    )


def manifest(folder: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "manifest.json").read_text("utf-8"))
    return content


if __name__ == "__main__":
    main()
