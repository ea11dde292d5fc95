"""Tokenizer A, the concepts of a caption: content words, noun phrases, who is where, who does what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from captionary.represent import english
from captionary.represent.terms import TermTokenizer
from captionary.represent.tokenizers import TokenizerConfig

__all__ = ["ConceptTokenizer", "concepts_of"]

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[.,;:!?&。、]")
_NUMBER = re.compile(r"[\d.,'-]+")
# Ways of saying one thing whose words lie apart; rewritten before reading.
_IN_HANDS = re.compile(
    r"\bwith ((?:[\w'-]+ ){1,5}?)"
    r"in (?:his|her|its|their|the|one|both|a) (?:\w+ )?(?:hands?|arms?|paws?|mouth)\b"
)
_IN_BACKGROUND = re.compile(
    r"\bwith ((?:[\w'-]+ ){1,6}?)(?:in|on) the (?:back|fore)ground\b|\bin the (?:back|fore)ground\b"
)

# Word classes. FINITE and BASE are verb forms that may be nouns ("jumps", "jump").
NOUN, ADJECTIVE, SKIP, BREAK, PREPOSITION, ING, FINITE, BASE, AND, PRONOUN, STOP = range(11)

_MULTIWORD: dict[str, list[tuple[list[str], str]]] = {}
for _phrase in sorted(english.PREPOSITIONS, key=len, reverse=True):
    if len(_words := _phrase.split()) > 1:
        _MULTIWORD.setdefault(_words[0], []).append((_words[1:], english.PREPOSITIONS[_phrase]))


_CLOSED_CLASSES: tuple[tuple[Collection[str], int], ...] = (
    (english.COORDINATORS, AND),
    (english.PREPOSITIONS, PREPOSITION),
    (english.BREAKS, BREAK),
    (english.PRONOUNS, PRONOUN),
    (english.SKIPPED, SKIP),
)


class _Lexicon(dict[str, tuple[int, str]]):
    """word -> (class, lemma), worked out at the first sight of a word and remembered."""

    def __missing__(self, word: str) -> tuple[int, str]:
        if len(self) > 1_000_000:  # junk words of an endless stream of captions must not fill the memory
            self.clear()
        entry = self[word] = _classify(word)
        return entry


def _classify(word: str) -> tuple[int, str]:
    word = word.removesuffix("'s").removesuffix("'")
    if word in ".,;!?:、。":
        return STOP, ""
    for words, kind in _CLOSED_CLASSES:
        if word in words:
            return kind, english.PREPOSITIONS.get(word, "")
    if _NUMBER.fullmatch(word) or (len(word) == 1 and word.isascii()):
        return SKIP, ""
    if word.endswith("ly") and len(word) > 4 and word not in english.NOUNS_IN_LY:
        return SKIP, ""
    lemma = _lemma(word)
    if word.endswith("ing") and len(word) > 4 and word not in english.NOUNS_IN_ING:
        return ING, lemma
    if word in english.ADJECTIVES or lemma in english.ADJECTIVES:
        return ADJECTIVE, lemma
    if lemma in english.VERBS or lemma in english.POSTURES:
        return (BASE if word == lemma else FINITE), lemma
    return NOUN, lemma


def _lemma(word: str) -> str:
    if not word.isascii():
        return word
    lemma = english.LEMMAS.get(word)
    if lemma is None:
        import simplemma  # its dictionary takes half a second to load

        lemma = simplemma.lemmatize(word, lang="en").lower()
        lemma = english.LEMMAS.get(lemma, lemma if " " not in lemma else word)
    return lemma


_LEXICON = _Lexicon()


class _Reader:
    """Reads one caption from left to right, keeping the noun phrase that is open and what it may relate to.

        two brown dogs lying on a big red sofa next to a lamp
            └─ subject ─┘ verb ─┘     └─ anchor ─┘ └ preposition

    gives "dog on sofa" and "sofa next to lamp". A relation that a verb brings holds of the subject; a bare
    preposition holds of the nearest thing before it, but never of what somebody holds or wears, nor of a
    place.
    """

    __slots__ = (
        "anchors",
        "compounds",
        "content",
        "joined",
        "last",
        "pending",
        "related",
        "subjects",
        "tokens",
        "verb",
    )

    def __init__(self, compounds: Collection[str]) -> None:
        self.compounds = compounds
        self.tokens: list[str] = []
        self.content: list[tuple[int, str, str]] = []
        """The open noun phrase: (class, lemma, word)."""
        self.subjects: tuple[str, ...] = ()
        self.anchors: tuple[str, ...] = ()
        self.pending: tuple[str, bool, bool] | None = None
        """The relation that waits for its second thing: (canonical, by a verb, backwards as in "held by")."""
        self.verb = False
        """The last word was a verb."""
        self.joined = False
        """An "and" or a comma stands before the open noun phrase."""
        self.related = False
        """The subject has been related to something, so that "and" begins anew rather than adds a subject."""
        self.last: tuple[tuple[str, ...], str, str] | None = None
        """The relation just written, where more may hang on it: (of these, a verb or "with", this)."""

    def read(self, words: list[str]) -> list[str]:
        """The concepts of a caption's lower-case words and marks."""
        index, count = 0, len(words)
        lexicon, tokens = _LEXICON, self.tokens
        while index < count:
            word = words[index]
            kind, lemma = lexicon[word]
            if kind > SKIP or word in _MULTIWORD:
                index = self._step(words, index)
                continue
            if kind != SKIP:  # most words are told here, without the cost of a call
                self.content.append((kind, lemma, word))
                tokens.append(lemma)
            self.verb = False
            index += 1
        if self.content:
            self._close()
        return tokens

    def _step(self, words: list[str], index: int) -> int:
        """Read the word at `index`; the index of the next one to read."""
        word = words[index]
        if word in _MULTIWORD:
            for rest, canonical in _MULTIWORD[word]:
                end = index + 1 + len(rest)
                if words[index + 1 : end] == rest:
                    self._preposition(canonical)
                    return end
        kind, lemma = _LEXICON[word]
        if kind in (ING, FINITE, BASE):
            if self._is_verb(kind, words, index):
                return self._read_verb(word, lemma, words, index)
            kind = NOUN if kind == BASE or word.endswith("s") else ADJECTIVE
        if kind <= ADJECTIVE:
            self.content.append((kind, lemma, word))
            self.tokens.append(lemma)
        elif kind == PREPOSITION:
            if not (self.verb and word in english.PARTICLES):
                self._preposition(lemma)
        elif kind == AND:
            if not self.content or self.content[-1][0] == NOUN:  # not inside "black and white dog"
                self._close()
                self.joined = True
        elif kind == PRONOUN:
            self._close()
            self._pronoun()
        elif kind != SKIP:
            self._close()
            if kind == STOP:
                self.pending, self.last, self.joined = None, None, True
        self.verb = False
        return index + 1

    def _is_verb(self, kind: int, words: list[str], index: int) -> bool:
        """Whether a word that can be a verb is one here: "a dog jumps", "two men ride", but "a high jump"."""
        before = words[index - 1] if index else ""
        if before in english.AUXILIARIES:
            return True
        if self.content and self.content[-1][0] == NOUN:
            _, lemma, word = self.content[-1]
            return kind != BASE or self.joined or word != lemma or word in ("people", "sheep")
        if self.content or kind == BASE:
            return False
        if kind == FINITE and not words[index].endswith("s"):  # "covered in mud", but "covered wagons"
            return _class_at(words, index + 1) == PREPOSITION
        return before in ("", "while", "whilst", "who") or _LEXICON[before][0] in (AND, STOP, NOUN)

    def _read_verb(self, word: str, lemma: str, words: list[str], index: int) -> int:
        self._close()
        self.verb, self.joined = True, False
        following = _class_at(words, index + 1)
        if lemma in english.POSTURES:
            if following != PREPOSITION:
                self.tokens.append(lemma)
            return index + 1
        self.tokens.append(lemma)
        if words[index + 1 : index + 2] == ["by"] and not word.endswith(("ing", "s")):
            self.pending = (lemma, True, True)
            return index + 2
        if following in (PREPOSITION, AND, STOP) and words[index + 1 : index + 2] not in _PARTICLES:
            self.tokens += [f"{subject} {lemma}" for subject in self.subjects]
            self.pending = None
        else:
            self.pending = (lemma, True, False)
        return index + 1

    def _preposition(self, canonical: str) -> None:
        self._close()
        self.pending = (canonical, self.verb, False)
        self.verb = False

    def _pronoun(self) -> None:
        """ "a sofa with a dog on it" is a dog on a sofa."""
        if self.pending is not None and self.last is not None and self.last[1] == "with" and self.pending[0]:
            holders, _, held = self.last
            for holder in holders:
                self.tokens.remove(f"{holder} with {held}")
                self.tokens.append(f"{held} {self.pending[0]} {holder}")
            self.last = None
        self.pending = None

    def _close(self) -> None:
        """End the open noun phrase: write its phrases and relate its head."""
        content = self.content
        if not content:
            return
        kind, head, _ = content[-1]
        if len(content) > 1 and kind == NOUN:
            before = [lemma for _, lemma, _ in content[-3:-1]]
            self.tokens += [f"{lemma} {head}" for lemma in before]
            if len(before) == 2:
                self.tokens.append(f"{before[0]} {before[1]} {head}")
            if f"{before[-1]} {head}" in self.compounds:
                head = f"{before[-1]} {head}"
        self.content = []
        if kind == NOUN or head == "orange":
            self._relate(head, content[-1][1] in english.PLACES)
        else:
            self.pending = None
        self.joined = False

    def _relate(self, head: str, place: bool) -> None:
        pending, self.pending = self.pending, None
        if pending is None and self.joined and self.last is not None:  # "holding a cup and a spoon"
            pending = (self.last[1], True, False)
        if pending is None or (pending[1] and not self.subjects):
            more = self.joined and not self.related
            self.subjects = self.anchors = (*self.subjects, head) if more else (head,)
            self.related, self.last = False, None
            return
        canonical, by_verb, backwards = pending
        if not canonical or place:
            return
        sources = self.subjects if by_verb else self.anchors
        for source in sources:
            first, second = (head, source) if backwards else (source, head)
            self.tokens.append(f"{first} {canonical} {second}")
        self.related = True
        if canonical in _SPATIAL:
            self.anchors, self.last = (head,), None
        else:
            self.last = None if backwards else (sources, canonical, head)


_PARTICLES = [[word] for word in english.PARTICLES]
_SPATIAL = frozenset(english.PREPOSITIONS.values()) - {"with"}


def _class_at(words: Sequence[str], index: int) -> int:
    """The class of a word; STOP beyond the last."""
    if index >= len(words):
        return STOP
    return PREPOSITION if words[index] in _MULTIWORD else _LEXICON[words[index]][0]


def concepts_of(caption: str, compounds: Collection[str] = ()) -> list[str]:
    """The concepts of one caption, in reading order: words, and after the last word of each the phrases it
    ends.

    >>> concepts_of("two brown dogs lying on a big red sofa")
    ['brown', 'dog', 'brown dog', 'red', 'sofa', 'red sofa', 'dog on sofa']
    >>> concepts_of("a woman with a guitar in her hands next to a cat in the kitchen at night")
    ['woman', 'hold', 'guitar', 'woman hold guitar', 'cat', 'woman next to cat', 'kitchen', 'night']

    Args:
        caption: a normalised caption; other languages than English give words, and phrases only by accident.
        compounds: noun pairs that are one thing in a relation: with "palm tree" among them, "a cat under a
        palm
            tree" gives "cat under palm tree" rather than "cat under tree".
    """
    text = caption.lower()
    if "with " in text:
        text = _IN_HANDS.sub(r"holding \1", text)
    if "ground" in text:
        text = _IN_BACKGROUND.sub(r", \1,", text)
    return _Reader(compounds).read(_WORD.findall(text))


class ConceptTokenizer(TermTokenizer):
    """Tokenizer A. A vocabulary of concepts by document frequency, ids in that order, ties in alphabetical
    order.

    What is kept, dropped and added with growth: see `TermTokenizer`. Growth brings no compounds: "a cat under a palm
    tree" is read the same by every version.
    """

    compound_share, compound_df = 0.8, 5
    """A noun pair is a compound where it is in this share of its first word's captions, and in so many."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self._compounds: frozenset[str] = frozenset()

    def _prepare(self, times: Mapping[str, int]) -> None:
        frequencies: Counter[str] = Counter()
        for caption, count in times.items():
            for concept in set(concepts_of(caption)):
                frequencies[concept] += count
        self._compounds = self._find_compounds(frequencies)

    def _reader(self) -> Callable[[str], list[str]]:
        compounds = self._compounds
        if self.config.phrases:
            return lambda caption: concepts_of(caption, compounds)
        return lambda caption: [word for word in concepts_of(caption, compounds) if " " not in word]

    def _find_compounds(self, frequencies: Mapping[str, int]) -> frozenset[str]:
        found = set()
        for phrase, frequency in frequencies.items():
            first, _, second = phrase.partition(" ")
            if second and " " not in second and frequency >= self.compound_df:
                always = frequency >= self.compound_share * frequencies[first]
                if always and first not in english.ADJECTIVES:
                    found.add(phrase)
        return frozenset(found)

    def _remembered(self) -> dict[str, Any]:
        return {**super()._remembered(), "compounds": sorted(self._compounds)}

    def _restore(self, payload: Mapping[str, Any]) -> None:
        super()._restore(payload)
        self._compounds = frozenset(payload["compounds"])
