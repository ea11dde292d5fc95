"""What the columns of a folder of shards are, and which shards can go on from which; light, without Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from captionary.errors import bad_value
from captionary.spec import TaskKind

__all__ = ["ShardSchema", "VectorColumn"]


@dataclass(frozen=True, kw_only=True)
class VectorColumn:
    """A dense vector beside the visual one."""

    width: int
    """Numbers of each, >= 1; zeros stand for none."""
    of: Literal["item", "impression"]
    """Whose it is: an impression's is that of its user as of then, or of whatever else."""
    encoder: str = ""
    """Which model's embeddings it is made of, where known."""
    projection: str = ""
    """Which projection of these: numbers of another mean something else."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise bad_value("width", self.width, ">= 1")


@dataclass(frozen=True, kw_only=True)
class ShardSchema:
    """What the columns of a folder of shards are."""

    tasks: tuple[str, ...]
    """Names, in the order of the ranker's outputs."""
    task_kinds: tuple[TaskKind, ...]
    task_weights: tuple[float, ...]
    context_categorical: tuple[str, ...] = ()
    context_numeric: tuple[str, ...] = ()
    item_categorical: tuple[str, ...] = ()
    item_numeric: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    """Event types that every impression has an activity of."""
    visual: int = 0
    """Width of the items' visual vectors; 0 without."""
    tokens: bool = False
    """Whether items have token lists."""
    token_weights: bool = False
    """Whether the tokens of these lists have weights; False: all of a list weigh the same."""
    profiles: bool = False
    """Whether impressions have a profile list of each event type."""
    vocabulary: int = 0
    """Token ids are below this; 0 without tokens and profiles."""
    tokenizer: str = ""
    """Which tokenizer the ids are of: those of another mean something else. A grown one keeps its name."""
    whitening: str = ""
    """Which projection the visual vectors are of: numbers of another mean something else."""
    encoder: str = ""
    """Which encoder gave the visual vectors; empty where that is not known."""
    vectors: Mapping[str, VectorColumn] = field(default_factory=dict)
    """Dense vectors beside the visual one, in the order of the ranker's fields."""
    token_vectors: str = ""
    """Which vectors the token table may start from; empty without."""

    def __post_init__(self) -> None:
        if self.token_weights and not self.tokens:
            raise bad_value("token_weights", True, "False without tokens")

    def vectors_of(self, whose: Literal["item", "impression"]) -> tuple[str, ...]:
        """Names of the vectors of items, or of impressions."""
        return tuple(name for name, column in self.vectors.items() if column.of == whose)

    @property
    def numeric(self) -> tuple[str, ...]:
        """Names of the numeric features, in order, as of `RankingData.numeric`."""
        return (
            *(f"context.{name}" for name in self.context_numeric),
            *(f"item.{name}" for name in self.item_numeric),
            *(f"activity.{event}" for event in self.events),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of every shard, in order."""
        return (
            *("user_id", "item_id", "timestamp"),
            *(f"context.{name}" for name in (*self.context_categorical, *self.context_numeric)),
            *(f"label.{task}" for task in self.tasks),
            *(f"mass.{event}" for event in self.events),
            *(f"list.{event}" for event in (self.events if self.profiles else ())),
            *(f"vector.{name}" for name in self.vectors_of("impression")),
        )

    @property
    def _open(self) -> set[str]:
        """Fields that say nothing yet: what these shards do not have may be added, as a ranker can adopt it."""
        found = {name for name in ("visual", "tokens", "profiles") if not getattr(self, name)}
        found |= set() if self.visual else {"whitening", "encoder"}
        found |= set() if self.vocabulary else {"tokenizer"}
        found |= set() if self.tokens else {"token_weights"}
        return found | {"vocabulary", "vectors", "token_vectors"}

    def check_continues(
        self,
        before: ShardSchema,
        where: str,
        *,
        those: str = "the shards that the checkpoint was trained on",
        todo: str = "make the shards with the same columns, tokenizer and encoders, or train anew",
    ) -> None:
        """Refuse to continue, on these shards, what was trained on shards of the schema `before`.

        Args:
            before: of the earlier shards.
            where: these shards, for the error.
            those: the earlier shards, for the error.
            todo: what helps, for the error.

        Raises:
            CaptionaryError: names the first difference that a ranker cannot bear; further features and tokens it can.
        """
        for name in self.__dataclass_fields__:
            mine, theirs = getattr(self, name), getattr(before, name)
            if name == "encoder" and not (mine and theirs):  # shards of earlier versions do not say
                continue
            if name not in before._open and mine != theirs:
                raise bad_value(name, mine, f"{theirs!r}, as in {those}", where=where, todo=todo)
        for name, column in before.vectors.items():
            if name not in self.vectors:
                rule = f"with {name} among them, as in {those}"
                raise bad_value("vectors", ", ".join(self.vectors) or "none", rule, where=where, todo=todo)
            for part in column.__dataclass_fields__:
                mine, theirs = getattr(self.vectors[name], part), getattr(column, part)
                if mine != theirs:
                    rule = f"{theirs!r}, as in {those}"
                    raise bad_value(f"{part} of vectors {name}", mine, rule, where=where, todo=todo)
