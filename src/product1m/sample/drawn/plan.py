"""The plan of the sample: ids, titles, labels, and what each photo shows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64

from product1m.sample.drawn.catalogue import BRANDS, PRODUCTS, Product, products_of
from product1m.sample.drawn.seller_titles import TitleWriter

ListName = Literal["train", "gallery", "dev", "test"]
LISTS: tuple[ListName, ...] = ("train", "gallery", "dev", "test")

_UNITS = (1, 2, 3, 4, 5, 7)
_UNIT_SHARES = (0.02, 0.455, 0.345, 0.115, 0.055, 0.01)
"""Products per query: the histogram of the real dev list, 2.77 on average."""

_REPEAT_SHARE = 0.15
"""Queries with a product shown twice (real lists: 14 % of dev, 16 % of test)."""

_REPEATED: dict[ListName, tuple[float, float]] = {
    "train": (0.04, 0.06),
    "gallery": (0.03, 0.02),
    "dev": (0.05, 0.1),
    "test": (0.05, 0.1),
}
"""Share of rows with another row's photo, and with its title (real lists: about 5 %, 13 %)."""


@dataclass(frozen=True)
class SampleSizes:
    """How many items each list has."""

    train_singles: int = 700
    train_sets: int = 260
    gallery: int = 448
    dev: int = 110
    test: int = 260
    backgrounds: int = 40
    recipes_per_brand: int = 9
    """Product sets that sellers of a brand offer: queries repeat them, as the real lists do."""


@dataclass(frozen=True)
class SampleRow:
    """An item to write."""

    id: str
    title: str
    url: str
    products: tuple[Product, ...]
    """Products in the photo; the list does not name those of a train row."""
    list_name: ListName
    photo_seed: tuple[int, ...]
    """Equal seeds and products give equal photos."""
    photo_kind: Literal["single", "set", "query"]


def plan_rows(sizes: SampleSizes, seed: int) -> dict[ListName, list[SampleRow]]:
    """The rows of all four lists."""
    planner = _Planner(sizes, seed)
    rows: dict[ListName, list[SampleRow]] = {
        "train": planner.train(),
        "gallery": planner.gallery(),
        "dev": planner.queries("dev", sizes.dev),
        "test": planner.queries("test", sizes.test),
    }
    planner.duplicate(rows)
    return rows


class _Planner:
    def __init__(self, sizes: SampleSizes, seed: int) -> None:
        self._sizes = sizes
        self._seed = seed
        self._rng = np.random.default_rng([seed, 1])
        self._titles = TitleWriter(np.random.default_rng([seed, 2]))
        self._ids: set[str] = set()
        self._num_photos = 0
        self._recipes = self._draw_recipes()

    def train(self) -> list[SampleRow]:
        """Single products, skewed towards the popular, and sets; shuffled."""
        singles = self._spread(
            self._sizes.train_singles, least=max(1, self._sizes.train_singles // 112)
        )
        rows = [
            self._row("train", "single", (product,), self._titles.single(product))
            for product in singles
        ]
        for _ in range(self._sizes.train_sets):
            recipe = self._train_set()
            rows.append(self._row("train", "set", recipe, self._titles.multiple(recipe)))
        return [rows[index] for index in self._rng.permutation(len(rows))]

    def gallery(self) -> list[SampleRow]:
        """Single products, about equally many of each."""
        rows = []
        for index in range(self._sizes.gallery):
            product = PRODUCTS[index % len(PRODUCTS)]
            rows.append(self._row("gallery", "single", (product,), self._titles.single(product)))
        return [rows[index] for index in self._rng.permutation(len(rows))]

    def queries(self, list_name: ListName, number: int) -> list[SampleRow]:
        """Sets that sellers offer: a few recipes, repeated often."""
        rows = []
        for recipe in self._query_recipes(list_name, number):
            distinct = list(dict.fromkeys(recipe))
            named = [product for product in distinct if self._rng.random() < 0.1]
            rows.append(self._row(list_name, "query", recipe, self._titles.multiple(recipe, named)))
        return [rows[index] for index in self._rng.permutation(len(rows))]

    def duplicate(self, rows: dict[ListName, list[SampleRow]]) -> None:
        """Repeat photos and titles within and across lists, and put HTML entities into titles."""
        for name, (photo_share, title_share) in _REPEATED.items():
            self._repeat(rows[name], rows[name], photo_share, title_share)
        self._repeat(rows["test"], rows["dev"], 0.03, 0.08)
        sets = [row for row in rows["train"] if row.photo_kind == "set"]
        self._repeat_photos_into_train(rows["train"], sets, rows["test"])
        for listed in rows.values():
            for index in self._positions(listed, 0.01, least=1):
                listed[index] = replace(
                    listed[index], title=self._titles.entity(listed[index].title)
                )

    def _repeat(
        self,
        rows: list[SampleRow],
        sources: Sequence[SampleRow],
        photo_share: float,
        title_share: float,
    ) -> None:
        """Give rows the photo or title of another row that shows the same products."""
        for index in self._positions(rows, photo_share, least=2):
            for source in self._alike(rows[index], sources):
                rows[index] = replace(
                    rows[index],
                    photo_seed=source.photo_seed,
                    products=source.products,
                    url=source.url,
                )
        for index in self._positions(rows, title_share, least=2):
            for source in self._alike(rows[index], sources):
                rows[index] = replace(rows[index], title=source.title)

    def _alike(self, row: SampleRow, sources: Sequence[SampleRow]) -> list[SampleRow]:
        """Another row with the same products, if there is one."""
        labels = sorted(product.label for product in row.products)
        same = [
            source
            for source in sources
            if source.id != row.id
            and sorted(product.label for product in source.products) == labels
        ]
        return [same[int(self._rng.integers(len(same)))]] if same else []

    def _repeat_photos_into_train(
        self, train: list[SampleRow], sets: Sequence[SampleRow], queries: Sequence[SampleRow]
    ) -> None:
        """Make some train photos the photo of a query: leakage that ingestion must report."""
        for index in self._positions(sets, 0.03, least=1):
            query = queries[int(self._rng.integers(len(queries)))]
            train[train.index(sets[index])] = replace(
                sets[index],
                products=query.products,
                photo_seed=query.photo_seed,
                photo_kind="query",
                url=query.url,
                title=self._titles.multiple(query.products),
            )

    def _positions(self, rows: Sequence[SampleRow], share: float, least: int) -> list[int]:
        number = min(len(rows), max(least, round(share * len(rows))))
        return [int(index) for index in self._rng.choice(len(rows), number, replace=False)]

    def _draw_recipes(self) -> list[tuple[Product, ...]]:
        """Sets that brands offer, with sizes as in the real lists; every product is in one."""
        recipes: list[tuple[Product, ...]] = []
        for brand in BRANDS:
            products = list(products_of(brand))
            unused = self._shuffled(products)
            for number in range(self._sizes.recipes_per_brand):
                units = (2, 3, 2, 4, 3, 5, 2, 7, 1)[number % 9]
                repeats = number % 9 in (2, 7) or (number % 9 == 1 and len(recipes) % 2 == 0)
                recipe, unused = self._recipe(products, unused, units, repeats)
                recipes.append(recipe)
        return [recipes[index] for index in self._rng.permutation(len(recipes))]

    def _recipe(
        self, products: list[Product], unused: list[Product], units: int, repeats: bool
    ) -> tuple[tuple[Product, ...], list[Product]]:
        distinct = max(1, units - (1 if units < 5 else 2)) if repeats else units
        chosen = unused[:distinct]
        rest = [product for product in self._shuffled(products) if product not in chosen]
        chosen += rest[: distinct - len(chosen)]
        doubled = [chosen[int(self._rng.integers(len(chosen)))] for _ in range(units - len(chosen))]
        return tuple(chosen + doubled), unused[distinct:]

    def _query_recipes(self, list_name: ListName, number: int) -> list[tuple[Product, ...]]:
        """Recipes with the shares of sizes of the real lists; only test has the rarest recipes."""
        popularity = 1.0 / np.arange(1, len(self._recipes) + 1) ** 0.6
        known = len(self._recipes) if list_name == "test" else round(0.8 * len(self._recipes))
        chosen: list[tuple[Product, ...]] = []
        for units, count in zip(_UNITS, _split_by_share(number, _UNIT_SHARES), strict=True):
            indices = [i for i in range(known) if len(self._recipes[i]) == units]
            indices = indices or [
                i for i in range(len(self._recipes)) if len(self._recipes[i]) == units
            ]
            weights = self._repeat_weights(popularity[indices], indices)
            picks = self._rng.choice(indices, count, p=weights)
            if list_name == "test" and count >= len(indices):
                picks[: len(indices)] = indices
            chosen += [self._recipes[int(pick)] for pick in picks]
        if list_name == "test":
            chosen[0] = self._of_two_brands(chosen[0])
        return chosen

    def _repeat_weights(
        self, weights: Float64[np.ndarray, " K"], indices: Sequence[int]
    ) -> Float64[np.ndarray, " K"]:
        """Probabilities of recipes, with a fixed share of those that hold a product twice."""
        doubled = np.array([len(set(self._recipes[i])) < len(self._recipes[i]) for i in indices])
        weights = weights.copy()
        if doubled.any() and not doubled.all():
            weights[doubled] *= _REPEAT_SHARE / weights[doubled].sum()
            weights[~doubled] *= (1 - _REPEAT_SHARE) / weights[~doubled].sum()
        return np.asarray(weights / weights.sum())

    def _of_two_brands(self, recipe: tuple[Product, ...]) -> tuple[Product, ...]:
        others = [product for product in PRODUCTS if product.brand != recipe[0].brand]
        return (*recipe, others[int(self._rng.integers(len(others)))])

    def _train_set(self) -> tuple[Product, ...]:
        """A recipe of the queries in four of ten cases, otherwise any set of a brand."""
        if self._rng.random() < 0.4:
            recipe = self._recipes[int(self._rng.integers(len(self._recipes)))]
            if len(recipe) > 1:
                return recipe
        products = self._shuffled(products_of(BRANDS[int(self._rng.integers(len(BRANDS)))]))
        units = int(self._rng.choice((2, 3, 4, 5), p=(0.42, 0.36, 0.14, 0.08)))
        if self._rng.random() < 0.12:
            products[1] = products[0]
        return tuple(products[:units])

    def _spread(self, number: int, least: int) -> list[Product]:
        """Each product `least` times, the rest by popularity."""
        order = self._shuffled(PRODUCTS)
        weights = 1.0 / np.arange(4, 4 + len(order)) ** 0.7
        sure = [product for product in order for _ in range(least)][:number]
        extra = self._rng.choice(len(order), number - len(sure), p=weights / weights.sum())
        return sure + [order[int(index)] for index in extra]

    def _row(
        self,
        list_name: ListName,
        kind: Literal["single", "set", "query"],
        products: tuple[Product, ...],
        title: str,
    ) -> SampleRow:
        self._num_photos += 1
        return SampleRow(
            id=self._new_id(list_name),
            title=title,
            url=self._new_url(),
            products=products,
            list_name=list_name,
            photo_seed=(self._seed, 3, self._num_photos),
            photo_kind=kind,
        )

    def _new_id(self, list_name: ListName) -> str:
        roll = self._rng.random()
        digits = 12 if roll < 0.96 else (11 if roll < 0.99 else 10)
        if list_name == "test" and not any(len(known) == 18 for known in self._ids):
            digits = 18
        while True:
            drawn = "".join(str(digit) for digit in self._rng.integers(0, 10, digits - 1))
            new = f"{self._rng.integers(2, 7)}{drawn}"
            if new not in self._ids:
                self._ids.add(new)
                return new

    def _new_url(self) -> str:
        letters = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"))
        token = "".join(self._rng.choice(letters, 18))
        seller = int(self._rng.integers(10**7, 10**10))
        roll = self._rng.random()
        extension = "jpg" if roll < 0.93 else ("png" if roll < 0.99 else "jpeg")
        server = int(self._rng.integers(1, 5))
        return (
            f"https://img.alicdn.example/imgextra/i{server}/{seller}/O1CN01{token}_!!{seller}"
            f".{extension}"
        )

    def _shuffled(self, products: Sequence[Product]) -> list[Product]:
        return [products[index] for index in self._rng.permutation(len(products))]


def _split_by_share(number: int, shares: Sequence[float]) -> list[int]:
    """Whole counts that add up to `number`, by largest remainder."""
    exact = np.array(shares) / sum(shares) * number
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact)[: number - counts.sum()]:
        counts[index] += 1
    return [int(count) for count in counts]


def label_statistics(rows: Sequence[SampleRow]) -> dict[str, float]:
    """Label statistics of rows, for comparison with the real lists."""
    mentions = [product for row in rows for product in row.products]
    counts = Counter(product.label for product in mentions)
    return {
        "labels_per_row": len(mentions) / len(rows),
        "share_with_repeats": sum(len(set(r.products)) < len(r.products) for r in rows) / len(rows),
        "share_of_one_brand": sum(len({p.brand for p in r.products}) == 1 for r in rows)
        / len(rows),
        "share_named_verbatim": sum(p.name in r.title for r in rows for p in r.products)
        / len(mentions),
        "share_with_brand_token": sum(
            any(p.brand.name in r.title for p in r.products) for r in rows
        ) / len(rows),
        "title_chars": sum(len(r.title) for r in rows) / len(rows),
        "classes": float(len(counts)),
        "share_of_top_10_classes": sum(n for _, n in counts.most_common(10)) / len(mentions),
    }  # fmt: skip
