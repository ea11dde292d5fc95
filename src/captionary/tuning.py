"""Search a small space of a ranker's settings with Optuna, on the end of the training rows, never on those of eval.

    training rows, in time    [ learnt from .......................... | validated on ]       --tail, default 0.1

A trial trains once over the first part and tells the loss on the last at each quarter of its steps; the median pruner
(Golovin et al. 2017) stops what is worse than the median then, the tree-structured Parzen estimator (Bergstra et al.
2011) proposes the next. The study is a file: a search that was killed goes on, and what ran then is run again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from captionary.config import to_mapping
from captionary.errors import CaptionaryError, bad_value
from captionary.publish import atomic_file
from captionary.rank.fit_settings import FitConfig
from captionary.rank.shards import Shards
from captionary.stages import fingerprint, locked

__all__ = ["SPACE", "Choice", "Range", "Tuned", "to_yaml", "tune"]

_QUARTERS = 4


class Range(NamedTuple):
    """A number from `low` to `high`."""

    low: float
    high: float
    log: bool = False
    """Whether factors count, not differences."""


class Choice(NamedTuple):
    """One of some values."""

    values: tuple[Any, ...]


SPACE: Mapping[str, Range | Choice] = {
    "embedding_dim": Choice((8, 16, 32, 64)),
    "embedding_lr": Range(0.005, 0.2, log=True),
    "dense_lr": Range(3e-4, 1e-2, log=True),
    "bottom": Choice(((16,), (32,), (64,))),
    "top": Choice(((64,), (128,), (256,), (256, 128))),
    "dropout": Range(0.0, 0.4),
    "token_dropout": Range(0.0, 0.4),
    "unseen_share": Range(0.0, 0.1),
}
"""Settings of `RankerConfig` that are searched."""


class Tuned(NamedTuple):
    """The best of a search."""

    config: FitConfig
    loss: float
    """On the tail of the training rows."""
    trials: int
    """Finished, the pruned ones included."""
    pruned: int
    first: float
    """The loss of the config that the search began with; nan where it diverged."""


def tune(
    shards: Shards,
    out: Path,
    base: FitConfig,
    *,
    trials: int = 30,
    tail: float = 0.1,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Search until `trials` have finished, those of earlier calls included; the study is kept in `out`.

    Args:
        shards: whose training rows are learnt from and validated on.
        out: gets study.log, an Optuna journal, and best.yaml.
        base: what is not searched; also the first trial.
        trials: >= 1.
        tail: share of the training rows, the latest, that is validated on, above 0, at most 0.5.
        seed: of training and of the search.
        say: is given a line for each trial.

    Raises:
        CaptionaryError: Optuna is not installed, another search is in `out`, or no trial could be trained.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        todo = "pip install 'captionary[tune]'"
        raise bad_value("optuna", "(not installed)", "installed", todo=todo) from None
    if trials < 1:
        raise bad_value("trials", trials, ">= 1")
    if not 0 < tail <= 0.5:
        raise bad_value("tail", tail, "above 0, at most 0.5")
    cut = int(shards.rows("train") * (1 - tail))
    if not 0 < cut < shards.rows("train"):
        raise bad_value("training rows", shards.rows("train"), "enough to keep some to validate on")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    identity = fingerprint(
        shards=shards.fingerprint, base=to_mapping(base), tail=tail, seed=seed, space=SPACE
    )
    with locked(out):
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(out / "study.log")))
        study = optuna.create_study(
            storage=storage,
            study_name="ranker",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        )
        known = study.user_attrs.get("identity")
        if known not in (None, identity):
            rule = f"{known}, as of the search there"
            todo = "choose another --out, or give the shards, config, tail and seed that it was begun with"
            raise bad_value("search", identity, rule, where=str(out), todo=todo)
        states = optuna.trial.TrialState
        if known is None:
            study.set_user_attr("identity", identity)
            study.enqueue_trial(_named(base))
        for killed in study.get_trials(states=(states.RUNNING,)):  # with the search that ran it
            study.tell(killed.number, state=states.FAIL)
            study.enqueue_trial(killed.params)
        ended = (states.COMPLETE, states.PRUNED)
        while (done := len(study.get_trials(states=ended))) < trials:
            study.sampler = optuna.samplers.TPESampler(seed=seed + done)
            trial = study.ask()
            loss = _try(trial, shards, base, cut, seed)
            study.tell(trial, loss, state=states.PRUNED if loss is None else states.COMPLETE)
            shown = "stopped early" if loss is None else f"loss {loss:.5f}"
            say(f"trial {done + 1} of {trials}: {shown}  {_words(trial.params)}")
        whole = study.get_trials(states=(states.COMPLETE,))
        if not whole:
            raise bad_value(
                "trials that could be trained", 0, ">= 1", where=str(out), todo="lower the rates of base"
            )
        config = _config(base, study.best_trial.params)
        with atomic_file(out / "best.yaml") as file:
            file.write(to_yaml(config).encode())
        began = study.get_trials()[0]
        first = (
            float(began.value) if began.state == states.COMPLETE and began.value is not None else float("nan")
        )
        return Tuned(config, study.best_value, done, done - len(whole), first)


def to_yaml(config: FitConfig) -> str:
    """What of a config is not the default, as `captionary fit --config` reads it."""
    import yaml

    said, default = to_mapping(config), to_mapping(FitConfig())
    changed = {
        group: {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != default[group][name]
        }
        for group, values in said.items()
    }
    return yaml.safe_dump(
        {group: values for group, values in changed.items() if values} or {"ranker": {}}, sort_keys=False
    )


def _try(trial: Any, shards: Shards, base: FitConfig, cut: int, seed: int) -> float | None:
    """The loss on the tail of a ranker of a trial's settings; None: it was stopped early, or diverged."""
    from captionary.rank.fit import Trainer

    drawn = {}
    for name, space in SPACE.items():
        if isinstance(space, Choice):
            drawn[name] = trial.suggest_categorical(
                name, [_word(value) for value in _choices(name, space, base)]
            )
        else:
            low, high = _range(name, space, base)
            drawn[name] = trial.suggest_float(name, low, high, log=space.log)
    try:
        trainer = Trainer(shards, _config(base, drawn), seed, rows=(0, cut))
        for quarter in range(1, _QUARTERS + 1):
            for _ in trainer.train(trainer.step.steps * quarter // _QUARTERS):
                pass
            loss = trainer.loss("train", cut)
            trial.report(loss, quarter)
            if quarter < _QUARTERS and trial.should_prune():
                return None
    except CaptionaryError as error:
        if "training loss" not in str(error):
            raise
        return None
    return loss


def _choices(name: str, space: Choice, base: FitConfig) -> list[Any]:
    """The values, that of `base` among them."""
    mine = getattr(base.ranker, name)
    return [*space.values, *([mine] if mine not in space.values else [])]


def _range(name: str, space: Range, base: FitConfig) -> tuple[float, float]:
    """The range, widened to hold the value of `base`."""
    mine = getattr(base.ranker, name)
    return (min(space.low, mine) if mine > 0 or not space.log else space.low), max(space.high, mine)


def _named(base: FitConfig) -> dict[str, Any]:
    return {
        name: _word(value) if isinstance(space, Choice) else value
        for name, space in SPACE.items()
        for value in [getattr(base.ranker, name)]
    }


def _word(value: Any) -> Any:
    """A choice as the study's file can keep it: tuples cannot be."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _config(base: FitConfig, drawn: Mapping[str, Any]) -> FitConfig:
    values: dict[str, Any] = {
        name: tuple(map(int, value.split())) if isinstance(value, str) else value
        for name, value in drawn.items()
    }
    return dataclasses.replace(base, ranker=dataclasses.replace(base.ranker, **values))


def _words(params: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in params.items()
    )
