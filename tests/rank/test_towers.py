"""MMoE and PLE against the papers' formulas, an expert and a task at a time."""

import pytest
import torch
from torch.nn import functional as F

from captionary.rank.towers import Experts

BLOCKS = (("a*b", 1), ("a", 3), ("b", 3))
TASKS = ("like", "share", "time")


def experts(seed=0, blocks=BLOCKS, tasks=TASKS, widths=(6, 4), shared=2, own=0, levels=1, random=True):
    module = Experts(
        seed, blocks, tasks, widths, shared=shared, own=own, levels=levels, dropout=0.0
    ).eval()  # fmt: skip
    if random:  # biases and gates start at zero
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for value in module.parameters():
                value.add_(torch.randn(value.shape, generator=generator) * 0.3)
    return module


def by_hand(module, x):
    """[B, T, H], by loops over levels, tasks and experts: Tang et al. 2020, eq. 1 to 6 (MMoE: without own experts)."""
    tasks, own, shared, last = len(module.tasks), module.own, module.shared, module.width
    first = module.first.weight.shape[1] // len(module.names)
    found = []
    for k in range(len(module.names)):
        part = slice(k * first, (k + 1) * first)
        hidden = F.relu(x @ module.first.weight[:, part] + module.first.bias[part])
        for weight, bias in zip(module.deeper, module.deeper_bias, strict=True):
            hidden = F.relu(hidden @ weight[k] + bias[k])
        found.append(hidden)
    inputs, common, levels = [x] * tasks, x, len(module.gate)
    for level in range(levels):
        if level:
            new = []
            for t in range(tasks):
                for k in range(own):
                    part = slice(k * last, (k + 1) * last)
                    weight, bias = module.own_experts[level - 1][t], module.own_bias[level - 1][t]
                    new.append(F.relu(inputs[t] @ weight[:, part] + bias[:, part]))
            for k in range(shared):
                part = slice(k * last, (k + 1) * last)
                weight, bias = module.shared_experts[level - 1], module.shared_bias[level - 1]
                new.append(F.relu(common @ weight[:, part] + bias[part]))
            found = new
        mixed = []
        for t in range(tasks):
            gate = module.gate[level]
            gate = gate[:, t * (own + shared) : (t + 1) * (own + shared)] if level == 0 else gate[t]
            weights = torch.softmax(inputs[t] @ gate, dim=1)
            mine = [*found[t * own : (t + 1) * own], *found[tasks * own :]]
            mixed.append(sum(weights[:, k, None] * one for k, one in enumerate(mine)))
        if level < levels - 1:
            weights = torch.softmax(common @ module.shared_gate[level], dim=1)
            common = sum(weights[:, k, None] * one for k, one in enumerate(found))
        inputs = mixed
    return torch.stack(inputs, dim=1)


@pytest.mark.parametrize(
    "shape",
    [
        {"shared": 3},
        {"shared": 3, "widths": (6,)},
        {"shared": 2, "own": 1, "widths": (6, 5, 4)},
        {"shared": 2, "own": 1},
        {"shared": 2, "own": 2, "levels": 2},
        {"shared": 1, "own": 1, "levels": 3, "widths": (5,)},
        {"shared": 2, "own": 0, "levels": 2},
    ],
)
def test_all_experts_at_once_are_each_by_itself(shape):
    module = experts(**shape)
    x = torch.randn(7, 7, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(module(x), by_hand(module, x))


def test_gates_start_even():
    module = experts(shared=3, own=1, random=False)
    x = torch.randn(4, 7)
    found = module(x)
    assert found.shape == (4, 3, 4)
    one = experts(shared=3, own=1, random=False)
    with torch.no_grad():
        one.gate[0].add_(5.0)  # the same for all experts: no change
    torch.testing.assert_close(one(x), found)


def test_an_arm_with_more_fields_and_tasks_starts_from_the_same_experts():
    few = experts(own=1, levels=2, random=False, tasks=("like", "time"))
    many = experts(own=1, levels=2, random=False, blocks=(("c", 2), *BLOCKS), tasks=("share", "like", "time"))
    assert torch.equal(few.first.block("a")[:, :6], many.first.block("a")[:, 6:12])  # like.0
    for name in ("a*b", "a", "b"):
        assert torch.equal(few.first.block(name)[:, 12:], many.first.block(name)[:, 18:])  # shared
    assert torch.equal(few.own_experts[0], many.own_experts[0][1:])
    assert torch.equal(few.shared_experts[0], many.shared_experts[0])
    assert torch.equal(few.deeper[0], many.deeper[0][1:])
    assert len(few.deeper[0][:, 0, 0].unique()) == 4


def test_every_parameter_learns():
    module = experts(own=2, levels=3)
    module(torch.randn(16, 7)).square().sum().backward()
    for name, value in module.named_parameters():
        assert value.grad is not None, name
        assert value.grad.abs().sum() > 0, name
