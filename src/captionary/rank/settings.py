"""What a ranker is made of and how it is trained; light, so that a run's config can be read without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from captionary.errors import bad_value

__all__ = ["RankerConfig"]

_AT_LEAST_ONE = (
    "embedding_dim", "tower", "epochs", "batch_size", "shuffle_window", "hash_components", "hash_functions",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """The multi-task ranker of paper §3.2, one config for all arms of a comparison."""

    embedding_dim: int = 16
    """Width of every field vector, >= 1."""
    bottom: tuple[int, ...] = (32,)
    """Hidden widths of the MLP over numeric features, each >= 1; () for a single linear layer."""
    interaction: Literal["dot+fields", "dot"] = "dot+fields"
    """What the top MLP reads: dot products of all pairs of fields with the field vectors, or with the dense
    vector alone, as in DLRM."""
    top: tuple[int, ...] = (128,)
    """Hidden widths of the top MLP that all tasks share, at least one, each >= 1."""
    tower: int = 16
    """Hidden width of each task's tower, >= 1."""
    biases: bool = True
    """Whether each id and category has a bias per task beside its vector, added to the logits."""
    id_init: float = 0.05
    """Standard deviation of the initial id and category vectors, > 0."""
    token_init: float = 0.1
    """Standard deviation of the initial token vectors, > 0."""
    token_table: Literal["plain", "hash"] = "plain"
    """`plain`: a row for each token; `hash`: hash embeddings, see `captionary.rank.hash_embedding`."""
    hash_components: int = 1024
    """hash: component vectors that all tokens share, >= 1."""
    hash_functions: int = 2
    """hash: hash functions, and so components of a token, >= 1; with `hash_append` below `embedding_dim`."""
    hash_importance: int = 0
    """hash: rows of importance weights, >= 0; 0: one for each token."""
    hash_append: bool = False
    """hash: whether a token's importance weights are also part of its vector."""
    bag_scale: float = 1.0
    """Length of a pooled, normalised token bag, > 0: a long list is not louder than a short one."""
    visual_scale: float = 1.0
    """Initial length of the projected, normalised visual vector, > 0."""
    embedding_lr: float = 0.05
    """Adagrad's learning rate for tables, > 0."""
    embedding_damping: float = 0.0
    """Initial Adagrad accumulator, >= 0, in squared gradients of one row's loss: damps first steps."""
    embedding_decay: float = 0.0
    """L2 penalty on the user and item vectors of each row, >= 0."""
    dense_lr: float = 2e-3
    """AdamW's learning rate for all layers, > 0."""
    dense_decay: float = 0.0
    """AdamW's weight decay, >= 0."""
    cooldown: float = 0.5
    """Share of the steps, at the end, over which the learning rates fall linearly, 0 to 1."""
    epochs: int = 2
    """Passes over the training rows, >= 1."""
    batch_size: int = 1024
    """Rows a step, >= 1."""
    shuffle_window: int = 65_536
    """Rows in time order that are shuffled among themselves, >= 1; 1 keeps the order of time."""
    unseen_share: float = 0.015
    """Share of ids shown as unseen (index 0) in training, 0 <= share < 1: trains the fallback of cold ids."""
    unseen_items: float | None = None
    """The same for items alone, 0 to 1; None: as `unseen_share`. High where the items to rank are new: then content has
    to carry what ids would (DropoutNet, Volkovs et al. 2017)."""
    token_dropout: float = 0.0
    """Share of the tokens of each list dropped in training, 0 <= share < 1: keeps lists from being learnt as ids where
    items are few."""
    dropout: float = 0.0
    """Share of the top MLP's first hidden units dropped in training, 0 <= share < 1."""
    sparse_rows: int = 4096
    """Id tables with more rows than this get sparse gradients, >= 0; faster beyond, same updates."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise bad_value(field.name, value, "finite")
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), ">= 1")
        for name in ("bottom", "top"):
            if any(width < 1 for width in getattr(self, name)):
                raise bad_value(name, getattr(self, name), "widths >= 1")
        if not self.top:
            raise bad_value("top", self.top, "at least one width")
        if self.interaction not in ("dot+fields", "dot"):
            raise bad_value("interaction", self.interaction, "dot+fields or dot")
        if self.token_table not in ("plain", "hash"):
            raise bad_value("token_table", self.token_table, "plain or hash")
        if self.hash_append and self.hash_functions >= self.embedding_dim:
            rule = f"< embedding_dim == {self.embedding_dim}, as hash_append makes them part of the vector"
            raise bad_value("hash_functions", self.hash_functions, rule)
        for name in ("id_init", "token_init", "bag_scale", "visual_scale", "embedding_lr", "dense_lr"):
            if not getattr(self, name) > 0:
                raise bad_value(name, getattr(self, name), "> 0")
        for name in ("embedding_damping", "embedding_decay", "dense_decay", "sparse_rows", "hash_importance"):
            if not getattr(self, name) >= 0:
                raise bad_value(name, getattr(self, name), ">= 0")
        if not 0 <= self.cooldown <= 1:
            raise bad_value("cooldown", self.cooldown, "a share from 0 to 1")
        if self.unseen_items is not None and not 0 <= self.unseen_items <= 1:
            raise bad_value("unseen_items", self.unseen_items, "a share from 0 to 1")
        for name in ("unseen_share", "token_dropout", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), "a share from 0 to below 1")

    @property
    def unseen_items_share(self) -> float:
        """Share of item ids shown as unseen in training."""
        return self.unseen_share if self.unseen_items is None else self.unseen_items
