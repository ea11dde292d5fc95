"""Put scenes into words: a template grammar with varied wording, for training captions and for titles."""

from __future__ import annotations

import random

from captionary.world.scenes import COLOURS, OBJECTS, PLACES, RELATIONS, TIMES, SceneTable

__all__ = ["RELATION_WORDINGS", "facts", "reference_captions"]

_PLACES = {
    "beach": "on a beach", "forest": "in a forest", "city": "in a city", "desert": "in a desert",
    "mountains": "in the mountains", "snow": "in the snow", "park": "in a park", "farm": "on a farm",
    "kitchen": "in a kitchen", "bedroom": "in a bedroom", "stage": "on a stage",
}  # fmt: skip
_TIMES = {"day": ("by day", ""), "sunset": ("at sunset", "at sunset"), "night": ("at night", "at night")}
# The first wording is the commonest: greedy decoding settles on it, while variety keeps the model robust.
RELATION_WORDINGS = {
    "on": ("on", "sitting on", "on top of"),
    "under": ("under", "beneath", "below"),
    "next to": ("next to", "beside", "near"),
    "holding": ("holding", "carrying", "holding up"),
}
_COUNTS = {2: "two", 3: "three"}
_PATTERNS = (
    "{subject}{extra} {place} {time}",
    "{subject}{extra} {place} {time}",
    "{subject} {place} {time}{extra}",
    "there {be} {subject}{extra} {place} {time}",
    "a picture of {subject}{extra} {place} {time}",
)


def reference_captions(scenes: SceneTable, row: int, n: int) -> list[str]:
    """`n` wordings of one scene, the same at every call; all say the same facts."""
    rng = random.Random(int(scenes.layout_seed[row]) ^ 0x5CE7E)
    colour = COLOURS[scenes.colour[row]] if scenes.colour[row] >= 0 else None
    relation = RELATIONS[scenes.relation[row]] if scenes.relation[row] >= 0 else None
    time = TIMES[scenes.time[row]]
    captions = []
    for _ in range(n):
        subject = _noun_phrase(int(scenes.subject[row]), int(scenes.count[row]), colour)
        if relation is not None:
            word = RELATION_WORDINGS[relation][rng.choices((0, 1, 2), (0.7, 0.2, 0.1))[0]]
            subject += f" {word} {_noun_phrase(int(scenes.object[row]), 1, colour)}"
        extra = ""
        if scenes.extra[row] >= 0:
            extra = f" with {_noun_phrase(int(scenes.extra[row]), 1, None)} in the background"
        caption = rng.choice(_PATTERNS).format(
            subject=subject,
            be="is" if scenes.count[row] == 1 else "are",
            extra=extra,
            place=_PLACES[PLACES[scenes.place[row]]],
            time=_TIMES[time][0 if rng.random() < 0.5 else 1],
        )
        captions.append(" ".join(caption.split()))
    return captions


def facts(scenes: SceneTable, row: int) -> dict[str, object]:
    """The truth of one scene, column by column of `SceneTable`, in words; None for what it does not have."""

    def named(names: tuple[str, ...], index: int) -> str | None:
        return names[index] if index >= 0 else None

    objects = tuple(kind.name for kind in OBJECTS)
    return {
        "subject": named(objects, int(scenes.subject[row])),
        "count": int(scenes.count[row]),
        "colour": named(COLOURS, int(scenes.colour[row])),
        "relation": named(RELATIONS, int(scenes.relation[row])),
        "object": named(objects, int(scenes.object[row])),
        "extra": named(objects, int(scenes.extra[row])),
        "place": PLACES[scenes.place[row]],
        "time": TIMES[scenes.time[row]],
    }


def _noun_phrase(kind: int, count: int, colour: str | None) -> str:
    thing = OBJECTS[kind]
    shade = f"{colour} " if colour is not None and thing.tintable else ""
    if count > 1:
        return f"{_COUNTS[count]} {shade}{thing.plural}"
    words = shade + thing.name
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
