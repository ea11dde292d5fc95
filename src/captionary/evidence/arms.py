"""The arms of a comparison: which features each ranker gets, and the placebos beside the real ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict

from captionary.errors import bad_value

__all__ = [
    "BASELINE",
    "IDS",
    "PLACEBOS",
    "Arm",
    "Arms",
    "Features",
    "PlaceboKind",
    "baseline_of",
    "default_arms",
    "headline_of",
]

PlaceboKind = Literal["shuffled", "random", "constant"]
PLACEBOS: tuple[PlaceboKind, ...] = ("shuffled", "random", "constant")
IDS = "ids"
BASELINE = "+visual"

ITEM_FEATURE = "MM-LLM Features"
PROFILE_FEATURE = "MM-LLM User Interest Profile Features"
JOINT_FEATURE = "MM-LLM Features + User Interest Profile Features"

_PLACEBO_WORDS: dict[PlaceboKind, str] = {
    "shuffled": "real token lists, dealt to other items",
    "random": "lists of the same lengths, tokens drawn at random",
    "constant": "every item has the same list",
}


class Features(TypedDict):
    """The arguments of `captionary.rank.features.FeatureSet`."""

    visual: bool
    tokens: str | None
    profiles: str | None


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One feature set under comparison; every arm also has ids, context and activity."""

    name: str
    """Unique in a run: `ids`, `+visual`, `+visual+tokens(A)`, …; a placebo has the name of its kind."""
    visual: bool = False
    """Whether the ranker sees the visual vector of the item."""
    tokens: str | None = None
    """Key of the item tokens: a tokenizer's letter, for a placebo followed by its kind (`A:shuffled`)."""
    profiles: str | None = None
    """Key of the user profiles, in the same form."""
    placebo: PlaceboKind | None = None
    """How the tokens were made meaningless; None for a real arm."""
    feature: str = ""
    """Table 1, Feature Name."""
    description: str = ""
    """Table 1, Feature Description."""

    def __post_init__(self) -> None:
        if not self.name:
            raise bad_value("arm name", self.name, "not empty")
        if self.placebo and not self.captions:
            raise bad_value(f"placebo of arm {self.name}", self.placebo, "on an arm with tokens or profiles")

    @property
    def captions(self) -> bool:
        """Whether anything made from captions, real or placebo, is in this arm."""
        return bool(self.tokens or self.profiles)

    @property
    def tokenizer(self) -> str:
        """Table 1, Tokenizer Type: the letter, or empty for an arm without tokens."""
        return (self.tokens or self.profiles or "").split(":")[0]

    def features(self) -> Features:
        """What the ranker gets: ``FeatureSet(**arm.features())``."""
        return Features(visual=self.visual, tokens=self.tokens, profiles=self.profiles)


class Arms(NamedTuple):
    """What can be compared with the inputs at hand."""

    arms: tuple[Arm, ...]
    """In the order of the tables: references, single features, the joint arm, its placebos."""
    left_out: tuple[str, ...]
    """One sentence for each group of arms whose inputs are missing."""

    @property
    def baseline(self) -> Arm:
        """The arm that all others are measured against: `+visual`, or `ids` where nothing is visual."""
        return baseline_of(self.arms)

    @property
    def headline(self) -> Arm | None:
        """The arm that the verdict is about: the joint one, or the richest; None without captions."""
        return headline_of(self.arms)


def default_arms(
    *,
    visual: bool,
    tokens: Sequence[str],
    profiles: Collection[str],
    placebos: Sequence[PlaceboKind] = PLACEBOS,
    on_visual: bool = True,
) -> Arms:
    """The arms of the paper's Table 1, the joint arm, and the placebos of the joint arm.

    The first tokenizer carries the profiles and the placebos. Its placebos are keyed ``"{letter}:{kind}"``:
    the caller provides item tokens (see `captionary.evidence.placebo`) and profiles under those keys.

    Args:
        visual: whether the items have visual vectors.
        tokens: the letters of the tokenizers whose item tokens exist, the main one first; may be empty.
        profiles: the letters of the tokenizers whose user profiles exist.
        placebos: the kinds of placebo to run.
        on_visual: whether captions come on top of the visual vector, as in the paper; else beside it, on `ids`, with
            `+visual` as their rival.
    """
    arms = [Arm(name=IDS, feature="Ids and context", description="Ids, context and activity, no media")]
    left_out = []
    if visual:
        words = "Ids, context, activity and the visual vector of the item"
        arms.append(Arm(name=BASELINE, visual=True, feature="Visual features", description=words))
    else:
        left_out.append("No visual vectors, as no item has a readable picture: arms start from `ids`.")
    on_visual = on_visual and visual
    prefix = BASELINE if on_visual else ""
    if not tokens:
        left_out.append("No captions: there is no arm with tokens or profiles, and no placebo.")
        return Arms(tuple(arms), tuple(left_out))
    for letter in tokens:
        name = f"{prefix}+tokens({letter})"
        words = "Token id lists transformed from generated image caption"
        arms.append(Arm(name=name, visual=on_visual, tokens=letter, feature=ITEM_FEATURE, description=words))
    main = tokens[0]
    joint = arms[-len(tokens)]
    if main in profiles:
        words = "Aggregated token id lists based on different user engagement events"
        name = f"{prefix}+profiles({main})"
        arms.append(
            Arm(name=name, visual=on_visual, profiles=main, feature=PROFILE_FEATURE, description=words)
        )
        joint = Arm(
            name=f"{prefix}+tokens({main})+profiles({main})",
            visual=on_visual,
            tokens=main,
            profiles=main,
            feature=JOINT_FEATURE,
            description="Both of the above together",
        )
        arms.append(joint)
    else:
        left_out.append("No user profiles, as there are no events: placebos are of the tokens alone.")
    arms.extend(placebo_of(joint, kind) for kind in placebos)
    return Arms(tuple(arms), tuple(left_out))


def placebo_of(arm: Arm, kind: PlaceboKind) -> Arm:
    """The same arm on meaningless tokens: a gain that it shows too is not the captions'."""
    return Arm(
        name=kind,
        visual=arm.visual,
        tokens=arm.tokens and f"{arm.tokens}:{kind}",
        profiles=arm.profiles and f"{arm.profiles}:{kind}",
        placebo=kind,
        feature=f"Placebo: {kind}",
        description=_PLACEBO_WORDS[kind][0].upper() + _PLACEBO_WORDS[kind][1:],
    )


def baseline_of(arms: Sequence[Arm]) -> Arm:
    """`+visual` where captions come on top of it, else `ids`: the richest arm without captions that all others contain.

    Raises:
        CaptionaryError: there is no such arm.
    """
    plain = [arm for arm in arms if not arm.captions]
    if not plain:
        raise bad_value("arms", ", ".join(arm.name for arm in arms), f"with {IDS} or {BASELINE} among them")
    captioned = [arm for arm in arms if arm.captions]
    if captioned and not all(arm.visual for arm in captioned):
        plain = [arm for arm in plain if not arm.visual] or plain
    return next((arm for arm in plain if arm.name == BASELINE), plain[0])


def headline_of(arms: Sequence[Arm]) -> Arm | None:
    """The first of the real arms with the most caption features; None where no real arm has any."""
    real = [arm for arm in arms if arm.captions and not arm.placebo]
    richest = max((bool(arm.tokens) + bool(arm.profiles) for arm in real), default=0)
    return next((arm for arm in real if bool(arm.tokens) + bool(arm.profiles) == richest), None)
