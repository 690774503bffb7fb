"""What is measured of match scores on the test queries, and what readers are told about it."""

FIGURES = {
    "told_missing": 'boxes told "not in the catalogue", of those whose product was removed from it',
    "lost": "boxes told so, of those whose product is there",
    "lost_right": "boxes told so, of those whose first answer is right",
    "told_nothing": "boxes told so, of those that lie on no product",
    "believed_right": "right first answers, of the boxes that are not told so",
}
