"""The arms of a comparison: which features each ranker gets, and the placebos beside the real ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, NotRequired, TypedDict

from captionary.errors import bad_value, nearest

__all__ = [
    "BASELINE",
    "CAPTIONLESS",
    "IDS",
    "LISTS",
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

PlaceboKind = Literal["shuffled", "random", "constant", "pictures"]
PLACEBOS: tuple[PlaceboKind, ...] = ("shuffled", "random", "constant")
"""Of captions, run by default; `pictures` is the placebo of the visual vector, run where asked for."""
RivalKind = Literal[
    "items", "category", "labels", "text", "semantic", "sentence", "profile_text", "word2vec", "hash"
]
RIVALS: tuple[RivalKind, ...] = (
    *("items", "category", "labels", "text", "semantic"),
    *("sentence", "profile_text", "word2vec", "hash"),
)
"""Other ways to use the same media, events or captions, see docs/vectors.md; none is run unless asked for."""
LISTS: tuple[RivalKind, ...] = ("items", "category", "labels", "text", "semantic")
"""Rivals that put other token lists in the place of the captions', in items and in profiles."""
CAPTIONLESS: tuple[RivalKind, ...] = ("items", "category", "text")
"""Rivals that need neither captions nor pictures."""
IDS = "ids"
BASELINE = "+visual"

ITEM_FEATURE = "MM-LLM Features"
PROFILE_FEATURE = "MM-LLM User Interest Profile Features"
JOINT_FEATURE = "MM-LLM Features + User Interest Profile Features"

_PLACEBO_WORDS: dict[PlaceboKind, str] = {
    "shuffled": "real token lists, dealt to other items",
    "random": "lists of the same lengths, tokens drawn at random",
    "constant": "every item has the same list",
    "pictures": "visual vectors, dealt to other items",
}

_RIVAL_WORDS: dict[RivalKind, tuple[str, str]] = {
    "items": (
        "History of item ids",
        "The ids of the items that the user engaged with, in the place of the tokens of their captions",
    ),
    "category": ("Categories", "The catalogue's own categories of the item, in the place of caption tokens"),
    "labels": (
        "ImageNet labels",
        "What an ImageNet classifier reads off the picture, in the place of captions",
    ),
    "text": ("The catalogue's text", "Tokens of the item's own text, in the place of those of its caption"),
    "semantic": (
        "Semantic ids",
        "Residual k-means codes of the item's vector, in the place of caption tokens",
    ),
    "sentence": ("Sentence embedding", "Dense embedding of the generated image caption"),
    "profile_text": ("Profile in words", "Dense embedding of what a language model says that the user likes"),
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
    ablation: bool = False
    """Whether the arm is there to show what the headline arm is without one of its features, and for no claim."""
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
    """In the order of the tables: references, single features, the joint arm, its ablation, rivals and placebos."""
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
    events: bool = False,
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
            them, under the names of LISTS; vectors under `sentence` and `profile_text`; token vectors under the first
            tokenizer's letter.
        on_visual: whether captions come on top of the visual vector, as in the paper; else beside it, on `ids`, with
            `+visual` as their rival.
        events: whether there are events to make profiles of, for rivals that are run without captions.
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
        left_out.append("No captions: there is no arm with their tokens or profiles, and no placebo.")
        like = Arm(name=prefix or IDS, visual=on_visual, tokens="-", profiles="-" if events else None)
        able = [kind for kind in rivals if kind in CAPTIONLESS]
        if waiting := [kind for kind in rivals if kind not in CAPTIONLESS]:
            left_out.append(f"No captions: no rival {', '.join(waiting)}.")
        return Arms((*arms, *(rival_of(like, kind) for kind in able)), tuple(left_out))
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
        if on_visual:
            words = "The joint arm without the visual vector: what that adds to captions"
            name = f"+tokens({main})+profiles({main})"
            arms.append(
                Arm(
                    name=name,
                    tokens=main,
                    profiles=main,
                    ablation=True,
                    feature="Captions alone",
                    description=words,
                )
            )
    else:
        left_out.append("No user profiles, as there are no events: placebos are of the tokens alone.")
    arms.extend(rival_of(joint, kind) for kind in rivals)
    arms.extend(placebo_of(joint, kind) for kind in placebos if visual or kind != "pictures")
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
    if kind in ("sentence", "profile_text"):
        return replace(plain, name=f"{prefix}+{kind}", vectors=(kind,))
    if kind in LISTS:
        profiles = kind if arm.profiles else None
        name = f"{prefix}+tokens({kind}){f'+profiles({kind})' if profiles else ''}"
        return replace(plain, name=name, tokens=kind, profiles=profiles)
    own = replace(plain, name=f"{arm.name}+{kind}", tokens=arm.tokens, profiles=arm.profiles)
    if kind == "hash":
        return replace(own, token_table="hash")
    return replace(own, token_vectors=arm.tokenizer, token_table="plain")


def placebo_of(arm: Arm, kind: PlaceboKind) -> Arm:
    """The same arm on meaningless tokens: a gain that it shows too is not the captions'.

    `pictures` has no tokens, and its visual vectors are those of other items: what it gains is not what pictures show.
    """
    if kind == "pictures":
        words = _PLACEBO_WORDS[kind][0].upper() + _PLACEBO_WORDS[kind][1:]
        return Arm(name=kind, vectors=(kind,), placebo=kind, feature=f"Placebo: {kind}", description=words)
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
    captioned = [arm for arm in arms if arm.captions and not arm.ablation]
    if captioned and not all(arm.visual for arm in captioned):
        plain = [arm for arm in plain if not arm.visual] or plain
    return next((arm for arm in plain if arm.name == BASELINE), plain[0])


def headline_of(arms: Sequence[Arm]) -> Arm | None:
    """The first of the real arms, no rival or ablation, with the most caption features; None where none has any."""
    real = [arm for arm in arms if arm.captions and not (arm.placebo or arm.rival or arm.ablation)]
    richest = max((bool(arm.tokens) + bool(arm.profiles) for arm in real), default=0)
    return next((arm for arm in real if bool(arm.tokens) + bool(arm.profiles) == richest), None)
