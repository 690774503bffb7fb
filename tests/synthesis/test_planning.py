"""Which products a scene shows, and which scenes are held out."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from product1m.config import BackgroundSynthesisConfig
from product1m.data.class_names import names_set
from product1m.synthesis.cutouts import Candidate, CutAttempt
from product1m.synthesis.planning import (
    PlanSettings,
    SourcePool,
    plan_scenes,
    split_sources,
)
from tests.support.worlds.drawn_products import captions

CONFIG = BackgroundSynthesisConfig(num_scenes=14, held_out_share=0.3)


def source(number: int, caption: str, group: int) -> CutAttempt:
    return CutAttempt(Candidate(number, f"s{number}", caption, group, "", 0, 0, ""), "", Path())


def planned(**changes: object) -> PlanSettings:
    return PlanSettings.from_config(
        BackgroundSynthesisConfig.model_validate(CONFIG.model_dump() | changes)
    )


def all_sources() -> list[CutAttempt]:
    return [source(number, caption, number) for number, caption in enumerate(captions())]


def brand_of(attempt: CutAttempt) -> str:
    return attempt.candidate.caption[:2]


def test_most_scenes_show_one_brand_where_titles_share_words() -> None:
    sources = [s for repeat in range(3) for s in all_sources()]
    alike = SourcePool(sources, planned(shared_words_share=1, repeat_share=0))
    mixed = SourcePool(sources, planned(shared_words_share=0, repeat_share=0))
    shares = []
    for pool in (alike, mixed):
        drawn = [pool.draw(np.random.default_rng(seed)) for seed in range(100)]
        shares.append(np.mean([len({brand_of(s) for s in scene}) == 1 for scene in drawn]))
    assert shares[0] > 0.8
    assert shares[1] < 0.5


def test_a_product_is_shown_twice_only_where_repeats_are_asked_for() -> None:
    for share in (0.0, 1.0):
        pool = SourcePool(all_sources(), planned(repeat_share=share))
        for seed in range(50):
            groups = [s.candidate.group for s in pool.draw(np.random.default_rng(seed))]
            assert 2 <= len(groups) <= 5
            assert len(groups) - len(set(groups)) == share


def test_one_source_alone_still_fills_a_scene() -> None:
    pool = SourcePool(all_sources()[:1], planned(min_products=3, max_products=3))
    assert len(pool.draw(np.random.default_rng(0))) == 3


def test_items_without_a_group_are_kept_apart_by_their_captions() -> None:
    sources = [source(number, f"caption {number // 2}", -1) for number in range(40)]
    split = split_sources(sources, planned())
    by_split = {name: {s.candidate.caption for s in own} for name, own in split.items()}
    assert not by_split["train"] & by_split["held_out"]
    assert (
        len(by_split["held_out"]) == 6
    )  # 4 of 14 scenes are held out, and so are 20 × 4 / 14 captions


def test_sources_of_a_label_are_held_out_together_and_a_group_joins_labels() -> None:
    labeled = [
        CutAttempt(
            Candidate(number, f"s{number}", "", number // 3, "", 0, 0, "", (f"p{number // 2}",)),
            "",
            Path(),
        )
        for number in range(60)
    ]
    split = split_sources(labeled, planned())
    for key in (lambda s: s.candidate.labels, lambda s: (s.candidate.group,)):
        train, held_out = ({key(s) for s in split[name]} for name in ("train", "held_out"))
        assert train
        assert held_out
        assert not train & held_out


def test_scenes_with_none_and_with_one_product_are_as_many_as_asked_for() -> None:
    settings = planned(
        num_scenes=400, held_out_share=0, empty_share=0.2, single_share=0.3, distractor_share=0.5
    )
    plans = list(plan_scenes({"train": all_sources(), "held_out": []}, ["room.jpg"], settings))
    counts = Counter(min(len(plan.sources), 2) for plan in plans)
    assert counts[0] / 400 == pytest.approx(0.2, abs=0.06)
    assert counts[1] / 400 == pytest.approx(0.3, abs=0.07)
    assert all(len(plan.sources) <= 5 for plan in plans)
    assert {plan.title for plan in plans if not plan.sources} == {""}
    distracted = [plan.num_distractors for plan in plans if plan.num_distractors]
    assert len(distracted) / 400 == pytest.approx(0.5, abs=0.08)
    assert set(distracted) == {1, 2, 3, 4}
    assert not any(plan.is_plain for plan in plans if len(plan.sources) > 1)
    without = planned(empty_share=0, single_share=0, distractor_share=0, turned_share=0)
    for plan in plan_scenes({"train": all_sources(), "held_out": all_sources()}, [], without):
        assert len(plan.sources) >= 2
        assert (plan.num_distractors, plan.is_turned) == (0, False)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("玫瑰礼盒", True),
        ("Gift SET for her", True),
        ("护肤两件套", True),
        ("玫瑰面霜50ml", False),
        ("精华2支装", True),
        ("红腰子 双瓶 50ml", True),
        ("保湿水 120ML*2", True),
        ("乳液120ML+爽肤水120ML", True),
        ("Shampoo 250 ml, 2-pack", True),
        ("防晒乳spf50+ 补水 50ml", False),
        ("1.5x3 cm", False),
        ("单支装口红 3g", False),
    ],
)
def test_titles_of_sets_are_known_by_their_words(caption: str, expected: bool) -> None:
    assert names_set(caption, CONFIG.set_words) is expected


@pytest.mark.parametrize(
    ("num_cutouts", "scenes_per_cutout", "expected"),
    [(5, 3, 40), (100, 3, 300), (500, 3, 720), (5, 0, 720), (101, 2.5, 252)],
)
def test_scenes_follow_the_cut_outs_between_a_minimum_and_the_configured_number(
    num_cutouts: int, scenes_per_cutout: float, expected: int
) -> None:
    plan = planned(num_scenes=720, held_out_share=0.1)
    sized = plan.sized(num_cutouts, scenes_per_cutout)
    assert sized.num_scenes == expected
    assert sized.num_held_out == round(expected / 10)
    assert planned(num_scenes=12).sized(num_cutouts, 3).num_scenes == 12


@pytest.mark.parametrize("num_photos", [2, 9, 60])
def test_train_and_held_out_scenes_share_no_background_and_no_source(num_photos: int) -> None:
    settings = planned(num_scenes=60)
    split = split_sources(all_sources(), settings)
    photos = [f"s3://backgrounds/{number}.jpg" for number in range(num_photos)]
    plans = list(plan_scenes(split, photos, settings))
    tried = {name: {b for p in plans if p.split == name for b in p.backgrounds} for name in split}
    pasted = {
        name: {s.candidate.id for p in plans if p.split == name for s in p.sources}
        for name in split
    }
    for used in (tried, pasted):
        assert used["train"]
        assert used["held_out"]
        assert not used["train"] & used["held_out"]
