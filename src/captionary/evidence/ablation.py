"""Ablation both ways: what a feature adds to the baseline alone, and what the headline arm lacks without it.

The two differ where features say the same thing: tokens of captions may add much to ids and nothing to a ranker that
also has the visual vector. Each figure compares two trained arms whose features differ by the one named, and no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from captionary.evidence.arms import Arm
from captionary.evidence.compare import Comparison
from captionary.evidence.result import Ablation

__all__ = ["ablations"]


class _Seen(NamedTuple):
    """The features that the table is about."""

    visual: bool
    tokens: bool
    profiles: bool


_FEATURES = {
    "visual vector": _Seen(visual=True, tokens=False, profiles=False),
    "tokens": _Seen(visual=False, tokens=True, profiles=False),
    "profiles": _Seen(visual=False, tokens=False, profiles=True),
    "captions": _Seen(visual=False, tokens=True, profiles=True),
}


def ablations(
    headline: Arm, arms: Sequence[Arm], against: Callable[[Arm, Arm], Comparison]
) -> tuple[Ablation, ...]:
    """One row a feature of the headline arm that some trained arm has alone or lacks alone.

    A feature is added to the arm of the baseline that lacks captions (the visual vector: to ids), and removed from the
    headline arm. Captions are tokens and profiles together, shown where the headline arm has both.

    Args:
        headline: the arm that the verdict is about.
        arms: all that were trained.
        against: (arm, other arm) → their comparison.
    """
    # Of several tokenizers, the one that the headline arm has.
    own = [arm for arm in arms if _own(arm) and arm.tokenizer in ("", headline.tokenizer)]
    by = {_seen(arm): arm for arm in own}
    whole = _seen(headline)
    found = []
    for name, feature in _FEATURES.items():
        if not all(had for had, wanted in zip(whole, feature, strict=True) if wanted):
            continue
        start = _Seen(
            visual=whole.visual and not feature.visual,
            tokens=False,
            profiles=False,
        )
        alone = _Seen(*(a or b for a, b in zip(start, feature, strict=True)))
        rest = _Seen(*(a and not b for a, b in zip(whole, feature, strict=True)))
        added = against(by[alone], by[start]) if alone in by and start in by else None
        removed = against(headline, by[rest]) if rest in by else None
        if added or removed:
            found.append(
                Ablation(
                    feature=name,
                    added=by[alone].name if added else None,
                    added_gain=_gain(added),
                    added_interval=_interval(added),
                    added_p_value=_p_value(added),
                    removed=by[rest].name if removed else None,
                    removed_gain=_gain(removed),
                    removed_interval=_interval(removed),
                    removed_p_value=_p_value(removed),
                )
            )
    return tuple(found)


def _own(arm: Arm) -> bool:
    """Whether the arm has nothing but the features of the table, and they are real."""
    return not (arm.placebo or arm.rival or arm.vectors or arm.token_vectors or arm.token_table)


def _seen(arm: Arm) -> _Seen:
    return _Seen(arm.visual, bool(arm.tokens), bool(arm.profiles))


def _gain(found: Comparison | None) -> float | None:
    return None if found is None or math.isnan(found.auc_gain) else found.auc_gain


def _interval(found: Comparison | None) -> tuple[float, float] | None:
    return None if found is None or found.combined is None else found.combined.interval()


def _p_value(found: Comparison | None) -> float | None:
    return None if found is None or found.combined is None else found.combined.p_value
