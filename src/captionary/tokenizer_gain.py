"""What each tokenizer is worth to the ranker: a run with an arm for each, through the same stages as any run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from string import ascii_uppercase

from captionary.errors import bad_value
from captionary.evidence.result import Evidence
from captionary.pipeline import run
from captionary.represent.compare import Gain
from captionary.represent.tokenizers import TokenizerConfig, make_tokenizer
from captionary.settings import DataConfig, RunConfig

__all__ = ["tokenizer_gains"]


def tokenizer_gains(config: RunConfig, tokenizers: Sequence[TokenizerConfig]) -> dict[str, Gain]:
    """Train and measure the ranker of `config` with the tokens of each tokenizer; name → gain over none.

    The run is called like that of `config` with ``-tokenizers`` after it. It shares the data and the caption store, so
    that nothing is captioned again, and it is resumed and not redone like any other. Placebos are left out: they are a
    matter of the captions, for which `captionary run` has them.

    Raises:
        CaptionaryError: no tokenizers, or more than 26; whatever a run raises.
    """
    if not 1 <= len(tokenizers) <= len(ascii_uppercase):
        raise bad_value("tokenizers", len(tokenizers), f"1 to {len(ascii_uppercase)}")
    letters = dict(zip(ascii_uppercase, tokenizers, strict=False))
    data = config.data if config.data.world is None else DataConfig(path=config.folder / "data" / "world")
    lab = dataclasses.replace(
        config,
        name=f"{config.name}-tokenizers",
        data=data,
        tokenizers=letters,
        evidence=dataclasses.replace(config.evidence, placebos=(), cards=0, deals=0),
    )
    run(lab, last="evidence")
    found = Evidence.from_json((lab.folder / "report" / "evidence.json").read_text(encoding="utf-8"))
    gains = {}
    for letter, chosen in letters.items():
        for arm in found.arms:
            if arm.name.endswith(f"+tokens({letter})"):
                name = make_tokenizer(chosen).name
                bounds = arm.combined_interval or arm.interval
                pair = None if bounds is None else (bounds[0], bounds[1])
                gains[name] = Gain(arm.auc_gain, pair, arm.ne_gain)
    return gains
