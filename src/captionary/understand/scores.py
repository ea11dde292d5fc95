"""How good captions are: CIDEr-D, BLEU and ROUGE against human captions, and recall of what a scene truly shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from captionary.errors import bad_value

__all__ = ["CaptionScores", "SceneRecall", "caption_scores", "scene_recall"]


class CaptionScores(NamedTuple):
    """Corpus scores against several references a picture, on lower-cased words without punctuation."""

    cider_d: float
    """Vedantam et al. 2015, with the length penalty and clipping of CIDEr-D, divided by 10: 1.0 is CIDEr 100."""
    bleu_4: float
    """Papineni et al. 2002, corpus level, 0 to 1."""
    rouge_l: float
    """Lin 2004: F, β = 1.2, of the longest common subsequence by the best reference's precision and recall; 0 to 1."""


class SceneRecall(NamedTuple):
    """Shares, 0 to 1, of what is in the scenes that their captions name."""

    objects: float
    """Over every kind of object in every scene."""
    relations: float
    """Over the scenes with a relation: subject, relation and object, in this order."""
    places: float
    times: float
    """Over the scenes at sunset or night; day goes without saying."""


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Score captions with the public COCO scorer (package ``pycocoevalcap``, which needs no Java for these three).

    Args:
        captions: one per picture.
        references: one or more human captions per picture.

    Raises:
        CaptionaryError: the scorer is not installed, or the lengths differ.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError:
        todo = "pip install 'captionary[train]'"
        raise bad_value(
            "pycocoevalcap", "(not installed)", "installed to score captions", todo=todo
        ) from None
    if len(captions) != len(references):
        raise bad_value("captions", len(captions), f"as many as references == {len(references)}")
    told = {i: list(lines) for i, lines in enumerate(references)}
    said = {i: [line] for i, line in enumerate(captions)}
    cider, _ = Cider().compute_score(told, said)
    bleu, _ = Bleu(4).compute_score(told, said, verbose=0)
    rouge, _ = Rouge().compute_score(told, said)
    return CaptionScores(cider_d=float(cider), bleu_4=float(bleu[3]), rouge_l=float(rouge))


def scene_recall(captions: Sequence[str], facts: Sequence[dict[str, object]]) -> SceneRecall:
    """Compare captions with the `facts` of their scenes (see `captionary.world.grammar`).

    An object counts as named by its singular or plural; a relation, when one of its wordings stands between subject
    and object.
    """
    from captionary.world.grammar import RELATION_WORDINGS
    from captionary.world.scenes import OBJECTS

    plural = {kind.name: kind.plural for kind in OBJECTS}
    hits = {"objects": [0, 0], "relations": [0, 0], "places": [0, 0], "times": [0, 0]}

    def count(what: str, hit: bool) -> None:
        hits[what][0] += hit
        hits[what][1] += 1

    for caption, fact in zip(captions, facts, strict=True):
        line = f" {caption} "

        def at(name: object, line: str = line) -> int:
            forms = (str(name), plural[str(name)])
            return max(line.find(f" {form} ") for form in forms)

        for role in ("subject", "object", "extra"):
            if fact[role] is not None:
                count("objects", at(fact[role]) >= 0)
        if fact["relation"] is not None:
            wordings = RELATION_WORDINGS[str(fact["relation"])]
            first, last = at(fact["subject"]), at(fact["object"])
            between = line[first:last]
            count("relations", 0 <= first < last and any(f" {w} " in between for w in wordings))
        count("places", f" {fact['place']} " in line)
        if fact["time"] != "day":
            count("times", f" {fact['time']} " in line)
    shares = {what: hit / n if n else float("nan") for what, (hit, n) in hits.items()}
    return SceneRecall(**shares)
