"""Write the texts of the simulated shop: a catalogue of titled items, search queries, and reviews that suit their stars.

The texts are English and are drawn by a seeded generator. This module knows neither shoppers nor time. Start at catalogue.
"""

from itertools import accumulate
from random import Random
from typing import NamedTuple

from msgspec import Struct


class Words(NamedTuple):
    """The vocabulary of one category; `price` is a typical price, `aspects` are the topics of its reviews."""

    price: float
    brands: tuple[str, ...]
    adjectives: tuple[str, ...]
    materials: tuple[str, ...]
    nouns: tuple[str, ...]
    modifiers: tuple[str, ...]
    aspects: tuple[str, ...]


def _words(price: float, *columns: str) -> Words:
    brands, adjectives, materials, nouns, modifiers, aspects = (tuple(column.split(", ")) for column in columns)
    return Words(price, brands, adjectives, materials, nouns, modifiers, aspects)


VOCABULARY: dict[str, Words] = {
    "kitchen": _words(
        18,
        "Hearthway, Oldmill, Copperleaf, Brindle & Co",
        "stackable, non-stick, hand-glazed, compact, double-walled, vintage",
        "stoneware, cast iron, bamboo, enamel, glass",
        "frying pan, mug, mixing bowl, chopping board, teapot, storage jar, roasting tin",
        "dishwasher safe, for induction, set of 4, gift, small",
        "handle, lid, finish, size, weight",
    ),
    "garden": _words(
        24,
        "Fernhollow, Greenacre, Thornbury, Wilder",
        "weatherproof, hanging, self-watering, folding, solar, rustic",
        "terracotta, galvanised steel, willow, cedar, zinc",
        "planter, watering can, bird feeder, trowel, lantern, trellis, bench",
        "for balcony, outdoor, frost proof, large, for herbs",
        "drainage, paint, joints, size, packaging",
    ),
    "books": _words(
        12,
        "Larkspur Press, Northlight, Quillmark, Harbour House",
        "illustrated, abridged, bestselling, classic, pocket, annotated",
        "hardback, paperback, clothbound, large-print, audio",
        "cookbook, mystery novel, travel guide, biography, atlas, poetry collection, fairy tales",
        "for teenagers, new release, signed, gift edition, second edition",
        "plot, print quality, binding, illustrations, pacing",
    ),
    "toys": _words(
        16,
        "Tumbletop, Pipkin, Little Otter, Merrybrick",
        "musical, magnetic, cuddly, educational, glow-in-the-dark, classic",
        "wooden, plush, felt, cardboard, beechwood",
        "building blocks, train set, puzzle, teddy bear, dolls house, kite, board game",
        "for toddlers, age 5, birthday, travel, 100 pieces",
        "pieces, colours, stitching, instructions, sturdiness",
    ),
    "camping": _words(
        48,
        "Ridgeline, Fellstone, Trailmoor, Basecamp North",
        "lightweight, waterproof, two-person, insulated, pop-up, ultralight",
        "ripstop nylon, canvas, down, titanium, aluminium",
        "tent, sleeping bag, head torch, camping stove, rucksack, water bottle, camp chair",
        "4 season, for festivals, cold weather, for hiking, packable",
        "zips, seams, weight, warmth, pegs",
    ),
    "fitness": _words(
        28,
        "Ironvale, Pulseworks, Strideon, Corefield",
        "adjustable, anti-slip, foldable, weighted, heavy-duty, beginner",
        "neoprene, rubber, cork, steel, foam",
        "yoga mat, kettlebell, resistance band, skipping rope, foam roller, dumbbell set, exercise bike",
        "for home gym, 10 kg, extra thick, for rehab, with bag",
        "grip, resistance, padding, smell, durability",
    ),
    "beauty": _words(
        15,
        "Rosewater Lane, Velvette, Saltmarsh, Dewberry",
        "hydrating, fragrance-free, organic, matte, overnight, brightening",
        "shea, aloe, oat, charcoal, argan",
        "face cream, lip balm, shampoo bar, hand soap, body scrub, hair mask, serum",
        "for sensitive skin, vegan, travel size, for dry hair, spf 30",
        "scent, texture, absorption, packaging, ingredients",
    ),
    "audio": _words(
        75,
        "Nightjar, Resonant, Wavecrest, Tonehall",
        "wireless, noise-cancelling, portable, retro, studio, waterproof",
        "walnut, aluminium, graphite, leather, mesh",
        "headphones, speaker, turntable, earbuds, soundbar, microphone, radio",
        "bluetooth, for running, with bass, for calls, under 100",
        "battery, bass, fit, microphone, build",
    ),
    "clothing": _words(
        35,
        "Moorland, Ashdown, Finch & Thread, Calder",
        "slim-fit, oversized, striped, quilted, relaxed, cropped",
        "cotton, merino, linen, denim, corduroy",
        "shirt, jumper, jacket, dress, trousers, scarf, cardigan",
        "mens, womens, size large, for winter, petite",
        "fit, fabric, stitching, colour, sizing",
    ),
    "shoes": _words(
        62,
        "Cobblestead, Strand & Sole, Larkfield, Harrier",
        "waterproof, cushioned, lace-up, slip-on, wide-fit, trail",
        "leather, suede, canvas, mesh, vegan leather",
        "trainers, ankle boots, sandals, loafers, walking boots, slippers, running shoes",
        "size 9, womens, mens, for wide feet, for work",
        "sole, comfort, sizing, laces, grip",
    ),
    "pets": _words(
        17,
        "Pawsley, Whiskerby, Muddy Dog, Birchbark",
        "chew-proof, washable, orthopaedic, reflective, interactive, grain-free",
        "fleece, rope, sisal, rubber, rattan",
        "dog bed, cat scratcher, lead, food bowl, puzzle toy, carrier, collar",
        "for puppies, large breed, for kittens, indoor, for senior dogs",
        "size, cover, clasp, filling, smell",
    ),
    "stationery": _words(
        9,
        "Inkwell Lane, Paperbark, Foxglove, Margin & Co",
        "dotted, refillable, spiral-bound, gold-foiled, weekly, recycled",
        "leather, kraft, linen, brass, recycled paper",
        "notebook, fountain pen, planner, sketchbook, washi tape, desk organiser, pencil set",
        "a5, 2 pack, for left handed, for school, undated",
        "paper, ink, binding, cover, ruling",
    ),
}
CATEGORIES = tuple(VOCABULARY)

LIKED = (
    "excellent {aspect}",
    "really happy with the {aspect}",
    "lovely {aspect}",
    "better {aspect} than I hoped",
    "great {aspect} for the price",
    "very impressed by the {aspect}",
    "cannot fault the {aspect}",
)
DISLIKED = (
    "poor {aspect}",
    "very disappointed with the {aspect}",
    "problems with the {aspect} within a week",
    "the pictures flatter the {aspect}",
    "I expected far better {aspect}",
    "cheap and nasty {aspect}",
    "constant trouble with the {aspect}",
)
OPENINGS = {
    "positive": (
        "Love the {noun}",
        "Perfect {noun}",
        "Exactly what I wanted",
        "Ordered the {noun} again and just as good",
        "Bought the {noun} as a gift and what a hit",
        "Five weeks in and still delighted",
    ),
    "mixed": (
        "Okay {noun}",
        "Decent enough {noun}",
        "Mixed feelings about the {noun}",
        "Does the job",
        "Not bad, not great",
        "Average {noun}",
    ),
    "negative": (
        "Waste of money",
        "The {noun} arrived damaged",
        "Would not buy the {noun} again",
        "Sent it straight back",
        "Awful {noun}",
        "I regret buying the {noun}",
    ),
}
CLOSINGS = {
    "positive": ("Highly recommended.", "Will order again.", "Fast delivery too.", "Thank you!", "Worth every penny.", ""),
    "mixed": (
        "Fine for the price.",
        "Might try another next time.",
        "Three stars from me.",
        "Delivery was on time at least.",
        "",
    ),
    "negative": (
        "Avoid.",
        "Asking for a refund.",
        "Customer service never answered.",
        "Save your money.",
        "Not coming back.",
        "",
    ),
}


class Item(Struct, frozen=True, gc=False):
    """One article for sale; `quality` shifts its ratings, in stars."""

    item_id: str
    category: str
    title: str
    noun: str
    price: float
    quality: float


class Shelf(Struct, frozen=True):
    """The items of a category, most popular first, with cumulative Zipf weights to draw them by."""

    items: list[Item]
    cumulative_weights: list[float]


def catalogue(rng: Random, *, items: int, zipf_exponent: float) -> dict[str, Shelf]:
    """Fill every category with items of distinct titles; `items` is the total, split as evenly as possible."""
    shelves: dict[str, Shelf] = {}
    for place, category in enumerate(CATEGORIES):
        count = items // len(CATEGORIES) + (place < items % len(CATEGORIES))
        weights = ((rank + 1) ** -zipf_exponent for rank in range(count))
        shelves[category] = Shelf(_stock(rng, category, count), list(accumulate(weights)))
    return shelves


def _stock(rng: Random, category: str, count: int) -> list[Item]:
    words = VOCABULARY[category]
    sizes = (len(words.brands), len(words.adjectives), len(words.materials), len(words.nouns))
    stock = []
    for number, code in enumerate(rng.sample(range(titles(category)), count)):
        picks = []
        for size in sizes:
            code, pick = divmod(code, size)
            picks.append(pick)
        noun = words.nouns[picks[3]]
        title = f"{words.brands[picks[0]]} {words.adjectives[picks[1]]} {words.materials[picks[2]]} {noun}"
        price = round(words.price * rng.lognormvariate(0.0, 0.5), 2)
        stock.append(Item(f"{category}-{number:04d}", category, title, noun, price, rng.uniform(-0.6, 0.6)))
    return stock


def titles(category: str) -> int:
    """Count the distinct titles that a category can have."""
    words = VOCABULARY[category]
    return len(words.brands) * len(words.adjectives) * len(words.materials) * len(words.nouns)


def query(rng: Random, item: Item) -> str:
    """Write a search query for `item`; about one in twelve has a typing error."""
    words = VOCABULARY[item.category]
    shape = rng.random()
    if shape < 0.3:
        text = item.noun
    elif shape < 0.55:
        text = f"{rng.choice(words.adjectives)} {item.noun}"
    elif shape < 0.75:
        text = f"{rng.choice(words.materials)} {item.noun}"
    elif shape < 0.92:
        text = f"{item.noun} {rng.choice(words.modifiers)}"
    else:
        text = f"{item.title.split()[0].lower()} {item.noun}"
    return _with_typo(rng, text) if rng.random() < 0.08 else text


def _with_typo(rng: Random, text: str) -> str:
    """Swap two neighbouring letters, or drop one."""
    at = rng.randrange(len(text) - 1)
    if rng.random() < 0.5:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at + 1 :]


def review(rng: Random, item: Item, stars: int) -> str:
    """Write a review of one to three sentences: positive with 4 or 5 stars, negative with 1 or 2, mixed with 3."""
    sentiment = "positive" if stars >= 4 else "mixed" if stars == 3 else "negative"
    one, two = rng.sample(VOCABULARY[item.category].aspects, 2)
    opening = rng.choice(OPENINGS[sentiment]).format(noun=item.noun)
    if sentiment == "mixed":
        body = f"{rng.choice(LIKED).format(aspect=one)}, but {rng.choice(DISLIKED).format(aspect=two)}"
    else:
        phrases = LIKED if sentiment == "positive" else DISLIKED
        first, second = rng.sample(phrases, 2)
        body = first.format(aspect=one)
        if rng.random() < 0.5:
            body += f" and {second.format(aspect=two)}"
    return f"{opening}. {body[0].upper()}{body[1:]}. {rng.choice(CLOSINGS[sentiment])}".rstrip()
