"""One step of a ranker's training: what `train_ranker` and the stream trainer both do, and how it is kept.

Step s of a training with a seed draws its dropout from a stream of its own, named by seed and s. So no state of a
random number generator has to be kept: who knows the weights, the optimizers and s can go on to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from captionary.errors import bad_value
from captionary.rank.fit_settings import OptimizerConfig
from captionary.rank.initial import seed_of
from captionary.rank.losses import LabelSums, base_logits, labels_given, task_loss
from captionary.rank.model import Batch, Ranker
from captionary.rank.optimizers import carry_layers, dense_optimizer, load_layers, table_optimizer
from captionary.rank.settings import RankerConfig

if TYPE_CHECKING:
    from captionary.rank.warm_start import Carrier

__all__ = ["Step", "Watch", "learning_rate_factor", "start_biases"]

_LOWEST = 0.02  # share of the learning rates that is left at the last step
_WATCHED = 20  # steps
_COIN = math.log(2)


class Step:
    """The optimizers of a ranker, and how far they have come.

    Args:
        model: what to train.
        config: learning rates, decay and cooldown.
        seed: of dropout.
        steps: how many there will be, over which the learning rates fall.
        optimizers: which ones.
        before: steps of earlier trainings that this one continues; they are not among `steps`.
        diverged: see `Watch`; None: only a loss that is not finite stops.
    """

    def __init__(
        self,
        model: Ranker,
        config: RankerConfig,
        seed: int,
        steps: int,
        optimizers: OptimizerConfig | None = None,
        *,
        before: int = 0,
        diverged: float | None = None,
    ) -> None:
        chosen = optimizers or OptimizerConfig()
        self.model, self.config, self.seed, self.steps = model, config, seed, steps
        self.before, self.done = before, 0
        self.tables = table_optimizer(
            chosen.table,
            model.embeddings(),
            lr=config.embedding_lr,
            damping=config.embedding_damping,
            decay=chosen.table_decay,
        )
        self.layers = dense_optimizer(
            chosen.dense, model.layers(), lr=config.dense_lr, decay=config.dense_decay
        )
        self.watch = Watch(diverged) if diverged is not None else None

    @property
    def factor(self) -> float:
        """On the learning rates of the next step."""
        return learning_rate_factor(self.done / self.steps, self.config.cooldown)

    def __call__(self, batch: Batch, labels: Tensor) -> float:
        """Learn from a batch; the caller has put the model into training mode.

        Args:
            batch: B impressions.
            labels: [B, T], NaN where missing.

        Returns:
            The loss before the update, see `captionary.rank.losses`.

        Raises:
            CaptionaryError: the loss is not finite, or far over where it began.
        """
        torch.manual_seed(seed_of(self.seed, f"dropout {self.before + self.done}"))
        output = self.model(batch)
        loss = task_loss(output.logits, labels, self.model.schema)
        value = loss.item()
        where = f"step {self.done + 1} of {self.steps}, seed {self.seed}"
        todo = "lower embedding_lr or dense_lr"
        if not math.isfinite(value):
            raise bad_value("training loss", value, "finite", where=where, todo=todo)
        if self.watch is not None and (rule := self.watch.look(value)):
            raise bad_value("training loss", f"{self.watch.recent:.4g}", rule, where=where, todo=todo)
        (loss + self.config.embedding_decay / 2 * output.penalty).backward()
        factor = self.factor
        for group in self.layers.param_groups:
            group["lr"] = self.config.dense_lr * factor
        self.layers.step()
        self.layers.zero_grad()
        self.tables.step(factor, int(labels_given(labels)))
        self.done += 1
        return value

    def state_dict(self) -> dict[str, Tensor]:
        """Everything but the weights, as named tensors: accumulators of tables by the table's name, moments of layers
        by the parameter's, and how far it is."""
        state = {"done": torch.tensor(self.before + self.done)}
        if self.watch is not None:
            state["watch"] = self.watch.state()
        names = _names(self.model)
        for table, total in zip(self.tables.tables, self.tables.sums, strict=False):
            state[f"table.{names[table]}"] = total
        for parameter, values in self.layers.state.items():
            for key, value in values.items():
                state[f"layer.{names[parameter]}.{key}"] = value
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken, in the same training.

        Raises:
            CaptionaryError: a state of another ranker or of other optimizers.
        """
        names = _names(self.model)
        expected = {
            f"table.{names[t]}": s for t, s in zip(self.tables.tables, self.tables.sums, strict=False)
        }
        for name in sorted(expected.keys() | {key for key in state if key.startswith("table.")}):
            here, there = expected.get(name), state.get(name)
            if here is None or there is None or here.shape != there.shape:
                shapes = [None if each is None else tuple(each.shape) for each in (there, here)]
                todo = "continue with the ranker's config and optimizers of the checkpoint"
                raise bad_value(name, shapes[0], f"{shapes[1]}", where="state of the optimizers", todo=todo)
            here.copy_(there)
        moments = {key: value for key, value in state.items() if key.startswith("layer.")}
        load_layers(self.layers, dict(self.model.named_parameters()), moments)
        self.done = int(state["done"]) - self.before
        if self.watch is not None and "watch" in state:
            self.watch.load(state["watch"])

    def adopt(self, state: Mapping[str, Tensor], carrier: Carrier) -> None:
        """Begin with what an earlier training learnt of its gradients; `done` stays 0.

        Rows, layers and blocks that the earlier ranker did not have, or that another optimizer trained, begin anew.

        Args:
            state: of the earlier training's `state_dict`.
            carrier: from its ranker to this one.
        """
        names = _names(self.model)
        for table, total in zip(self.tables.tables, self.tables.sums, strict=False):
            if (kept := state.get(f"table.{names[table]}")) is not None:
                carrier.into(names[table], kept, total)
        carry_layers(self.layers, dict(self.model.named_parameters()), state, carrier)


class Watch:
    """Whether a training is getting worse than it began.

    A loss that is `times` that of the first steps, on the mean over 20 steps, and above ln 2 at that, which a coin
    reaches on any binary task: rare labels make small losses jump, but never there.
    """

    def __init__(self, times: float) -> None:
        self.times = times
        self.first = 0.0
        self.seen = 0
        self.last: list[float] = []

    @property
    def recent(self) -> float:
        """Mean of the last losses."""
        return sum(self.last) / max(1, len(self.last))

    def look(self, loss: float) -> str | None:
        """Note a loss; the rule that it breaks, if it does."""
        self.seen += 1
        if self.seen <= _WATCHED:
            self.first += loss / _WATCHED
            return None
        self.last = [*self.last[1 - _WATCHED :], loss]
        limit = max(self.times * self.first, _COIN)
        if len(self.last) < _WATCHED or self.recent <= limit:
            return None
        return (
            f"<= {limit:.4g}, mean of {_WATCHED} steps, that of the first {_WATCHED} being {self.first:.4g}"
        )

    def state(self) -> Tensor:
        """What `load` takes."""
        return torch.tensor([self.first, self.seen, *self.last], dtype=torch.float64)

    def load(self, state: Tensor) -> None:
        """Go on where `state` was taken."""
        self.first, seen, *self.last = state.tolist()
        self.seen = int(seen)


def start_biases(model: Ranker, sums: LabelSums) -> None:
    """Let the first predictions be the base rates, smoothed for a task of one class."""
    with torch.no_grad():
        model.tower_out_bias.copy_(torch.from_numpy(base_logits(sums, model.schema.task_kinds)))


def learning_rate_factor(done: float, cooldown: float) -> float:
    """What is left of the learning rates when a share `done` of the steps is."""
    if done < 1 - cooldown:
        return 1.0
    return max((1 - done) / cooldown, _LOWEST)


def _names(model: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}
