"""Normalise captions before they are tokenised: a chain of named steps, each a pure function that can be left
out.

The raw caption is kept elsewhere; nothing here is lossless. Every step is safe for any script: only
Latin-script boilerplate is removed, and a letter is dropped only together with a copy of it that stays.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterable

from captionary.errors import bad_value, nearest

__all__ = [
    "NORMALIZER_STEPS",
    "collapse_whitespace",
    "drop_boilerplate",
    "drop_markup",
    "drop_repeats",
    "lower_case",
    "normalize",
    "tidy_punctuation",
    "unify_unicode",
]

# Format characters that are part of the spelling: joiners (Persian, Indic scripts, emoji) and the marks that Arabic and
# Syriac write before a number.
_SPELLING = frozenset("\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2")
# NFKC takes the vowel AM of Thai and Lao apart, which no keyboard writes and no pretrained vocabulary holds.
_AM = {"\u0e4d\u0e32": "\u0e33", "\u0ecd\u0eb2": "\u0eb3"}
# Tags are of ASCII alone, so that no letter of another script goes with one.
_TAG = re.compile(
    r"</?[a-zA-Z][ -;=?-~]{0,80}>|<\|[ -;=?-{}~]{1,40}\|>|<!--[ -;=?-~]{0,200}-->|\[/?INST\]|\*\*|__(?=\S)|(?<=\S)__"
)
_STRAIGHT = str.maketrans("\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00b4`", "''''\"\"\"\"''")

_MEDIUM = r"(?:picture|photo(?:graph)?|pic|image|snapshot|shot)s?"
_SHOWS = r"(?:of|showing|shows?|depict(?:s|ing)|that shows|which shows|featur(?:es|ing)|contain(?:s|ing))"
_OPENER = (
    r"(?:"
    r"(?:sure|certainly|of course)[,!.:] (?:here(?:'s| is) )?(?:an?|the|your) (?:image )?(?:caption|description)"
    r"(?: (?:of|for) (?:the|this) (?:image|picture|photo))?:"
    r"|(?:image )?(?:caption|description|alt text|assistant|answer):|"
    rf"(?:(?:this|here|it) (?:is|are) |there(?:'s| is| are) |we (?:can )?see )?(?:an?|the|this|these)?"
    rf" ?(?:close[- ]?up |stock )?{_MEDIUM} {_SHOWS}"
    rf"|in (?:the|this) {_MEDIUM},?"
    r"|there(?:'s| is| are)|(?:here|this|it) is (?=an? |the |two |three |some )|we (?:can )?see"
    r")"
)
_BOILERPLATE = re.compile(rf"(^|[.!?] )(?:{_OPENER}[,:]? )+(?=\w)", re.IGNORECASE)
_BOILERPLATE_HINTS = (
    "pic", "photo", "image", "shot", "there", "here", "this", "it is", "see ", "caption:", "description:", "text:",
    "assistant:", "answer:", "sure", "certainly", "of course",
)  # fmt: skip
# A mark ends a clause where white space follows, so not inside 3.5; marks of other scripts need none.
_SENTENCE = re.compile(r"(?:[.!?](?= |$)|[。！？؟।])+ ?")
_CLAUSE = re.compile(r"(?:[,;](?= |$)|[、،؛])+ ?")
_LATIN_WORD = re.compile(r"[a-zA-Z]+")
_LONGEST_RUN = 12
_MARKS = ".,;:!?"
_SPACE_BEFORE = re.compile(r"\s+(?=[.,;:!?]+(?:\s|$))")
_DOUBLED = re.compile(r"([.,;:!?])(?:\s*[.,;:!?])+(?=\s|$)")
_EDGES = re.compile(r"^[\s.,;:!?|*_~-]+|[\s.,;:!?|*_~。-]+$")
_QUOTED = re.compile(r"""^(["'])(.*)\1[.,;:!?]*$""", re.DOTALL)


def drop_markup(text: str) -> str:
    """Without HTML tags and entities, Markdown's bold, and the special tokens that a language model leaves behind.

    >>> drop_markup("<s>a <b>dog</b> &amp; a **cat**</s><|endoftext|>")
    'a dog & a cat'
    """
    if "&" in text:
        text = html.unescape(text)
    if any(mark in text for mark in ("<", "**", "__", "INST]")):
        text = _TAG.sub("", text)
    return text


def unify_unicode(text: str) -> str:
    """NFKC, straight quotes, no control characters (joiners that spell words stay; line breaks become
    spaces).

    >>> unify_unicode("Ａ\u00a0ﬁne\\u0000 dog’s\\nbed")
    "A fine dog's bed"
    """
    if text.isascii() and text.isprintable():
        return text.replace("`", "'")
    text = unicodedata.normalize("NFKC", text).translate(_STRAIGHT)
    for apart, together in _AM.items():
        if apart in text:
            text = text.replace(apart, together)
    if text.isprintable():
        return text
    return "".join(
        " " if c.isspace() else c
        for c in text
        if c.isspace() or c in _SPELLING or unicodedata.category(c) not in ("Cc", "Cf", "Cs")
    )


def lower_case(text: str) -> str:
    """Lower case, by Unicode's rules.

    >>> lower_case("Ein Hund AUF der Straße")
    'ein hund auf der straße'
    """
    return text.lower()


def collapse_whitespace(text: str) -> str:
    """One space for every run of white space, none at the ends.

    >>> collapse_whitespace("  a   dog ")
    'a dog'
    """
    return " ".join(text.split())


def tidy_punctuation(text: str) -> str:
    """No space before a mark, one mark for a run of them, none at either end of the caption.

    >>> tidy_punctuation('"a dog , asleep !! on a sofa . "')
    'a dog, asleep! on a sofa'
    """
    text = _EDGES.sub("", _DOUBLED.sub(r"\1", _SPACE_BEFORE.sub("", text)))
    quoted = _QUOTED.match(text)
    return text if quoted is None else tidy_punctuation(quoted.group(2))


def drop_boilerplate(text: str) -> str:
    """Without the openers that say only that there is a picture, at the start of every sentence.

    >>> drop_boilerplate("an image showing a picture of a dog")
    'a dog'
    >>> drop_boilerplate("a dog on a sofa. there is a cat under it")
    'a dog on a sofa. a cat under it'
    """
    lowered = text.lower()
    if not any(hint in lowered for hint in _BOILERPLATE_HINTS):
        return text  # most captions: the pattern is the dearest of the chain
    return _BOILERPLATE.sub(r"\1", text)


def drop_repeats(text: str) -> str:
    """Without what a decoder says twice: a run of words repeated at once, or a clause said before.

    A single word is merged with its repetition in Latin script only: other languages double words on purpose.

    >>> drop_repeats("a dog a dog on a sofa")
    'a dog on a sofa'
    >>> drop_repeats("a dog on a sofa. a cat, a cat. a dog on a sofa")
    'a dog on a sofa. a cat'
    """
    words = text.split()
    if len(set(words)) == len(words) and _SENTENCE.search(text) is None and _CLAUSE.search(text) is None:
        return text
    clauses = _first_of_each(text, _SENTENCE, lambda sentence: _first_of_each(sentence, _CLAUSE, str))
    return " ".join(_drop_repeated_runs(words if clauses == text else clauses.split()))


def _first_of_each(text: str, mark: re.Pattern[str], tidy: Callable[[str], str]) -> str:
    """The text without parts (between marks) that come again; each part is tidied before it is compared."""
    kept: list[str] = []
    seen: set[str] = set()
    changed = False
    start = 0
    for end in [*mark.finditer(text), None]:
        raw = text[start : end.start() if end else len(text)]
        part = tidy(raw).strip()
        start = end.end() if end else len(text)
        changed |= part != raw.strip() or part in seen
        if part and part not in seen:
            seen.add(part)
            kept += [part, end.group() if end else ""]
    return "".join(kept).rstrip(_MARKS + " ") if changed else text


def _drop_repeated_runs(words: list[str]) -> list[str]:
    """Keep the last copy of a run of words that follows itself: its punctuation fits what comes next."""
    bare = [word.rstrip(_MARKS) for word in words]
    places: dict[str, list[int]] = {}
    for place, word in enumerate(bare):
        places.setdefault(word, []).append(place)
    # A run of n words that follows itself shows as n words at distance n from a copy of themselves.
    copies = [0] * (_LONGEST_RUN + 1)
    for found in places.values():
        for index, place in enumerate(found[1:], 1):
            for earlier in found[max(0, index - _LONGEST_RUN) : index]:
                if place - earlier <= _LONGEST_RUN:
                    copies[place - earlier] += 1
    for n in range(1, _LONGEST_RUN + 1):
        if copies[n] < n:
            continue
        start = 0
        while start + 2 * n <= len(bare):
            again = bare[start : start + n] == bare[start + n : start + 2 * n]
            if again and (n > 1 or _LATIN_WORD.fullmatch(bare[start])):
                del words[start : start + n], bare[start : start + n]
            else:
                start += 1
    return words


NORMALIZER_STEPS: dict[str, Callable[[str], str]] = {
    "markup": drop_markup,
    "unicode": unify_unicode,
    "lower": lower_case,
    "whitespace": collapse_whitespace,
    "punctuation": tidy_punctuation,
    "boilerplate": drop_boilerplate,
    "repeats": drop_repeats,
}
"""The steps by name, in the order in which they run."""


def normalize(caption: str, steps: Iterable[str] = tuple(NORMALIZER_STEPS)) -> str:
    """Run the chain until nothing changes, so that ``normalize(normalize(x)) == normalize(x)``.

    >>> normalize("A picture of  a Dog a dog on a sofa .")
    'a dog on a sofa'

    Args:
        caption: one caption, raw.
        steps: names out of `NORMALIZER_STEPS`; they run in the order of that table, whatever the order given.

    Raises:
        CaptionaryError: an unknown step.
    """
    chosen = set(steps)
    for name in chosen - NORMALIZER_STEPS.keys():
        raise bad_value("normalizer step", name, nearest(name, NORMALIZER_STEPS))
    chain = [step for name, step in NORMALIZER_STEPS.items() if name in chosen]
    while True:
        before = caption
        for step in chain:
            caption = step(caption)
        if caption == before:
            return caption
