"""The arms of a comparison: which features each ranker gets, and the placebos beside the real ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, NotRequired, TypedDict

from captionary.errors import bad_value, nearest

__all__ = [
    "BASELINE",
    "IDS",
    "PLACEBOS",
    "RIVALS",
    "Arm",
    "Arms",
    "Features",
    "PlaceboKind",
    "RivalKind",
    "baseline_of",
    "default_arms",
    "headline_of",
    "placebo_of",
    "rival_of",
]

PlaceboKind = Literal["shuffled", "random", "constant"]
PLACEBOS: tuple[PlaceboKind, ...] = ("shuffled", "random", "constant")
RivalKind = Literal["semantic", "sentence", "word2vec", "hash"]
RIVALS: tuple[RivalKind, ...] = ("semantic", "sentence", "word2vec", "hash")
"""Other ways to use the same media or captions, see docs/vectors.md; none is run unless asked for."""
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

_RIVAL_WORDS: dict[RivalKind, tuple[str, str]] = {
    "semantic": (
        "Semantic ids",
        "Residual k-means codes of the item's vector, in the place of caption tokens",
    ),
    "sentence": ("Sentence embedding", "Dense embedding of the generated image caption"),
    "word2vec": (
        "Pretrained token vectors",
        "The joint arm, its token table started from word2vec on the captions",
    ),
    "hash": ("Hash embeddings", "The joint arm, its token table replaced by hash embeddings"),
}


class Features(TypedDict):
    """The arguments of `captionary.rank.features.FeatureSet`."""

    visual: bool
    tokens: str | None
    profiles: str | None
    vectors: NotRequired[tuple[str, ...]]
    token_vectors: NotRequired[str]


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
    vectors: tuple[str, ...] = ()
    """Keys of dense vectors beside the visual one, such as `sentence`."""
    token_vectors: str | None = None
    """Key of the vectors that the token table starts from: the tokenizer's letter; None: from random ones."""
    token_table: Literal["plain", "hash"] | None = None
    """The ranker's token table in this arm; None: the one of the run's config."""
    rival: RivalKind | None = None
    """Which other way to use media or captions this is; None for the product's own."""
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
        """Whether anything made from captions, real or placebo, or in the place of that, is in this arm."""
        return bool(self.tokens or self.profiles or self.vectors)

    @property
    def tokenizer(self) -> str:
        """Table 1, Tokenizer Type: the letter, or empty for an arm without tokens."""
        return (self.tokens or self.profiles or "").split(":")[0]

    def features(self) -> Features:
        """What the ranker gets: ``FeatureSet(**arm.features())``."""
        given = Features(visual=self.visual, tokens=self.tokens, profiles=self.profiles)
        if self.vectors:
            given["vectors"] = self.vectors
        if self.token_vectors:
            given["token_vectors"] = self.token_vectors
        return given


class Arms(NamedTuple):
    """What can be compared with the inputs at hand."""

    arms: tuple[Arm, ...]
    """In the order of the tables: references, single features, the joint arm, its rivals and placebos."""
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
    rivals: Sequence[RivalKind] = (),
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
        rivals: the rivals to run, whose inputs the caller provides: item tokens, and profiles where others have
            them, under `semantic`; vectors under `sentence`; token vectors under the first tokenizer's letter.
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
        beside = "no rival and no placebo" if rivals else "and no placebo"
        left_out.append(f"No captions: there is no arm with tokens or profiles, {beside}.")
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
    arms.extend(rival_of(joint, kind) for kind in rivals)
    arms.extend(placebo_of(joint, kind) for kind in placebos)
    return Arms(tuple(arms), tuple(left_out))


def rival_of(arm: Arm, kind: RivalKind) -> Arm:
    """The same arm with another way to use what it uses: what the product's own way has to stand beside.

    Raises:
        CaptionaryError: an unknown kind.
    """
    if kind not in RIVALS:
        raise bad_value("rival", kind, nearest(kind, RIVALS))
    feature, description = _RIVAL_WORDS[kind]
    prefix = BASELINE if arm.visual else ""
    plain = Arm(name=kind, visual=arm.visual, rival=kind, feature=feature, description=description)
    if kind == "sentence":
        return replace(plain, name=f"{prefix}+sentence", vectors=("sentence",))
    if kind == "semantic":
        profiles = "semantic" if arm.profiles else None
        name = f"{prefix}+tokens(semantic){'+profiles(semantic)' if profiles else ''}"
        return replace(plain, name=name, tokens="semantic", profiles=profiles)
    own = replace(plain, name=f"{arm.name}+{kind}", tokens=arm.tokens, profiles=arm.profiles)
    if kind == "hash":
        return replace(own, token_table="hash")
    return replace(own, token_vectors=arm.tokenizer, token_table="plain")


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
    """The first of the real arms with the most caption features, no rival; None where no such arm has any."""
    real = [arm for arm in arms if arm.captions and not arm.placebo and not arm.rival]
    richest = max((bool(arm.tokens) + bool(arm.profiles) for arm in real), default=0)
    return next((arm for arm in real if bool(arm.tokens) + bool(arm.profiles) == richest), None)
