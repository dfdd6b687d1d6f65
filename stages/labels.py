"""The table of garment kinds, article types and their attributes, with synonyms from other vocabularies.

A *kind* is a label of the detectors (:data:`stages.types.LABELS`). A *type* is finer, such as jeans or boots, and belongs to one
kind, or to none if the detectors have no label for it, such as a watch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stages.types import LABELS

OTHER: Final = "other"
"""The kind of articles for which the detectors have no label."""

PLURALS: Final[Mapping[str, str]] = {
    "top": "tops", "dress": "dresses", "skirt": "skirts", "bag": "bags", "hat": "hats", "scarf": "scarves",
    "belt": "belts",
}  # fmt: skip
"""The plural of each label that is a singular noun."""


@dataclass(frozen=True, slots=True)
class ArticleType:
    """A type of article: its name, its kind or None, and its synonyms, in lower case."""

    name: str
    kind: str | None
    aliases: tuple[str, ...] = ()


TYPES: Final[tuple[ArticleType, ...]] = (
    ArticleType("coat", "outerwear", ("coats", "cape", "outwear", "outerwear", "parka", "trench coat")),
    ArticleType("jacket", "outerwear", ("jackets", "rain jacket")),
    ArticleType("blazer", "outerwear", ("blazers", "suit", "suits", "waistcoat", "nehru jackets")),
    ArticleType("cardigan", "outerwear", ("cardigans", "shrug")),
    ArticleType("t-shirt", "top", ("tshirts", "t-shirts", "tshirt", "tee", "tees", "polo", "longsleeve")),
    ArticleType("shirt", "top", ("shirts",)),
    ArticleType("top", "top", ("tops", "blouse", "blouses", "bodysuit", "body", "camisoles")),
    ArticleType("sweater", "top", ("sweaters", "jumper", "jumpers", "pullover", "knitwear")),
    ArticleType("sweatshirt", "top", ("sweatshirts", "hoodie", "hoodies")),
    ArticleType("vest", "top", ("vests", "innerwear vests", "undershirt", "tank", "tanks", "tank top")),
    ArticleType("kurta", "top", ("kurtas", "kurtis", "tunic", "tunics")),
    ArticleType("dress", "dress", ("dresses", "romper", "jumpsuit", "gown")),
    ArticleType("skirt", "skirt", ("skirts",)),
    ArticleType("jeans", "pants", ("denim", "jeggings")),
    ArticleType("trousers", "pants", ("pants", "chinos", "trouser")),
    ArticleType("leggings", "pants", ("churidar", "salwar")),
    ArticleType("track pants", "pants", ("lounge pants", "joggers", "sweatpants")),
    ArticleType("capris", "pants", ("capri",)),
    ArticleType("shorts", "shorts", ("lounge shorts", "short")),
    ArticleType("boots", "shoes", ("boot", "ankle boots")),
    ArticleType("heels", "shoes", ("pumps", "wedges", "heel")),
    ArticleType("flats", "shoes", ("ballerinas", "flat")),
    ArticleType("sandals", "shoes", ("sandal", "sports sandals", "clogs")),
    ArticleType("flip-flops", "shoes", ("flip flops", "slippers")),
    ArticleType("sneakers", "shoes", ("casual shoes", "sneaker", "trainers")),
    ArticleType("sports shoes", "shoes", ("running shoes", "sports shoe")),
    ArticleType("formal shoes", "shoes", ("loafers", "oxfords")),
    ArticleType("handbag", "bag", ("handbags", "purse", "tote", "bag", "bags")),
    ArticleType("backpack", "bag", ("backpacks", "rucksacks")),
    ArticleType("clutch", "bag", ("clutches",)),
    ArticleType("wallet", "bag", ("wallets",)),
    ArticleType(
        "travel bag", "bag", ("duffel bag", "laptop bag", "messenger bag", "waist pouch", "mobile pouch", "trolley bag")
    ),
    ArticleType("hat", "hat", ("hats", "cap", "caps", "beanie")),
    ArticleType("sunglasses", "eyewear", ("glasses", "eyewear", "spectacles")),
    ArticleType("scarf", "scarf", ("scarves", "mufflers", "stoles", "dupatta", "muffler", "stole")),
    ArticleType("belt", "belt", ("belts",)),
    ArticleType("socks", "hosiery", ("sock",)),
    ArticleType("tights", "hosiery", ("stockings", "stocking", "hosiery")),
    ArticleType("watch", None, ("watches",)),
    ArticleType("tie", None, ("ties", "bow tie")),
    ArticleType("underwear", None, ("briefs", "bra", "trunk", "boxers", "panties", "intimate", "swimwear", "lingerie")),
    ArticleType("jewellery", None, ("bracelet", "necklace and chains", "necklace", "earrings", "ring", "cufflinks")),
    ArticleType("perfume", None, ("deodorant", "fragrance gift set", "perfume and body mist")),
    ArticleType("gloves", None, ()),
    ArticleType("umbrella", None, ("umbrellas",)),
)
"""All types; the aliases include the classes of clothing-dataset, CCP and the product photos."""

COLOURS: Final[Mapping[str, tuple[str, ...]]] = {
    "black": (),
    "white": ("off white", "ivory"),
    "grey": ("gray", "grey melange", "charcoal", "ash"),
    "navy": ("navy blue", "dark blue"),
    "blue": ("turquoise blue", "teal", "royal blue", "turquoise"),
    "red": ("scarlet", "crimson"),
    "maroon": ("burgundy", "wine", "bordeaux"),
    "pink": ("magenta", "peach", "rose", "fuchsia"),
    "purple": ("lavender", "mauve", "violet", "lilac"),
    "green": ("sea green", "fluorescent green", "lime green", "mint"),
    "olive": ("khaki",),
    "yellow": ("mustard",),
    "orange": ("rust",),
    "brown": ("tan", "coffee brown", "copper", "bronze", "mushroom brown", "camel"),
    "beige": ("cream", "taupe", "skin", "nude", "sand"),
    "gold": ("golden", "rose gold"),
    "silver": ("steel", "metallic"),
    "multicolour": ("multi", "multicolor", "multicoloured", "multicolored"),
}
"""The names of colours, with synonyms, in lower case."""

PATTERNS: Final[Mapping[str, tuple[str, ...]]] = {
    "plain": ("solid",),
    "striped": ("stripe", "stripes", "pinstripe"),
    "checked": ("check", "checks", "plaid", "tartan", "argyle", "gingham"),
    "dotted": ("dot", "dots", "polka"),
    "floral": ("flower", "flowers", "paisley"),
    "animal": ("leopard", "zebra", "snake"),
    "printed": ("print", "graphic"),
}
"""The names of patterns, with synonyms, in lower case."""

GENDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "men": ("man", "boys", "boy", "male", "mens", "men's"),
    "women": ("woman", "girls", "girl", "female", "womens", "women's", "ladies"),
    "unisex": (),
}
"""The wearers that an article is made for, with synonyms, in lower case."""

USAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "casual": ("smart casual",),
    "formal": ("business", "office"),
    "sports": ("sport", "athletic", "running"),
    "ethnic": (),
}
"""The occasions that an article is worn on, with synonyms, in lower case."""

_WIDE: Final[Mapping[str, str]] = {
    **{label: label for label in LABELS},
    "shoes": "shoes",
    "shoe": "shoes",
    "footwear": "shoes",
    "shirts & tops": "top",
    "coats & jackets": "outerwear",
    "scarves & shawls": "scarf",
    "accessory": OTHER,
    OTHER: OTHER,
}
"""Words that name a kind without a type."""

_BY_NAME: Final[Mapping[str, ArticleType]] = {name: kind for kind in TYPES for name in (kind.name, *kind.aliases)}


def type_of(name: str) -> str | None:
    """Return the article type that a word means, ignoring case, or None.

    >>> type_of("Casual Shoes"), type_of("jeans"), type_of("shoes")
    ('sneakers', 'jeans', None)
    """
    article = _BY_NAME.get(_folded(name))
    return article.name if article else None


def kind_of(name: str) -> str | None:
    """Return the kind that a word means, ``other`` for a type without a kind, or None for an unknown word.

    >>> kind_of("Casual Shoes"), kind_of("SHOES"), kind_of("Watches"), kind_of("sofa")
    ('shoes', 'shoes', 'other', None)
    """
    folded = _folded(name)
    if folded in _WIDE:
        return _WIDE[folded]
    article = _BY_NAME.get(folded)
    return (article.kind or OTHER) if article else None


def named(table: Mapping[str, tuple[str, ...]], word: str) -> str | None:
    """Return the name in a table of attributes that a word means, ignoring case, or None.

    >>> named(COLOURS, "Navy Blue"), named(PATTERNS, "Polka"), named(GENDERS, "sofa")
    ('navy', 'dotted', None)
    """
    folded = _folded(word)
    return next((name for name, others in table.items() if folded == name or folded in others), None)


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
