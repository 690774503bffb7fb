"""Titles of scenes: what their products' captions share, in whole words."""

import numpy as np

from product1m.synthesis.scene_titles import TitleComposer, longest_shared, units
from tests.support.worlds.drawn_products import captions


def test_a_title_opens_with_what_all_captions_share() -> None:
    own = list(captions())[:6]
    for seed in range(10):
        title = TitleComposer(captions()).compose(own, 34, np.random.default_rng(seed))
        assert len(title) <= 34
        assert longest_shared([units(caption) for caption in own])
        assert "".join(longest_shared([units(caption) for caption in own])) in title.replace(
            " ", ""
        )


def test_a_title_of_latin_captions_keeps_their_words_whole() -> None:
    own = ["Lay's Potato chips, paprika 125g", "Lay's Oven Baked crackers, sea salt 100g"]
    for seed in range(10):
        title = TitleComposer(own).compose(own, 34, np.random.default_rng(seed))
        words = title.split()
        assert set(words) <= set(" ".join(own).replace(",", "").split())
        assert words[0] == "Lay's"
        assert title not in own


def test_titles_are_cut_into_words_that_occur_elsewhere() -> None:
    known = ["补水保湿面霜", "保湿补水乳液", "面霜补水", "乳液保湿", "保湿面霜"]
    pieces = TitleComposer(known).pieces(units("补水保湿面霜"))
    assert ["".join(piece) for piece in pieces] == ["补水", "保湿", "面霜"]


def test_the_shared_run_equals_a_search_through_all_runs() -> None:
    texts = [units(text) for text in ("花露AURA玫瑰面霜", "正品花露AURA海盐", "AURA花露AURA面膜")]
    best = ""
    joined = [" ".join(text) for text in texts]
    for start in range(len(texts[0])):
        for stop in range(start + 1, len(texts[0]) + 1):
            run = " ".join(texts[0][start:stop])
            if all(f" {run} " in f" {text} " for text in joined) and len(run) > len(best):
                best = run
    assert " ".join(longest_shared(texts)) == best == "花 露 AURA"
