"""Which queries a report shows, and their photos."""

import numpy as np
import pandas as pd

from product1m.data.photos import decode_photo
from product1m.evaluation.report import (
    choose_queries,
    thumbnail,
)


def test_queries_are_chosen_best_worst_and_at_random_without_overlap() -> None:
    ap = pd.Series(np.linspace(0, 1, 101), [f"q{n:03d}" for n in range(101)])
    chosen = choose_queries(ap, 11, seed=0)
    by_tag = {
        tag: [q for q, query_tag in chosen.items() if query_tag == tag]
        for tag in ("best", "worst", "random")
    }
    assert by_tag["best"] == ["q100", "q099", "q098"]
    assert by_tag["worst"] == ["q000", "q001", "q002"]
    assert len(by_tag["random"]) == 5
    assert choose_queries(ap, 11, seed=0) == chosen
    assert choose_queries(ap, 11, seed=1) != chosen
    assert set(choose_queries(ap[:2], 11, seed=0)) == {"q000", "q001"}


def test_a_thumbnail_keeps_proportions_and_never_grows() -> None:
    photo = np.full((300, 600, 3), 200, np.uint8)
    assert decode_photo(thumbnail(photo, 100), "t").shape == (50, 100, 3)
    assert decode_photo(thumbnail(photo, 1000), "t").shape == (300, 600, 3)
