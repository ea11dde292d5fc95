"""What a ranker is made of and how it is trained; light, so that a run's config can be read without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from captionary.errors import bad_value

__all__ = ["RankerConfig"]

_CHOICES = {
    "interaction": ("dot+fields", "dot", "dcnv2", "concat"),
    "towers": ("shared_bottom", "mmoe", "ple"),
    "token_table": ("plain", "hash"),
    "token_pooling": ("mean", "sum"),
    "profile_pooling": ("mean", "sum", "attention"),
    "profile_fields": ("meet", "all"),
}
_AT_LEAST_ONE = (
    "embedding_dim", "tower", "epochs", "batch_size", "shuffle_window", "hash_components", "hash_functions",
    "cross_layers", "experts", "expert_levels", "id_min_rows", "category_min_rows", "together",
)  # fmt: skip
_NOT_NEGATIVE = (
    "embedding_damping", "embedding_decay", "dense_decay", "sparse_rows", "hash_importance", "cross_rank",
    "task_experts", "id_hash_rows", "category_hash_rows",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """The multi-task ranker of paper §3.2, one config for all arms of a comparison."""

    embedding_dim: int = 16
    """Width of every field vector, >= 1."""
    bottom: tuple[int, ...] = (32,)
    """Hidden widths of the MLP over numeric features, each >= 1; () for a single linear layer."""
    interaction: Literal["dot+fields", "dot", "dcnv2", "concat"] = "dot+fields"
    """What the top MLP reads: dot products of all pairs of fields with the field vectors, or with the dense
    vector alone, as in DLRM; cross layers, as in DCN V2; or the field vectors alone."""
    cross_layers: int = 2
    """dcnv2: cross layers, >= 1."""
    cross_rank: int = 0
    """dcnv2: rank of a cross layer's matrix, >= 0; 0: full rank."""
    top: tuple[int, ...] = (128,)
    """Hidden widths of the top MLP, at least one, each >= 1: all tasks share it, or each expert is one."""
    towers: Literal["shared_bottom", "mmoe", "ple"] = "shared_bottom"
    """How the tasks share: one top MLP, gated experts (MMoE), or shared and own experts in levels (PLE)."""
    experts: int = 4
    """mmoe, ple: experts that all tasks share, >= 1."""
    task_experts: int = 1
    """ple: experts of each task alone, >= 0."""
    expert_levels: int = 1
    """ple: levels of experts, >= 1; 1 is the paper's CGC."""
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
    token_pooling: Literal["mean", "sum"] = "mean"
    """How an item's tokens become one vector: the weighted mean, brought to the length `bag_scale`; or their sum with
    weights of mean 1, scaled alike but not normalised, so that more tokens are louder."""
    profile_pooling: Literal["mean", "sum", "attention"] = "mean"
    """The same for profiles; or `attention`: a mean in which the item at hand weighs the tokens, too, as in DIN."""
    id_min_rows: int = 1
    """Training rows that a user or item needs for a vector of its own, >= 1; the others share that of the unseen."""
    id_hash_rows: int = 0
    """Rows to which users are hashed, and as many for items, >= 0; 0: a row for each that has `id_min_rows`."""
    category_min_rows: int = 1
    """Training rows that a category of a context or item column needs for a vector of its own, >= 1; the others share
    that of the unseen."""
    category_hash_rows: int = 0
    """Rows to which the categories of each context and item column are hashed, >= 0; 0: a row for each that has
    `category_min_rows`."""
    profile_fields: Literal["meet", "all"] = "meet"
    """dot, dot+fields: what profiles give: their dot products with the item's fields (id, visual vector, tokens, other
    vectors), or those with all fields and, for dot+fields, themselves."""
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
    together: int = 8
    """Successive rows of a user in a window that are shuffled as one, >= 1: a batch then has fewer users, and each of
    their profiles once (RecD, Zhao et al. 2023)."""
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
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise bad_value(name, getattr(self, name), ", ".join(known[:-1]) + f" or {known[-1]}")
        if self.hash_append and self.hash_functions >= self.embedding_dim:
            rule = f"< embedding_dim == {self.embedding_dim}, as hash_append makes them part of the vector"
            raise bad_value("hash_functions", self.hash_functions, rule)
        for name in ("id_init", "token_init", "bag_scale", "visual_scale", "embedding_lr", "dense_lr"):
            if not getattr(self, name) > 0:
                raise bad_value(name, getattr(self, name), "> 0")
        for name in _NOT_NEGATIVE:
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
