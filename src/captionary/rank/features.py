"""Which optional features a ranker is given, and the shapes that follow from them; light, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from captionary.errors import CaptionaryError, bad_value, nearest
from captionary.spec import TaskKind

if TYPE_CHECKING:
    from captionary.rank.data import RankingData

__all__ = ["FeatureSet", "Schema", "TaskKind"]


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """What an arm sees beside ids, context, item columns and activity, which every arm is given."""

    visual: bool = False
    """Whether the item's visual vector is a field."""
    tokens: str | None = None
    """Key of `RankingData.item_tokens`, or None."""
    profiles: str | None = None
    """Key of `RankingData.profiles`, or None; the same as `tokens` where both are given."""
    vectors: tuple[str, ...] = ()
    """Keys of `RankingData.vectors`, of which each is a field."""
    token_vectors: str | None = None
    """Key of `RankingData.token_vectors`, from which the token table starts; None: it starts at random."""

    def __post_init__(self) -> None:
        if self.tokens and self.profiles and self.tokens != self.profiles:
            rule = f"{self.tokens}, as item tokens and profiles share one token table"
            raise bad_value("profiles", self.profiles, rule)
        if len(set(self.vectors)) < len(self.vectors):
            raise bad_value("vectors", ", ".join(self.vectors), "each named once")
        if self.token_vectors is not None and not self.key:
            raise bad_value("token_vectors", self.token_vectors, "given with tokens or profiles")

    @property
    def key(self) -> str | None:
        """The token lists in use, of items or profiles or both; None without any."""
        return self.tokens or self.profiles

    def check(self, data: RankingData) -> None:
        """Refuse features that the data does not hold.

        Raises:
            CaptionaryError: names the missing feature and those at hand.
        """
        if self.visual and data.visual is None:
            raise bad_value("visual", True, "False", where="the data has no visual vectors")
        if self.tokens is not None and self.tokens not in data.item_tokens:
            rule = nearest(self.tokens, data.item_tokens)
            raise bad_value("tokens", self.tokens, rule, where="item tokens of the data")
        if self.profiles is not None and self.profiles not in data.profiles:
            rule = nearest(self.profiles, data.profiles)
            raise bad_value("profiles", self.profiles, rule, where="profiles of the data")
        for name in self.vectors:
            if name not in data.vectors:
                raise bad_value("vectors", name, nearest(name, data.vectors), where="vectors of the data")
        if self.token_vectors is not None and self.token_vectors not in data.token_vectors:
            rule = nearest(self.token_vectors, data.token_vectors)
            raise bad_value("token_vectors", self.token_vectors, rule, where="token vectors of the data")


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The sizes of a ranker's inputs, saved with it so that it can be built again."""

    tasks: tuple[str, ...]
    """Names, in the order of the outputs."""
    users: int
    """Rows of the user table, index 0 (unseen) included."""
    items: int
    """Rows of the item table, index 0 (unseen) included."""
    numeric: tuple[str, ...]
    """Names of the inputs of the dense MLP, in order."""
    context: Mapping[str, int] = field(default_factory=dict)
    """Categorical context column → rows of its table."""
    item_categories: Mapping[str, int] = field(default_factory=dict)
    """Categorical item column → rows of its table."""
    visual: int = 0
    """Width of the visual vector; 0 without."""
    vectors: Mapping[str, int] = field(default_factory=dict)
    """Further dense vectors, of items or users → width, in the order of their fields."""
    tokens: bool = False
    """Whether the tokens of the item are a field."""
    events: tuple[str, ...] = ()
    """Event types whose profiles are fields, in order; () without profiles."""
    vocabulary: int = 0
    """Rows of the shared token table; 0 without tokens and profiles."""
    task_kinds: tuple[TaskKind, ...] = ()
    """Of each task; (): all binary."""
    task_weights: tuple[float, ...] = ()
    """Of each task's loss; (): all 1."""

    def __post_init__(self) -> None:
        for name, default in (("task_kinds", "binary"), ("task_weights", 1.0)):
            given = getattr(self, name) or (default,) * len(self.tasks)
            if len(given) != len(self.tasks):
                raise bad_value(name, given, f"one for each of {len(self.tasks)} tasks")
            object.__setattr__(self, name, given)

    @classmethod
    def of(cls, data: RankingData, features: FeatureSet) -> Schema:
        """The sizes that `features` has in `data`.

        Raises:
            CaptionaryError: see `FeatureSet.check`.
        """
        features.check(data)
        return cls(
            tasks=data.tasks,
            users=data.users,
            items=data.item_ids,
            numeric=data.numeric,
            context=_sizes(data, "context", data.context_categorical),
            item_categories=_sizes(data, "item", data.item_categorical),
            visual=data.visual.shape[1] if features.visual and data.visual is not None else 0,
            vectors={name: data.vectors[name].values.shape[1] for name in features.vectors},
            tokens=features.tokens is not None,
            events=tuple(data.profiles[features.profiles]) if features.profiles is not None else (),
            vocabulary=data.vocabulary(features.key) if features.key is not None else 0,
            task_kinds=data.task_kinds,
            task_weights=data.task_weights,
        )

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the field vectors that interact, in order."""
        return (
            "dense",
            "user",
            "item",
            *(f"context.{name}" for name in self.context),
            *(f"item.{name}" for name in self.item_categories),
            *(("visual",) if self.visual else ()),
            *(f"vector.{name}" for name in self.vectors),
            *(("tokens",) if self.tokens else ()),
            *(f"profile.{event}" for event in self.events),
        )

    @property
    def item_fields(self) -> tuple[str, ...]:
        """Those of them that say what the item is: its id, visual vector, tokens; and dense vectors, whosever."""
        said = ("item", "visual", "tokens", *(f"vector.{name}" for name in self.vectors))
        return tuple(name for name in self.fields if name in said)

    def check_accepts(self, other: Schema) -> None:
        """Refuse data whose columns differ from those trained on, or whose indices exceed the tables.

        Raises:
            CaptionaryError: names the first difference.
        """
        for name in ("tasks", "task_kinds", "numeric", "visual", "tokens", "events"):
            if getattr(self, name) != getattr(other, name):
                raise self._differs(name, getattr(other, name), getattr(self, name))
        if list(self.vectors.items()) != list(other.vectors.items()):
            raise self._differs("vectors", dict(other.vectors), dict(self.vectors))
        for name in ("context", "item_categories"):
            if list(getattr(self, name)) != list(getattr(other, name)):
                raise self._differs(name, list(getattr(other, name)), list(getattr(self, name)))
            for column, rows in getattr(other, name).items():
                if rows > getattr(self, name)[column]:
                    raise self._differs(f"categories of {column}", rows, f"<= {getattr(self, name)[column]}")
        for name in ("users", "items", "vocabulary"):
            if getattr(other, name) > getattr(self, name):
                raise self._differs(name, getattr(other, name), f"<= {getattr(self, name)}")

    @staticmethod
    def _differs(name: str, found: object, expected: object) -> CaptionaryError:
        return bad_value(name, found, str(expected), where="what the ranker was trained on")


def _sizes(data: RankingData, group: str, columns: Mapping[str, Any]) -> dict[str, int]:
    return {name: data.rows_of(f"{group}.{name}", index) for name, index in columns.items()}
