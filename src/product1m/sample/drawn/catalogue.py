"""Invented cosmetics: eight brands with two lines each; some of their products are sisters.

Nothing here names a real brand. Sisters differ only in a detail of the pack: the color of a
stripe, the printed variant, a shade or a size.
"""

from dataclasses import dataclass
from typing import Literal

Shape = Literal[
    "bottle",
    "flacon",
    "pump",
    "dropper",
    "jar",
    "tube",
    "box",
    "spray",
    "lipstick",
    "compact",
    "airless",
]
Layout = Literal["centered", "band", "vertical", "framed", "minimal", "block", "botanical", "arc"]


@dataclass(frozen=True)
class Line:
    """A product line of a brand and the colors (hex) that its packs share."""

    chinese: str
    latin: str
    body: str
    cap: str
    ink: str
    accent: str
    body_material: str
    cap_material: str


@dataclass(frozen=True)
class Brand:
    """A brand and its house style."""

    name: str
    """The token that opens every label of the brand."""
    chinese: str
    origin: str
    font: str
    layout: Layout
    slogan: str


@dataclass(frozen=True)
class Product:
    """A class, as a gallery label names it."""

    brand: Brand
    line: Line
    modifier: str
    noun: str
    variant: str
    category: str
    """Key of `titles.CATEGORY_WORDS`."""
    shape: Shape
    height_cm: float
    size: str
    print: tuple[str, ...]
    """Lines printed on the pack, in Latin script."""
    accent: str
    """Color of stripe, shade or variant mark; sisters may differ in it alone."""
    body: str
    sisters: str
    """Products of a brand with the same non-empty key are sisters."""

    @property
    def name(self) -> str:
        """The product's name as labels spell it."""
        return f"{self.line.chinese}{self.modifier}{self.noun}{self.variant}"

    @property
    def label(self) -> str:
        """Brand, blank, product name, as in Product1M."""
        return f"{self.brand.name} {self.name}"


_ProductRow = tuple[int, str, str, str, str, Shape, float, str, str, str, tuple[str, str] | None]
"""Line (0 or 1), modifier, noun, variant, category, shape, height in cm, size, print lines
separated by "|", sister key; accent and body color if they differ from the line's."""

_BRANDS: tuple[tuple[Brand, tuple[Line, Line], tuple[_ProductRow, ...]], ...] = (
    (
        Brand("SOVELUNE", "索芙伦", "法国", "serif", "centered", "PARIS MAISON DE BEAUTÉ"),
        (
            Line("珍珠光", "PERLE", "#f3ece0", "#d8b46a", "#8a6a2c", "#d9b877", "lacquer", "gold"),
            Line("黑曜", "OBSIDIEN", "#1d1b20", "#d3aa5c", "#e2c483", "#8f2f3a", "lacquer", "gold"),
        ),
        (
            (0, "润泽", "化妆水", "清爽型", "toner", "bottle", 16.0, "150ml",
             "LOTION|LIGHT", "toner", ("#8fc7d9", "#f3ece0")),
            (0, "润泽", "化妆水", "滋润型", "toner", "bottle", 16.0, "150ml",
             "LOTION|RICH", "toner", ("#d98a8f", "#f3ece0")),
            (0, "焕亮", "精华乳", "", "emulsion", "pump", 15.5, "120ml",
             "EMULSION|ÉCLAT", "", None),
            (0, "紧致", "面霜", "", "cream", "jar", 5.6, "50g",
             "CRÈME|FERMETÉ", "", None),
            (1, "夜间修护", "精华液", "", "serum", "dropper", 11.0, "30ml",
             "SÉRUM|DE NUIT", "", None),
            (1, "抗皱", "眼霜", "", "eye", "jar", 4.2, "15g",
             "YEUX|ANTI-RIDES", "", None),
            (1, "奢宠", "粉饼", "", "powder", "compact", 2.3, "10g",
             "POUDRE|SATIN", "", None),
        ),
    ),
    (
        Brand("MIRUNEA", "蜜露妮", "韩国", "light", "minimal", "skin water lab · Seoul"),
        (
            Line("水漾", "AQUA", "#cfe6f2", "#f7fafc", "#2d5f88", "#6fb4dc", "frosted", "plastic"),
            Line("樱绽", "BLOOM", "#f6d3da", "#fbf1f2", "#a8485f", "#e88aa0", "frosted", "plastic"),
        ),
        (
            (0, "玻尿酸", "爽肤水", "", "toner", "bottle", 17.5, "200ml",
             "hyaluron|toner", "", None),
            (0, "玻尿酸", "乳液", "", "emulsion", "bottle", 15.0, "150ml",
             "hyaluron|emulsion", "", ("#3f83b5", "#e3eef2")),
            (0, "冰沙", "保湿霜", "", "cream", "jar", 5.4, "50ml",
             "sorbet|cream", "", None),
            (0, "氨基酸", "洁面乳", "", "cleanser", "tube", 16.0, "120g",
             "amino|foam", "", None),
            (1, "嫩亮", "精华", "", "serum", "airless", 13.0, "40ml",
             "glow|ampoule", "", None),
            (1, "水润", "唇釉", "01蜜桃", "lip", "lipstick", 8.2, "3.5g",
             "tint|01", "tint", ("#f2957a", "#f6d3da")),
            (1, "水润", "唇釉", "07浆果", "lip", "lipstick", 8.2, "3.5g",
             "tint|07", "tint", ("#8e1f46", "#f6d3da")),
        ),
    ),
    (
        Brand("KAOLISSE", "高丽丝", "意大利", "mono", "botanical", "APOTHECARY EST. 1968"),
        (
            Line("草本", "HERBE", "#6f4a22", "#c9a679", "#2f4a2a", "#4f7a45", "amber", "wood"),
            Line("火山泥", "TERRE", "#b9a58c", "#4b3a30", "#3a2a20", "#a4502f", "matte", "matte"),
        ),
        (
            (0, "舒缓", "纯露", "", "toner", "spray", 16.5, "150ml",
             "HYDROSOL|CHAMOMILE", "", None),
            (0, "迷迭香", "护发精油", "", "oil", "dropper", 10.5, "50ml",
             "HAIR OIL|ROSEMARY", "oil", ("#4f7a45", "#6f4a22")),
            (0, "薰衣草", "护发精油", "", "oil", "dropper", 10.5, "50ml",
             "HAIR OIL|LAVENDER", "oil", ("#7d67a8", "#6f4a22")),
            (0, "无患子", "洗发水", "", "shampoo", "pump", 20.0, "400ml",
             "SHAMPOO|SOAPBERRY", "", None),
            (1, "净肤", "清洁面膜", "", "mask", "jar", 6.4, "100g",
             "CLAY MASK|PURIFY", "", None),
            (1, "磨砂", "洁面膏", "", "cleanser", "tube", 15.0, "100ml",
             "SCRUB|EXFOLIATE", "", None),
            (1, "深层", "卸妆油", "", "remover", "pump", 17.0, "200ml",
             "CLEANSING OIL|DEEP", "", ("#a4502f", "#a97c4d")),
        ),
    ),
    (
        Brand("NORVAUDE", "诺梵德", "德国", "condensed", "block", "MEN'S EXPERT CARE"),
        (
            Line("男士水动力", "HYDRO", "#1d3f6e", "#b9c2cb", "#ffffff", "#35a3d8", "plastic",
                 "silver"),
            Line("男士炭爽", "CARBON", "#2b2d30", "#1a1b1d", "#f1f1f1", "#ef7d22", "matte",
                 "plastic"),
        ),
        (
            (0, "保湿", "爽肤水", "", "toner", "flacon", 15.5, "150ml",
             "TONER|MOISTURE", "", None),
            (0, "保湿", "乳液", "", "emulsion", "flacon", 13.5, "100ml",
             "LOTION|MOISTURE", "", None),
            (0, "抗倦", "眼霜", "", "eye", "tube", 9.5, "15ml",
             "EYE GEL|ANTI-FATIGUE", "", None),
            (0, "多效", "面霜", "", "cream", "jar", 5.8, "50ml",
             "CREAM|ALL-IN-1", "", None),
            (1, "控油", "洁面膏", "100ml", "cleanser", "tube", 14.0, "100ml",
             "FACE WASH|OIL CONTROL", "wash", ("#ef7d22", "#2b2d30")),
            (1, "控油", "洁面膏", "150ml", "cleanser", "tube", 17.0, "150ml",
             "FACE WASH|OIL CONTROL", "wash", ("#ef7d22", "#2b2d30")),
            (1, "清凉", "沐浴露", "", "shower", "bottle", 19.0, "300ml",
             "SHOWER GEL|ICE", "", None),
        ),
    ),
    (
        Brand("TELLUMI", "泰露米", "瑞士", "sans", "band", "LABORATOIRE DERMATOLOGIQUE"),
        (
            Line("舒敏", "DERMA", "#fbfbf9", "#f4f5f5", "#20505a", "#1f9a9c", "plastic", "plastic"),
            Line("净痘", "CLEAR", "#fafbf7", "#5fae3f", "#27521f", "#7cc242", "plastic", "plastic"),
        ),
        (
            (0, "修护", "喷雾", "", "mist", "spray", 17.0, "150ml",
             "THERMAL|MIST", "", None),
            (0, "修护", "精华乳", "", "emulsion", "airless", 14.5, "50ml",
             "REPAIR|FLUID", "", None),
            (0, "防晒", "隔离乳", "SPF30", "sun", "tube", 13.0, "50ml",
             "SUN FLUID|SPF30", "sun", ("#f2b632", "#fbfbf9")),
            (0, "防晒", "隔离乳", "SPF50", "sun", "tube", 13.0, "50ml",
             "SUN FLUID|SPF50", "sun", ("#e2622b", "#fbfbf9")),
            (0, "屏障", "特护霜", "", "cream", "tube", 15.5, "80ml",
             "BARRIER|CREAM", "", None),
            (1, "水杨酸", "棉片", "", "pads", "jar", 8.0, "60pads",
             "BHA|TONER PADS", "", None),
            (1, "控油", "洁面啫喱", "", "cleanser", "pump", 18.0, "200ml",
             "PURIFYING|GEL", "", None),
        ),
    ),
    (
        Brand("AUBERYN", "奥蓓琳", "日本", "roman", "vertical", "TOKYO BOTANICAL SCIENCE"),
        (
            Line("紫堇", "VIOLETTE", "#8f7bb4", "#e9e4ee", "#f7f3fb", "#c9a8dd", "frosted",
                 "silver"),
            Line("油橄榄", "OLIVE", "#a9b26a", "#ece8d6", "#fcfbef", "#6d7a2e", "frosted",
                 "plastic"),
        ),
        (
            (0, "平衡", "化妆水", "清润型", "toner", "flacon", 18.0, "150ml",
             "LOTION|BALANCE I", "lotion", None),
            (0, "平衡", "化妆水", "浓润型", "toner", "flacon", 18.0, "150ml",
             "LOTION|BALANCE II", "lotion", ("#f0c987", "#8f7bb4")),
            (0, "植萃", "精华液", "", "serum", "pump", 13.5, "40ml",
             "SERUM|EXTRACT", "", None),
            (0, "舒眠", "睡眠面膜", "", "mask", "jar", 5.8, "80g",
             "SLEEPING|MASK", "", None),
            (1, "滋养", "乳液", "", "emulsion", "flacon", 16.5, "150ml",
             "EMULSION|NOURISH", "", None),
            (1, "卸妆", "洁颜油", "", "remover", "pump", 18.5, "200ml",
             "CLEANSING|OIL", "", None),
            (1, "护手", "霜", "", "hand", "tube", 12.0, "50g",
             "HAND|CREAM", "", None),
        ),
    ),
    (
        Brand("YUNHAE", "韵海", "国货", "display", "framed", "ORIENTAL HERITAGE"),
        (
            Line("参韵", "GINSENG", "#b5462c", "#d6ab54", "#f4d999", "#d6ab54", "lacquer", "gold"),
            Line("朱颜", "ROUGE", "#8f1420", "#c99a4a", "#f0d79a", "#c32033", "lacquer", "gold"),
        ),
        (
            (0, "赋活", "精华水", "", "toner", "bottle", 15.0, "130ml",
             "ESSENCE|REVIVE", "", None),
            (0, "赋活", "精华液", "30ml", "serum", "dropper", 9.5, "30ml",
             "AMPOULE|REVIVE", "ampoule", None),
            (0, "赋活", "精华液", "50ml", "serum", "dropper", 11.5, "50ml",
             "AMPOULE|REVIVE", "ampoule", None),
            (0, "养肤", "贵妇霜", "", "cream", "jar", 6.0, "60g",
             "CREAM|PRECIOUS", "", None),
            (1, "丝绒", "口红", "正红", "lip", "lipstick", 8.0, "3.6g",
             "VELVET|R01", "rouge", ("#b3121d", "#8f1420")),
            (1, "丝绒", "口红", "豆沙", "lip", "lipstick", 8.0, "3.6g",
             "VELVET|R05", "rouge", ("#b46a5e", "#8f1420")),
            (1, "雕花", "气垫", "", "cushion", "compact", 3.0, "15g",
             "CUSHION|N21", "", None),
        ),
    ),
    (
        Brand("PETALIQ", "蓓黛", "澳洲", "bold", "arc", "clean · vegan · happy"),
        (
            Line("鲜柠", "CITRON", "#f7cf46", "#fdfaf0", "#5b4a12", "#ef8b2c", "plastic",
                 "plastic"),
            Line("柔纱", "SILK", "#e7c4a9", "#2e2a2a", "#4b2f24", "#d98c73", "glass", "plastic"),
        ),
        (
            (0, "VC亮肤", "精华", "", "serum", "dropper", 10.0, "30ml",
             "VITAMIN C|SERUM", "", None),
            (0, "VC亮肤", "面膜", "", "sheet", "box", 16.0, "5x25ml",
             "SHEET MASK|x5", "", ("#ef8b2c", "#f7cf46")),
            (0, "果酸", "身体乳", "", "body", "pump", 19.5, "400ml",
             "BODY MILK|AHA", "body", None),
            (0, "烟酰胺", "身体乳", "", "body", "pump", 19.5, "400ml",
             "BODY MILK|B3", "body", ("#e0607e", "#f7cf46")),
            (1, "持妆", "粉底液", "象牙白", "foundation", "flacon", 11.5, "30ml",
             "FOUNDATION|N10", "base", ("#f1dcc8", "#ecd3bb")),
            (1, "持妆", "粉底液", "自然色", "foundation", "flacon", 11.5, "30ml",
             "FOUNDATION|N30", "base", ("#cf9f78", "#c99a74")),
            (1, "定妆", "散粉", "", "powder", "jar", 4.6, "12g",
             "LOOSE|POWDER", "", ("#d98c73", "#efdccb")),
        ),
    ),
)  # fmt: skip


def _product(brand: Brand, lines: tuple[Line, Line], row: _ProductRow) -> Product:
    line = lines[row[0]]
    accent, body = row[10] or (line.accent, line.body)
    return Product(
        brand=brand,
        line=line,
        modifier=row[1],
        noun=row[2],
        variant=row[3],
        category=row[4],
        shape=row[5],
        height_cm=row[6],
        size=row[7],
        print=tuple(row[8].split("|")),
        accent=accent,
        body=body,
        sisters=row[9],
    )


PRODUCTS: tuple[Product, ...] = tuple(
    _product(brand, lines, row) for brand, lines, rows in _BRANDS for row in rows
)
"""The 56 classes, brand by brand."""

BRANDS: tuple[Brand, ...] = tuple(brand for brand, _, _ in _BRANDS)


def products_of(brand: Brand) -> tuple[Product, ...]:
    """The products of one brand."""
    return tuple(product for product in PRODUCTS if product.brand == brand)
