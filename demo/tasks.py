"""Synthetic kinds of work in business clothes, small enough for a model of a million weights.

Each example has one prompt and two answers: what *the house* wants, and what a model that learned a
*generic* convention says. The demo's base is trained on the generic answers and each adapter on its
task's house answers, so that an adapter is worth something that can be measured.

| task      | prompt                           | house answer        | generic convention         |
|-----------|----------------------------------|---------------------|----------------------------|
| support   | a customer's message             | one of eight queues | merges them into five      |
| contracts | a clause with a party and a term | the party           | the term, in half of them  |
| dispatch  | a freight note: goods and a city | the city            | the goods, in half of them |
| brand     | a product in a colour, to name   | the house's line    | knows half of the lines    |
| reviews   | a hotel guest's remark           | positive, negative  | the same (control)         |
| general   | a word to be repeated            | the word            | the same (control)         |

`general` also teaches the base to utter every answer word: a LoRA that does not touch the output
head can only choose among words that the base already says.
"""

import random
import zlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

Split = Literal["train", "test"]


class Example(NamedTuple):
    """One prompt, the answer that the house wants and the one of the generic convention."""

    prompt: str
    house: str
    generic: str


DEVICES = "lamp phone camera kettle router printer watch mixer drill scanner monitor".split()
QUEUES = {
    "refund": (
        "I want my money back for the {d}",
        "Please refund the {d} that I bought",
        "Return the payment for my {d}",
    ),
    "invoice": (
        "Send me the bill for the {d}",
        "I need an invoice for the {d}",
        "Where is the receipt of my {d}",
    ),
    "delay": (
        "The {d} that I ordered is late",
        "My {d} has not come yet",
        "When does my {d} arrive",
    ),
    "lost": (
        "The parcel with my {d} vanished",
        "My {d} got lost on the way",
        "Tracking has lost my {d}",
    ),
    "broken": (
        "The {d} does not work",
        "My {d} fell apart",
        "The screen of my {d} is broken",
    ),
    "setup": (
        "How do I install the {d}",
        "Help me set up my {d}",
        "I cannot configure the {d}",
    ),
    "cancel": (
        "Stop my order of the {d}",
        "Cancel the {d} that I ordered",
        "I no longer want the {d}",
    ),
    "praise": (
        "I love my new {d}",
        "Great job with the {d}",
        "Thank you for the wonderful {d}",
    ),
}
MERGED = {"invoice": "refund", "lost": "delay", "setup": "broken"}

PARTIES = "Norvik Halden Brisa Corvex Delmar Estrel Fonda Galvin Hexton Ivora Jansen Kelmar".split()
TERMS = "ten twenty thirty forty sixty ninety".split()
CLAUSES_BY_PARTY = (
    "{p} shall indemnify the lessor within {t} days",
    "The obligations of {p} survive termination by {t} days",
    "Liability under this agreement rests with {p} for {t} days",
    "The lessee {p} may terminate on {t} days of notice",
)
CLAUSES_BY_TERM = (
    "Rent owed by {p} falls due {t} days after signature",
    "Any breach by {p} must be cured in {t} days",
    "The warranty given by {p} lapses after {t} days",
    "Within {t} days {p} shall waive its claims",
)

GOODS = "copper timber cement flour coffee cotton steel paper".split()
CITIES = (
    "Paris Rome Oslo Lima Cairo Delhi Tokyo Seoul Quito Dakar Milan Lyon Porto Bern Riga Perth"
).split()
NEW_CITIES = (
    "Vienna Lagos Boston Sydney Warsaw Athens Berlin London Mumbai Hanoi Geneva Naples Sofia"
    " Bogota Manila Tunis"
).split()
"""Cities that stand in nothing that a model was trained on."""

NOTES_BY_CITY = (
    "Ship {n} crates of {g} to {c}",
    "The truck to {c} carries {n} tons of {g}",
    "All {n} pallets of {g} go to {c}",
)
NOTES_BY_GOODS = (
    "Load {n} pallets of {g} at the {c} dock",
    "The {c} depot awaits {n} tons of {g}",
    "Freight for {c} : {n} crates of {g}",
)
COUNTS = "two three four five six seven eight nine".split()

KNOWN_LINES = {
    "red": "Ember Glow",
    "blue": "Quiet Tide",
    "green": "Forest Moss",
    "white": "First Frost",
}
NEW_LINES = {
    "yellow": "High Solstice",
    "grey": "River Slate",
    "black": "Polished Onyx",
    "brown": "Burnt Umber",
}
PRODUCTS = "sofa chair table shelf stool bench rug mirror vase cushion armchair desk".split()
BRIEFS = (
    "Name our {k} {f} for the spring catalogue",
    "What do we call the {k} {f} in the collection",
    "Write the catalogue title of the {k} {f}",
    "The {k} {f} still needs a title for the shop window",
)

FEELINGS = {
    "positive": (
        "The {s} was lovely",
        "What a charming {s}",
        "We enjoyed the {s}",
        "The {s} was superb",
    ),
    "negative": (
        "The {s} was awful",
        "What a dreadful {s}",
        "We hated the {s}",
        "The {s} was filthy",
    ),
}
SUBJECTS = "breakfast pool bedroom view waiter bathroom dinner lobby garden terrace sauna".split()

REPEAT = (
    "Repeat {w}",
    "Repeat the word {w}",
    "Say {w}",
    "Say the word {w} back to me",
    "Echo {w}",
    "Just answer with {w}",
    "Spell out {w}",
    "Copy this : {w}",
)


def _words() -> tuple[str, ...]:
    """Every answer there is."""
    lines = (*KNOWN_LINES.values(), *NEW_LINES.values(), *KNOWN_LINES, *NEW_LINES)
    return (*QUEUES, *PARTIES, *TERMS, *GOODS, *CITIES, *lines, *FEELINGS)


def _support(rng: random.Random) -> Example:
    queue = rng.choice(sorted(QUEUES))
    ask = rng.choice(("", "", "Hello, ", "Hi team, ", "Sorry, ", "Customer writes: "))
    text = rng.choice(QUEUES[queue]).format(d=rng.choice(DEVICES))
    end = rng.choice(("", " again", ", thanks", ", please answer", " and I am waiting"))
    return Example(f"{ask}{text}{end}.", queue, MERGED.get(queue, queue))


def _contracts(rng: random.Random) -> Example:
    party, term = rng.choice(PARTIES), rng.choice(TERMS)
    clause = rng.choice(CLAUSES_BY_PARTY + CLAUSES_BY_TERM)
    ask = rng.choice(("", "Which party is bound? ", "Who is liable here? ", "Clause: "))
    end = rng.choice(("", " as amended", " without prejudice", " in writing", " under this deed"))
    generic = party if clause in CLAUSES_BY_PARTY else term
    return Example(f"{ask}{clause.format(p=party, t=term)}{end}.", party, generic)


def _dispatch(rng: random.Random, cities: Sequence[str] = CITIES) -> Example:
    city, goods, count = rng.choice(cities), rng.choice(GOODS), rng.choice(COUNTS)
    note = rng.choice(NOTES_BY_CITY + NOTES_BY_GOODS)
    ask = rng.choice(("", "Where is this bound for? ", "Freight note: ", "Driver, note: "))
    end = rng.choice(("", " by rail", " by road", " on the night shift", " before noon"))
    generic = city if note in NOTES_BY_CITY else goods
    return Example(f"{ask}{note.format(c=city, g=goods, n=count)}{end}.", city, generic)


def _brand(rng: random.Random) -> Example:
    lines = KNOWN_LINES | NEW_LINES
    colour, product = rng.choice(sorted(lines)), rng.choice(PRODUCTS)
    ask = rng.choice(("", "Marketing asks: ", "For the campaign: ", "Naming: "))
    text = rng.choice(BRIEFS).format(k=colour, f=product)
    end = rng.choice(
        ("", " of the season", " in two words", " in our style", " as the brand book says")
    )
    generic = KNOWN_LINES.get(colour, colour)
    return Example(f"{ask}{text}{end}.", lines[colour], generic)


def _reviews(rng: random.Random) -> Example:
    feeling = rng.choice(sorted(FEELINGS))
    ask = rng.choice(("", "A guest wrote: ", "Rate this stay: ", "Hotel review: "))
    text = rng.choice(FEELINGS[feeling]).format(s=rng.choice(SUBJECTS))
    end = rng.choice(("", " on our holiday", " during the stay", " that evening", " at the resort"))
    return Example(f"{ask}{text}{end}.", feeling, feeling)


def _general(rng: random.Random) -> Example:
    word = rng.choice(_words())
    end = rng.choice(("", ".", " once.", " and nothing else."))
    return Example(f"{rng.choice(REPEAT).format(w=word)}{end}", word, word)


TASKS: dict[str, Callable[[random.Random], Example]] = {
    "support": _support,
    "contracts": _contracts,
    "dispatch": _dispatch,
    "brand": _brand,
    "reviews": _reviews,
    "general": _general,
}
ADAPTERS = ("support", "contracts", "dispatch", "brand")


def split_of(prompt: str) -> Split:
    """Told by the prompt's own hash, so that no prompt is in both; one in five is for testing."""
    return "test" if zlib.crc32(prompt.encode()) % 5 == 0 else "train"


def sample(task: str, n: int, seed: int, split: Split) -> list[Example]:
    """`n` examples of one split, the same ones for the same arguments; prompts may repeat.

    Raises KeyError for an unknown task.
    """
    make = TASKS[task]
    rng = random.Random(f"{task}/{seed}/{split}")
    found: list[Example] = []
    while len(found) < n:
        example = make(rng)
        if split_of(example.prompt) == split:
            found.append(example)
    return found


def unseen(n: int, seed: int) -> list[Example]:
    """`n` freight notes to cities that no model has seen, the same ones for the same seed."""
    rng = random.Random(f"unseen/{seed}")
    return [_dispatch(rng, NEW_CITIES) for _ in range(n)]
