"""The registered model as MLflow runs it: this file is logged as its code.

Input, one row a photo: `photo` (the file's bytes, or their base64 as text, also with line ends or
as a `data:` URI) and `title`. Output, row for row: `ids` and `labels` of the merged ranking, and
`instances`, each with its box, detector score (`score`) and own ranking. `match_scores` say how
probable it is that each answer is the product in the box, 0 to 1, and `in_catalogue` is false if
the box's product is probably not in the catalogue; `shared_points` count the points that each
answer's photo shares with the box, and `shared_points_xy` say where they are. All are null in a
model that has none.
Parameter `top_k`: length of every ranking.

Nothing is loaded unless a trusted signature covers every file, see `serving.signatures`. MLflow
runs this file before it can be checked; that only reviewers can change it is up to the server's
permissions (docs/registry.md).
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from product1m.data.limits import photo_from_text
from product1m.errors import PhotoError, Product1MError, QueryError
from product1m.serving.model_folder import CODE, MODEL_FOLDER
from product1m.serving.service import SearchService
from product1m.serving.signatures import Trust, remove_bytecode, require_signed, signature_of


class ProductSearch(PythonModel):  # type: ignore[misc]  # mlflow's types are not followed
    """A photo and its title to per-instance rankings of the gallery."""

    _service: SearchService

    def load_context(self, context: PythonModelContext) -> None:
        """Verify and load everything once; MLflow calls this by keyword."""
        model = Path(context.artifacts[MODEL_FOLDER])
        folder = model.parent.parent
        remove_bytecode(folder / CODE.name)
        require_signed(folder, signature_of(folder), Trust.from_options(), folder.name)
        self._service = SearchService.load(model)

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  MLflow's signature
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Answer a batch; what the caller can fix becomes a bad request, not a crash."""
        try:
            photos = [
                _photo_bytes(photo, position, self._service.config.ingestion.max_photo_bytes)
                for position, photo in enumerate(model_input["photo"])
            ]
            titles = [_title(title, row) for row, title in enumerate(model_input["title"])]
            answers = self._service.answer(photos, titles, int((params or {}).get("top_k", 10)))
        except Product1MError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        rows = [self._service.row(answer) for answer in answers]
        return pd.DataFrame(rows, index=model_input.index)


def _photo_bytes(photo: Any, position: int, max_bytes: int) -> bytes:
    if isinstance(photo, bytes | bytearray | memoryview):
        return bytes(photo)
    if not isinstance(photo, str):
        expected = "expected a photo file's bytes or their base64 as text"
        raise QueryError("photo", position, f"{expected}, got {type(photo).__name__}")
    try:
        return photo_from_text(photo, max_bytes)
    except PhotoError as error:
        raise QueryError("photo", position, error) from error


def _title(title: Any, position: int) -> str:
    if not isinstance(title, str):
        raise QueryError("title", position, f"expected text, got {title!r:.80}")
    return title


set_model(ProductSearch())
