"""Texts in Arrow's buffers, and the places that they are found at."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from product1m.data import texts as module
from product1m.data.texts import Places, Texts

WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), unique=True)


@given(WORDS, WORDS)
def test_every_text_is_found_where_a_dictionary_has_it(words: list[str], others: list[str]) -> None:
    asked = [*others, *words]
    expected = {word: place for place, word in enumerate(words)}
    found = Places(Texts(words)).find(asked)
    assert found.tolist() == [expected.get(word, -1) for word in asked]


def test_texts_with_equal_hashes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hash", len, raising=False)
    places = Places(Texts(["ab", "c", "de", "fg"]))
    assert places.find(["fg", "xy", "c", "ab", "de"]).tolist() == [3, -1, 1, 0, 2]
    assert places["de"] == 2
    with pytest.raises(KeyError, match="xy"):
        places["xy"]


def test_texts_are_a_sequence_whatever_they_come_from() -> None:
    words = [f"商品 {number}" for number in range(20_000)]
    for source in (words, iter(words), pd.Series(words), pd.Series(words, dtype="str")):
        texts = Texts(source)
        assert list(texts) == words
        assert texts[-1] == texts.at([19_999])[0] == "商品 19999"
        assert texts[2:4] == words[2:4]
