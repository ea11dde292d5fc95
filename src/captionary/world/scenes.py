"""What a scene is: one to three kinds of objects with count, colour, relation, in a place, at a time of day.

A scene is a row of small integers (`SceneTable`), so that ten million are cheap to draw and to reason about;
`render.py` paints it and `grammar.py` puts it into words.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "COLOURS",
    "OBJECTS",
    "PLACES",
    "RELATIONS",
    "TIMES",
    "ObjectKind",
    "SceneMix",
    "SceneTable",
    "draw_scenes",
]

Role = Literal["animal", "person", "thing", "seat", "cover"]


class ObjectKind(NamedTuple):
    """A kind of object and its OpenMoji artwork."""

    name: str
    plural: str
    glyph: str
    role: Role
    tintable: bool = False
    """Whether the artwork can take another colour and still be itself."""
    top: float = 0.0
    """For a seat: the height, as a share of its own from the top, on which something sits."""


OBJECTS: tuple[ObjectKind, ...] = (
    ObjectKind("dog", "dogs", "🐕", "animal"),
    ObjectKind("cat", "cats", "🐈", "animal"),
    ObjectKind("horse", "horses", "🐎", "animal"),
    ObjectKind("cow", "cows", "🐄", "animal"),
    ObjectKind("pig", "pigs", "🐖", "animal"),
    ObjectKind("rabbit", "rabbits", "🐇", "animal"),
    ObjectKind("bird", "birds", "🐦", "animal"),
    ObjectKind("duck", "ducks", "🦆", "animal"),
    ObjectKind("turtle", "turtles", "🐢", "animal"),
    ObjectKind("frog", "frogs", "🐸", "animal"),
    ObjectKind("butterfly", "butterflies", "🦋", "animal"),
    ObjectKind("elephant", "elephants", "🐘", "animal"),
    ObjectKind("monkey", "monkeys", "🐒", "animal"),
    ObjectKind("penguin", "penguins", "🐧", "animal"),
    ObjectKind("fox", "foxes", "🦊", "animal"),
    ObjectKind("bear", "bears", "🐻", "animal"),
    ObjectKind("sheep", "sheep", "🐑", "animal"),
    ObjectKind("woman", "women", "👩", "person"),
    ObjectKind("man", "men", "👨", "person"),
    ObjectKind("baby", "babies", "👶", "person"),
    ObjectKind("grandmother", "grandmothers", "👵", "person"),
    ObjectKind("policeman", "policemen", "👮", "person"),
    ObjectKind("robot", "robots", "🤖", "person"),
    ObjectKind("snowman", "snowmen", "⛄", "person"),
    ObjectKind("ball", "balls", "⚽", "thing"),
    ObjectKind("book", "books", "📖", "thing"),
    ObjectKind("guitar", "guitars", "🎸", "thing"),
    ObjectKind("camera", "cameras", "📷", "thing"),
    ObjectKind("cup", "cups", "☕", "thing"),
    ObjectKind("apple", "apples", "🍎", "thing"),
    ObjectKind("cake", "cakes", "🎂", "thing"),
    ObjectKind("pizza", "pizzas", "🍕", "thing"),
    ObjectKind("balloon", "balloons", "🎈", "thing", tintable=True),
    ObjectKind("flower", "flowers", "🌷", "thing"),
    ObjectKind("gift", "gifts", "🎁", "thing"),
    ObjectKind("key", "keys", "🔑", "thing"),
    ObjectKind("trumpet", "trumpets", "🎺", "thing"),
    ObjectKind("kite", "kites", "🪁", "thing", tintable=True),
    ObjectKind("violin", "violins", "🎻", "thing"),
    ObjectKind("watermelon", "watermelons", "🍉", "thing"),
    ObjectKind("sofa", "sofas", "🛋", "seat", tintable=True, top=0.62),
    ObjectKind("bed", "beds", "🛏", "seat", tintable=True, top=0.45),
    ObjectKind("chair", "chairs", "🪑", "seat", tintable=True, top=0.52),
    ObjectKind("canoe", "canoes", "🛶", "seat", tintable=True, top=0.30),
    ObjectKind("car", "cars", "🚗", "seat", tintable=True, top=0.04),
    ObjectKind("bicycle", "bicycles", "🚲", "seat", top=0.10),
    ObjectKind("skateboard", "skateboards", "🛹", "seat", top=0.05),
    ObjectKind("train", "trains", "🚂", "seat", top=0.20),
    ObjectKind("tractor", "tractors", "🚜", "seat", top=0.05),
    ObjectKind("tree", "trees", "🌳", "cover"),
    ObjectKind("palm tree", "palm trees", "🌴", "cover"),
    ObjectKind("umbrella", "umbrellas", "☂", "cover", tintable=True),
    ObjectKind("rainbow", "rainbows", "🌈", "cover"),
)
RELATIONS: tuple[str, ...] = ("on", "under", "next to", "holding")
PLACES: tuple[str, ...] = (
    "beach", "forest", "city", "desert", "mountains", "snow", "park", "farm", "kitchen", "bedroom", "stage",
)  # fmt: skip
TIMES: tuple[str, ...] = ("day", "sunset", "night")
COLOURS: tuple[str, ...] = ("red", "yellow", "green", "blue", "purple")

_ROLES: dict[str, list[int]] = {}
for _index, _kind in enumerate(OBJECTS):
    _ROLES.setdefault(_kind.role, []).append(_index)
_ALIVE = _ROLES["animal"] + _ROLES["person"]
_TINTABLE = np.array([kind.tintable for kind in OBJECTS])

Int = npt.NDArray[np.int16]


class SceneTable(NamedTuple):
    """n scenes as columns of indices into the tuples above; -1 where a scene has no such part."""

    subject: Int
    count: Int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    """How many of the subject, 1 to 3."""
    colour: Int
    """Of the tintable one among subject and object."""
    relation: Int
    object: Int
    extra: Int
    """A third kind of object, in the background."""
    place: Int
    time: Int
    layout_seed: npt.NDArray[np.int64]
    """Fixes where things stand and how the reference caption is worded."""

    @property
    def rows(self) -> int:
        """The number of scenes."""
        return len(self.subject)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> SceneTable:
        """The scenes at `rows`."""
        return SceneTable._make(column[rows] for column in self)


class SceneMix(NamedTuple):
    """What a catalogue is made of: compositions (subject, relation, object) and places with their shares."""

    compositions: Int
    """[C, 3] subject, relation, object."""
    composition_shares: npt.NDArray[np.float64]
    place_shares: npt.NDArray[np.float64]

    @classmethod
    def uniform(cls) -> SceneMix:
        """Every valid composition alike: what the built-in captioner is trained on."""
        table = _all_compositions()
        # Half of the scenes without a relation, so that "a dog" alone is as well known as "a dog on a sofa".
        alone = table[:, 1] < 0
        shares = np.where(alone, 0.3 / alone.sum(), 0.0)
        for relation in range(len(RELATIONS)):
            chosen = table[:, 1] == relation
            shares += np.where(chosen, 0.7 / len(RELATIONS) / chosen.sum(), 0.0)
        return cls(table, shares, np.full(len(PLACES), 1 / len(PLACES)))

    @classmethod
    def catalogue(cls, rng: np.random.Generator, compositions: int) -> SceneMix:
        """One catalogue's own taste: `compositions` of the possible ones, with Zipf-like shares."""
        every = cls.uniform()
        chosen = rng.choice(len(every.compositions), compositions, replace=False, p=every.composition_shares)
        shares = 1 / (np.arange(compositions) + 8.0)
        places = rng.dirichlet(np.full(len(PLACES), 4.0))
        return cls(every.compositions[chosen], shares / shares.sum(), places)


def draw_scenes(rng: np.random.Generator, n: int, mix: SceneMix | None = None) -> SceneTable:
    """Draw `n` scenes from a mix (default: uniform over everything that can be drawn)."""
    mix = SceneMix.uniform() if mix is None else mix
    picked = mix.compositions[rng.choice(len(mix.compositions), n, p=mix.composition_shares)]
    subject, relation, other = picked[:, 0], picked[:, 1], picked[:, 2]
    single = (relation == RELATIONS.index("on")) | (relation == RELATIONS.index("holding"))
    count = np.where(single, 1, rng.choice([1, 2, 3], n, p=[0.6, 0.25, 0.15]))
    tintable = _TINTABLE[subject] | ((other >= 0) & _TINTABLE[np.maximum(other, 0)])
    colour = np.where(tintable & (rng.random(n) < 0.8), rng.integers(0, len(COLOURS), n), -1)
    things = np.array(_ROLES["thing"] + _ROLES["animal"])
    extra = things[rng.integers(0, len(things), n)]
    extra = np.where((rng.random(n) < 0.3) & (extra != subject) & (extra != other), extra, -1)
    place = rng.choice(len(PLACES), n, p=mix.place_shares)
    time = rng.choice(len(TIMES), n, p=[0.5, 0.2, 0.3])
    columns = (subject, count, colour, relation, other, extra, place, time)
    return SceneTable._make([*(c.astype(np.int16) for c in columns), rng.integers(0, 2**62, n)])


def _all_compositions() -> Int:
    rows = [(subject, -1, -1) for subject in range(len(OBJECTS)) if OBJECTS[subject].role != "cover"]
    on, under, beside, holding = range(4)
    rows += [(a, on, b) for a in _ALIVE + _ROLES["thing"] for b in _ROLES["seat"]]
    rows += [(a, under, b) for a in _ALIVE + _ROLES["seat"] for b in _ROLES["cover"]]
    neighbours = _ALIVE + _ROLES["thing"] + _ROLES["seat"]
    rows += [(a, beside, b) for a in _ALIVE for b in neighbours if a != b]
    rows += [(a, holding, b) for a in _ROLES["person"] for b in _ROLES["thing"]]
    return np.array(rows, dtype=np.int16)
