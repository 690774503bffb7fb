"""Names of the parts of a registered model's folder; what they hold: `serving.model_folder`."""

from pathlib import Path

MODELS = "models:/"
"""How MLflow's addresses of models begin."""
LOGGED = "artifacts/model"
"""Where the folder is among the files of a version, which MLflow wrote."""
RPN, CAPTURE, INDEX, THUMBNAILS = "rpn", "capture", "index", "thumbnails"
STEP_OF = {
    RPN: "rpn_training",
    CAPTURE: "capture_pretraining",
    INDEX: "indexing",
    THUMBNAILS: "registration",
}
"""Folder to the step that wrote it."""
SERVING = "serving.json"


def model_in(folder: Path) -> Path:
    """The model folder among a version's files, or `folder` itself if it is one."""
    return folder if (folder / SERVING).is_file() else folder / LOGGED
