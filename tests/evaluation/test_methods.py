"""Names and wording of the rankings."""

from product1m.evaluation.methods import GROUPS, describe, group_of


def test_every_ranking_has_a_group() -> None:
    groups = {
        "shipped": "What ships",
        "joint": "CAPTURE alone",
        "image_text": "Without CAPTURE",
        "image_whole_photo": "Whole photo as one box",
        "merge_round_robin": "Other ways to merge the boxes' rankings",
        "oracle_boxes": "What pooling and detection cost",
        "oracle": "Ends of the scale",
    }
    assert {method: group_of(method) for method in groups} == groups
    assert list(groups.values()) == list(GROUPS)


def test_whole_photo_methods_are_described_by_their_base() -> None:
    assert describe("image_whole_photo") == f"{describe('image')}; whole photo at once"
    assert describe("something_new") == "something_new"
