"""How far a catalogue has moved from what its model knows."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from product1m.catalogue.drift import DriftLimits, Sign, signs_of_drift
from product1m.retrieval.index import GalleryIndex, make_index

WIDTHS = {"joint": 2, "image": 3, "text": 2}
LIMITS = DriftLimits(0.3, 2.0, 0.9, 0.5)


def item(angle: float) -> np.ndarray:
    """A vector whose photo turns by an angle; all titles are alike but for a tenth of it."""
    photo = [np.cos(angle), np.sin(angle), 0]
    title = [np.cos(angle / 10), np.sin(angle / 10)]
    return np.array([1, 0, *photo, *title], np.float32)


KNOWN = {"a": 0.0, "b": 0.1, "c": 0.2}
NEW = {"d": 0.5}


def table(items: dict[str, float]) -> pd.DataFrame:
    return pd.DataFrame({"id": list(items), "sha256": list(items), "caption": "cream"})


def signs(items: dict[str, float], queries: str = "", canaries: float = 1.0) -> dict[str, Sign]:
    index = make_index("Flat", 7, 3, 1, 0)
    index.add(np.stack([item(angle) for angle in KNOWN.values()]))
    known = GalleryIndex(index, table(KNOWN))
    found = signs_of_drift(
        known,
        WIDTHS,
        table(items),
        lambda rows: np.stack([item(items[each]) for each in rows["id"]]),
        canaries,
        queries,
        LIMITS,
        0,
    )
    return {sign.name: sign for sign in found}


def test_a_catalogue_of_known_items_has_not_drifted() -> None:
    found = signs(KNOWN)
    assert {name: sign.value for name, sign in found.items()} == {
        "new_share": 0.0,
        "canaries_found": 1.0,
    }
    assert not any(sign.drifted for sign in found.values())


def test_new_items_are_compared_with_how_far_known_ones_lie_apart() -> None:
    found = signs({**KNOWN, **NEW})
    assert found["new_share"] == Sign("new_share", 0.25, 0.3, False)
    # Each known photo is 0.1 from its neighbor, the new one 0.3 from the nearest.
    photos = (1 - np.cos(0.3)) / (1 - np.cos(0.1))
    titles = (1 - np.cos(0.03)) / (1 - np.cos(0.01))
    assert found["photo_distance"].value == pytest.approx(photos, rel=0.01)
    assert found["photo_distance"].drifted
    assert found["title_distance"].value == pytest.approx(titles, rel=0.05)


def test_canaries_and_the_match_scores_of_kept_queries_count(tmp_path: Path) -> None:
    for number, scores in enumerate(([0.2], [0.4, 0.9], [])):
        boxes = [{"answers": [{"match_score": score}]} for score in scores]
        kept = {"boxes": [*boxes, {"answers": []}]}
        (tmp_path / f"{number}.json").write_text(json.dumps(kept))
    found = signs(KNOWN, str(tmp_path), canaries=0.8)
    assert found["recent_match_score"].value == pytest.approx((0.2 + 0.4 + 0.9) / 3)
    assert not found["recent_match_score"].drifted
    assert found["canaries_found"].drifted
