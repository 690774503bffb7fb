"""Sellers' titles: Chinese with the brand's Latin token, rich in effects, poor in product names."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from product1m.sample.drawn.catalogue import Product

T = TypeVar("T")

CATEGORY_WORDS: dict[str, tuple[str, ...]] = {
    "toner": ("爽肤水", "化妆水", "水", "柔肤水", "护肤水"),
    "emulsion": ("乳液", "乳", "保湿乳", "润肤乳"),
    "cream": ("面霜", "霜", "保湿霜", "日晚霜"),
    "serum": ("精华", "精华液", "肌底液", "精华露"),
    "eye": ("眼霜", "眼部精华", "眼部护理"),
    "cleanser": ("洗面奶", "洁面", "洁面乳", "洗面乳"),
    "powder": ("粉饼", "散粉", "定妆粉", "蜜粉"),
    "cushion": ("气垫", "气垫BB", "粉底"),
    "lip": ("口红", "唇釉", "唇膏", "唇彩"),
    "oil": ("护发精油", "发油", "精油", "护发"),
    "shampoo": ("洗发水", "洗发露", "洗头膏"),
    "mask": ("面膜", "涂抹面膜", "泥膜"),
    "sheet": ("面膜", "面膜贴", "补水面膜"),
    "remover": ("卸妆油", "卸妆", "卸妆水"),
    "shower": ("沐浴露", "沐浴液", "洗澡"),
    "mist": ("喷雾", "保湿喷雾", "定妆喷雾"),
    "sun": ("防晒霜", "防晒", "隔离霜", "隔离防晒"),
    "pads": ("棉片", "湿敷棉片", "清洁棉片"),
    "hand": ("护手霜", "手霜", "手部护理"),
    "body": ("身体乳", "润肤露", "身体护理"),
    "foundation": ("粉底液", "粉底", "底妆"),
}
"""What sellers call a product of each category, usual words first."""

_EFFECTS = {
    "skin": (
        "补水", "保湿", "提亮肤色", "滋润", "紧致", "抗皱", "淡化细纹", "舒缓", "修护", "嫩肤",
        "控油", "收缩毛孔", "温和", "清爽", "改善暗沉", "锁水", "去黄", "焕肤", "细腻毛孔",
    ),
    "hair": ("柔顺", "蓬松", "控油", "去屑", "修复毛躁", "持久留香"),
    "makeup": ("持久", "遮瑕", "不脱色", "显白", "提亮", "服帖", "自然", "保湿滋润", "定妆"),
    "body": ("滋润", "香体", "嫩白", "保湿", "持久留香", "清爽", "补水"),
}  # fmt: skip
_KIND = {
    "oil": "hair", "shampoo": "hair", "lip": "makeup", "powder": "makeup", "cushion": "makeup",
    "foundation": "makeup", "hand": "body", "body": "body", "shower": "body",
}  # fmt: skip
_OPENINGS = (
    "现货", "正品", "新款", "包邮", "代购", "专柜", "直播推荐", "限时特价", "官方授权", "免税店",
    "香港直邮", "店主推荐", "热卖", "新品首发", "特惠",
)  # fmt: skip
_AUDIENCES = (
    "女", "男女通用", "学生", "孕妇可用", "敏感肌", "干皮", "油皮", "混油皮", "熟龄肌", "女士",
    "平价", "学生党",
)  # fmt: skip
_ENDINGS = (
    "正品", "官方旗舰店", "专柜正品", "护肤品", "化妆品", "送小样", "全国包邮", "秋冬", "四季可用",
    "官网", "国内现货", "礼物", "抗初老", "大容量", "旗舰店官网", "送女友", "便携", "补妆",
)  # fmt: skip
_SET_WORDS = ("套装", "礼盒", "套盒", "组合", "全套")
_COUNTS = {2: "两件套", 3: "三件套", 4: "四件套", 5: "五件套", 7: "七件套"}
_ENTITIES = ("&amp;", "&nbsp;", "&times;2", "&mdash;", "&Ocirc;", "&trade;")

UNSAID_SHARE = 0.06
"""Set titles whose set word is left out; with those that only say `2瓶装`, about 8 % of all do not
call a set a set (real lists: 7.4 % of dev, 8.2 % of test)."""
MEAN_CHARS = 31.5
"""What a title is filled up to, on average; the market's cap is 30 wide characters (real lists)."""


class TitleWriter:
    """Composes titles from a random generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        (self._unsaid,) = rng.spawn(1)

    def single(self, product: Product) -> str:
        """A title of one product; it often names it, but rarely with its exact name."""
        parts = self._head(product)
        roll = self._rng.random()
        if roll < 0.28:
            parts.append(product.name)
        elif roll < 0.8:
            parts += self._abbreviated(product, keep=0.62)
        else:
            parts.append(self._category(product))
        if self._rng.random() < 0.3:
            parts.append(product.size)
        if self._rng.random() < 0.04:
            parts.append("送" + self._pick(CATEGORY_WORDS["sheet"]))
        return self._filled(parts, product)

    def multiple(self, products: Sequence[Product], named: Sequence[Product] = ()) -> str:
        """A title of a set; `named` are the products that it names exactly."""
        distinct = list(dict.fromkeys(products))
        parts = self._head(distinct[0])
        if self._rng.random() < 0.5:
            parts.append(self._pick([product.line.chinese for product in distinct]))
        for product in self._shuffled(distinct):
            if product in named:
                parts.append(product.name)
            elif self._rng.random() < 0.55:
                parts.append(self._mention(product))
        set_word = self._set_word(len(products), len(distinct))
        # Drawn by a generator of its own, so that the other titles stay what they are.
        parts.append(set_word if self._unsaid.random() >= UNSAID_SHARE else "")
        return self._filled(parts, self._pick(distinct))

    def entity(self, title: str) -> str:
        """The title with an HTML entity, as some sellers' tools produce."""
        index = int(self._rng.integers(2, len(title)))
        return title[:index] + self._pick(_ENTITIES) + title[index:]

    def _head(self, product: Product) -> list[str]:
        brand = product.brand
        parts = [self._pick(_OPENINGS)] if self._rng.random() < 0.4 else []
        if self._rng.random() < 0.35:
            parts.append(brand.origin)
        roll = self._rng.random()
        if roll < 0.9:
            token = brand.name
            if self._rng.random() < 0.35:
                token += brand.chinese
            elif self._rng.random() < 0.1:
                token = "/".join((brand.chinese, token))
            parts.append(token)
        elif roll < 0.97:
            parts.append(brand.chinese)
        return parts

    def _abbreviated(self, product: Product, keep: float) -> list[str]:
        words = [product.line.chinese, product.modifier, product.variant]
        kept = [word for word in words if word and self._rng.random() < keep]
        noun = product.noun if self._rng.random() < 0.5 else self._category(product)
        if len(kept) > 1 and self._rng.random() < 0.3:
            kept = self._shuffled(kept)
        if "".join((*kept, noun)) == product.name:
            noun = self._category(product) + " "
        return [*kept, noun]

    def _mention(self, product: Product) -> str:
        roll = self._rng.random()
        if roll < 0.6:
            return self._category(product)
        if roll < 0.85:
            return product.modifier + self._category(product)
        return self._category(product) + product.size

    def _category(self, product: Product) -> str:
        words = CATEGORY_WORDS[product.category]
        weights = 1.0 / np.arange(1, len(words) + 1)
        return words[int(self._rng.choice(len(words), p=weights / weights.sum()))]

    def _set_word(self, num_units: int, num_distinct: int) -> str:
        if num_distinct == 1 and num_units > 1 and self._rng.random() < 0.7:
            return f"{num_units}瓶装" if self._rng.random() < 0.5 else f"*{num_units}组合"
        if self._rng.random() < 0.4 and num_units in _COUNTS:
            return _COUNTS[num_units] + self._pick(("", "套装", "礼盒"))
        return self._pick(_SET_WORDS)

    def _filled(self, parts: list[str], product: Product) -> str:
        """Add effects, audiences and service words up to a random length, then join."""
        target = float(np.clip(self._rng.normal(MEAN_CHARS + 0.5, 4.2), 20, 44))
        if self._rng.random() < 0.04:
            target = float(self._rng.uniform(8, 20))
        effects = _EFFECTS[_KIND.get(product.category, "skin")]
        pool = [word for word in self._shuffled(effects) if word not in "".join(parts)]
        tail = [self._pick(_AUDIENCES), *self._shuffled(_ENDINGS)[:3]]
        space = " " if self._rng.random() < 0.47 else ""
        title = self._joined(parts, space)
        for word in (*pool[:4], *self._shuffled(tail), *pool[4:]):
            if len(title) + len(word) > target:
                break
            title += word
        return title[:60].strip()

    def _joined(self, parts: list[str], space: str) -> str:
        title = parts[0]
        for part in parts[1:]:
            gap = space if space and self._rng.random() < 0.4 else ""
            plus = "+" if self._rng.random() < 0.06 else gap
            title += plus + part if part else ""
        if self._rng.random() < 0.05:
            title = f"【{self._pick(_OPENINGS)}】{title}"
        return title

    def _pick(self, words: Sequence[T]) -> T:
        return words[int(self._rng.integers(len(words)))]

    def _shuffled(self, words: Sequence[T]) -> list[T]:
        return [words[index] for index in self._rng.permutation(len(words))]
