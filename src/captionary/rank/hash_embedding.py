"""Hash embeddings (Svenstrup, Hansen and Winther 2017; paper ref. [17]): a token table whose size is chosen freely.

    token t ──bucket──▶ u = t, or hash(t) mod K            K importance rows p_u, k numbers each
              hash_i──▶ h_i = hash_i(u) mod B, i = 1 … k   B component vectors c
    vector of t  =  Σ_i p_u,i · c_h_i,   and with `append` p_u behind it

Two tokens are alike only where all of their k components *and* their importance rows are. B · D' + K · k numbers stand
for V · D, with D' = D, or D - k with `append`: 100,000 tokens of width 16 are 1,600,000 numbers, with B = 4,096 and
k = 2 they are 4,096 · 16 + 100,000 · 2 = 265,536.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captionary.errors import bad_value
from captionary.rank.bags import Lists, pool
from captionary.rank.hashing import hash_rows
from captionary.rank.initial import normal

__all__ = ["HashEmbedding"]


class HashEmbedding(nn.Module):
    """In the place of a table [vocabulary, width]; its parameters are tables, for a table's optimizer.

    Args:
        seed: seed of the initial values.
        vocabulary: V, ids that may occur.
        width: D of what is returned.
        std: standard deviation of the initial vectors of tokens.
        components: B, component vectors.
        functions: k, hash functions.
        importance: K, importance rows; 0: one for each token, so that no two tokens are the same.
        append: whether a token's importance row is the last k of its D numbers.
        sparse_rows: a parameter of more rows than this gets sparse gradients in training.

    Raises:
        CaptionaryError: `append` where the width leaves no room for it.
    """

    bucket: Tensor
    chosen: Tensor

    def __init__(
        self,
        seed: int,
        vocabulary: int,
        width: int,
        *,
        std: float,
        components: int,
        functions: int = 2,
        importance: int = 0,
        append: bool = False,
        sparse_rows: int = 4096,
    ) -> None:
        super().__init__()
        if append and functions >= width:
            raise bad_value(
                "hash_functions", functions, f"< {width}, the width that hash_append puts them in"
            )
        self.append, self.sparse_rows = append, sparse_rows
        rows = importance or vocabulary
        tokens = np.arange(vocabulary, dtype=np.int64)
        bucket = tokens if rows >= vocabulary else hash_rows(tokens, 0, rows)
        chosen = [hash_rows(bucket, number, components) for number in range(1, functions + 1)]
        # Derived from the sizes, so not saved.
        self.register_buffer("bucket", torch.from_numpy(bucket), persistent=False)  # [V]
        self.register_buffer("chosen", torch.from_numpy(np.stack(chosen, 1)), persistent=False)  # [V, k]
        # Of equal size and random sign, so that a sum of tokens that share a component is not bent towards it
        # (as in a count sketch); small where they are read themselves, not to drown the rest.
        size = std if append else functions**-0.5
        signs = torch.sign(normal(seed, "token.importance", (rows, functions), 1.0))
        self.importance = nn.Parameter(signs * size)  # [K, k]
        spread = std / (size * functions**0.5)  # the sum of k components times `size` then spreads by `std`
        inner = width - functions if append else width
        self.components = nn.Parameter(normal(seed, "token", (components, inner), spread))  # [B, D']

    def rows(self, tokens: Tensor) -> Tensor:
        """The vectors of `tokens` [U], as [U, D]."""
        weights = self._look_up(self.importance, self.bucket[tokens])  # [U, k]
        parts = self._look_up(self.components, self.chosen[tokens])  # [U, k, D']
        vectors = (weights.unsqueeze(-1) * parts).sum(1)
        return torch.cat([vectors, weights], dim=1) if self.append else vectors

    def forward(self, lists: Lists) -> Tensor:
        """The weighted sum of each list's vectors, as `pool` of a table that held them: [M, D].

        Only the tokens that occur are put together, once each.
        """
        occurs = torch.bincount(lists.values, minlength=len(self.bucket)) > 0
        used = occurs.nonzero().squeeze(1)
        if not len(used):
            used = used.new_zeros(1)
        place = occurs.cumsum(0) - 1
        return pool(self.rows(used), lists._replace(values=place[lists.values]))

    def _look_up(self, table: nn.Parameter, index: Tensor) -> Tensor:
        return F.embedding(index, table, sparse=self.training and len(table) > self.sparse_rows)
