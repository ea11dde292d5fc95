"""Experts between the interaction and the tasks' towers: MMoE and PLE, for tasks that pull a shared bottom apart.

    mmoe   Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts"
    ple    Tang et al. 2020, "Progressive Layered Extraction": experts of each task beside shared ones, in levels

Both are one network here: with n experts shared by all tasks and m of each of T tasks' own, MMoE is one level with
m = 0. One matrix product serves all experts of a level, one more all gates.

    x ──┬─▶ shared experts  [n] ──┬──▶ gate of task t over its m + n experts ──▶ tower of t, or level 2
        └─▶ own experts [T × m] ──┘──▶ gate over all T m + n experts ──▶ what the next level's shared experts read
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captionary.rank.initial import normal
from captionary.rank.interaction import BlockLinear

__all__ = ["Experts"]

_SHARED = "(shared)"  # no task can be named so


class Experts(nn.Module):
    """What each task's tower reads, from the interaction's output.

    Parameters start from their own name and the seed: an arm with further fields or tasks starts from the same values
    in all that it shares with another. Gates start at zero, where all experts weigh the same.

    Args:
        seed: seed of the initial values.
        blocks: of the interaction's output.
        tasks: names of the T tasks.
        widths: of the layers of each expert on the first level; on further levels an expert has one layer of the last
            width.
        shared: n, experts that all tasks share, >= 1.
        own: m, experts of each task alone, >= 0.
        levels: of experts, >= 1.
        dropout: share of the first hidden units dropped in training.
    """

    def __init__(
        self,
        seed: int,
        blocks: tuple[tuple[str, int], ...],
        tasks: tuple[str, ...],
        widths: tuple[int, ...],
        *,
        shared: int,
        own: int,
        levels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.tasks, self.shared, self.own, self.dropout = tasks, shared, own, dropout
        self.width = widths[-1]
        self.names = tuple(f"{task}.{k}" for task in tasks for k in range(own))
        self.names += tuple(f"{_SHARED}.{k}" for k in range(shared))
        """Of the experts of a level, in order: those of each task, then the shared ones."""
        count, last = len(self.names), widths[-1]
        self.first = _read(seed, 0, blocks, self.names, widths[0])
        self.deeper = nn.ParameterList()
        self.deeper_bias = nn.ParameterList()
        for depth, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            std = (2 / inputs) ** 0.5
            parts = [normal(seed, f"expert.0.{name}.{depth}", (inputs, outputs), std) for name in self.names]
            self.deeper.append(nn.Parameter(torch.stack(parts)))  # [experts, in, out]
            self.deeper_bias.append(nn.Parameter(torch.zeros(count, 1, outputs)))
        gates = len(tasks) * (own + shared)
        inputs = sum(width for _, width in blocks)
        self.gate = nn.ParameterList([nn.Parameter(torch.zeros(inputs, gates))])
        self.shared_gate = nn.ParameterList()
        if levels > 1:
            self.shared_gate.append(nn.Parameter(torch.zeros(inputs, count)))
        self.own_experts, self.shared_experts = nn.ParameterList(), nn.ParameterList()
        self.own_bias, self.shared_bias = nn.ParameterList(), nn.ParameterList()
        std = (2 / last) ** 0.5
        for level in range(1, levels):
            parts = [normal(seed, f"expert.{level}.{name}", (last, last), std) for name in self.names]
            mine = [torch.cat(parts[k * own : (k + 1) * own], 1) for k in range(len(tasks))] if own else []
            if own:
                self.own_experts.append(nn.Parameter(torch.stack(mine)))  # [T, last, m last]
                self.own_bias.append(nn.Parameter(torch.zeros(len(tasks), 1, own * last)))
            self.shared_experts.append(
                nn.Parameter(torch.cat(parts[len(tasks) * own :], 1))
            )  # [last, n last]
            self.shared_bias.append(nn.Parameter(torch.zeros(shared * last)))
            self.gate.append(nn.Parameter(torch.zeros(len(tasks), last, own + shared)))
            if level < levels - 1:
                self.shared_gate.append(nn.Parameter(torch.zeros(last, count)))

    def forward(self, crossed: Tensor) -> Tensor:
        """[B, width of the blocks] → [B, T, last of widths]."""
        rows, tasks = len(crossed), len(self.tasks)
        hidden = F.dropout(F.relu(self.first(crossed)), self.dropout, self.training)
        found = hidden.view(rows, len(self.names), -1)  # [B, experts, H]
        if len(self.deeper):
            stacked = found.transpose(0, 1)
            for weight, bias in zip(self.deeper, self.deeper_bias, strict=True):
                stacked = F.relu(torch.baddbmm(bias, stacked, weight))
            found = stacked.transpose(0, 1)
        mixed = self._mix(found, (crossed @ self.gate[0]).view(rows, tasks, -1))
        common = self._mix_all(found, crossed @ self.shared_gate[0]) if len(self.shared_gate) else None
        for level in range(len(self.shared_experts)):
            assert common is not None
            shared = F.relu(torch.addmm(self.shared_bias[level], common, self.shared_experts[level]))
            parts = [shared.view(rows, self.shared, self.width)]
            by_task = mixed.transpose(0, 1)  # [T, B, H]
            if self.own:
                own = F.relu(torch.baddbmm(self.own_bias[level], by_task, self.own_experts[level]))
                parts.insert(0, own.transpose(0, 1).reshape(rows, tasks * self.own, self.width))
            found = torch.cat(parts, dim=1)
            mixed = self._mix(found, torch.bmm(by_task, self.gate[level + 1]).transpose(0, 1))
            if level + 1 < len(self.shared_gate):
                common = self._mix_all(found, common @ self.shared_gate[level + 1])
        return mixed

    def _mix(self, found: Tensor, gates: Tensor) -> Tensor:
        """Each task's mean over its own and the shared experts, weighted by `gates` [B, T, m + n]: [B, T, H]."""
        rows, tasks = len(found), len(self.tasks)
        weights = gates.softmax(-1)
        mixed = torch.bmm(weights[:, :, self.own :], found[:, tasks * self.own :])
        if self.own:
            own = found[:, : tasks * self.own].reshape(rows, tasks, self.own, -1)
            mixed = mixed + (weights[:, :, : self.own, None] * own).sum(2)
        return mixed

    def _mix_all(self, found: Tensor, gates: Tensor) -> Tensor:
        """The mean over all experts, weighted by `gates` [B, experts]: [B, H]."""
        return torch.bmm(gates.softmax(-1)[:, None], found)[:, 0]


def _read(
    seed: int, level: int, blocks: tuple[tuple[str, int], ...], names: tuple[str, ...], width: int
) -> BlockLinear:
    """The first layers of all experts side by side, each seeded as a `BlockLinear` of its own."""
    parts = [BlockLinear(seed, f"expert.{level}.{name}", blocks, width) for name in names]
    whole = parts[0]
    whole.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts], dim=1))
    whole.bias = nn.Parameter(torch.zeros(len(names) * width))
    return whole
