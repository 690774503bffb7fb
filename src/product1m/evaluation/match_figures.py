"""The figures of match scores on the test queries, and how reports describe them."""

FIGURES = {
    "absent_detected": '"not in the catalogue", of the boxes whose product was removed from it',
    "lost": '"not in the catalogue", of the boxes whose product is in it',
    "lost_right": '"not in the catalogue", of the boxes whose first answer is right',
    "nothing_detected": '"not in the catalogue", of the boxes that lie on no product',
    "accepted_right": "right first answers, of the boxes that get an answer",
}
