"""The items and users that a report shows: a draw, one of each failure, what captions changed most, full profiles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from captionary.assemble import profile_folder
from captionary.evidence.cards import ItemCard, ProfileCard
from captionary.evidence.extremes import Change
from captionary.pipeline import Stages
from captionary.represent.tables import read_item_tokens, read_profiles
from captionary.represent.tokenizers import load_tokenizer
from captionary.understand.remote import is_remote

__all__ = ["change_cards", "item_cards", "profile_cards"]


def item_cards(stages: Stages) -> list[ItemCard]:
    """A spread of captioned items, and one of each kind of failure."""
    assert stages.captions is not None
    table = pq.read_table(stages.captions.folder / "captions.parquet", columns=["status", "reason"])
    status, reasons = table["status"].to_pylist(), table["reason"].to_pylist()
    told = [row for row, state in enumerate(status) if state == "ok"]
    if not told:
        return []
    evidence = stages.config.evidence
    spread = np.random.default_rng(evidence.seed).permutation(told)[: evidence.cards]
    failures = {reasons[row]: row for row, state in reversed(list(enumerate(status))) if state == "failed"}
    return _cards(stages, [*sorted(spread.tolist()), *sorted(failures.values())])


def change_cards(stages: Stages, changes: Sequence[Change]) -> list[ItemCard]:
    """The items of `changes`, each with what changed."""
    notes = {change.item: change.words for change in changes}
    return _cards(stages, [change.item for change in changes], notes) if changes else []


def _cards(stages: Stages, rows: Iterable[int], notes: Mapping[int, str] | None = None) -> list[ItemCard]:
    """Cards of the items at these rows of the items table."""
    dataset, captions, tokens = stages.dataset, stages.captions, stages.tokens
    assert captions is not None
    assert tokens is not None
    table = pq.read_table(captions.folder / "captions.parquet")
    items = dataset.items()
    folders = {letter: tokens.folder / letter for letter in tokens.facts["letters"]}
    lists = {
        letter: (load_tokenizer(folder), read_item_tokens(folder / "item_tokens.parquet")[1])
        for letter, folder in folders.items()
    }
    cards = []
    for row in rows:
        media = [uri for uri in items["media"][row].as_py() or [] if uri]
        path = dataset.media_path(media[0]) if media and not is_remote(media[0]) else None
        cards.append(
            ItemCard(
                item_id=str(items["item_id"][row]),
                title=items["title"][row].as_py() or "",
                image=path,
                caption_raw=table["caption"][row].as_py() or "",
                caption=table["normalized"][row].as_py() or "",
                tokens={
                    letter: tuple(tok.decode(listed.row(row))) for letter, (tok, listed) in lists.items()
                },
                status=table["status"][row].as_py(),
                reason=table["reason"][row].as_py() or "",
                note=(notes or {}).get(row, ""),
            )
        )
    return cards


def profile_cards(stages: Stages, rows: npt.NDArray[np.int64], shown: int = 4) -> list[ProfileCard]:
    """The profiles of a few users at their last evaluated impression: those with the fullest lists among a draw."""
    tokens, profiles = stages.tokens, stages.profiles
    assert tokens is not None
    assert profiles is not None
    if not profiles.facts["keys"]:
        return []
    key = profiles.facts["keys"][0]
    decode = _decoder(tokens.folder, key, tokens.facts["letters"])
    built = read_profiles(profile_folder(profiles.folder, key))[1]
    chosen = stages.dataset.impressions(["user_id", "timestamp"]).take(rows)
    order = np.argsort(chosen["timestamp"].to_numpy(), kind="stable")
    last = {str(user): row for row, user in zip(order, np.asarray(chosen["user_id"])[order], strict=True)}
    drawn = np.random.default_rng(stages.config.evidence.seed).permutation(list(last.items()))[:200]
    length = {user: sum(p.lists.lengths[rows[int(row)]] for p in built.values()) for user, row in drawn}
    cards = []
    for user in sorted(length, key=lambda name: (-length[name], name))[:shown]:
        row = int(rows[last[user]])
        cards.append(
            ProfileCard(
                user_id=user,
                events={event: _words(decode, p.lists, row) for event, p in built.items()},
                as_of=f"{chosen['timestamp'][last[user]].as_py():%Y-%m-%d %H:%M} UTC",
                mass={event: float(p.mass[row]) for event, p in built.items()},
            )
        )
    return cards


def _decoder(tokens: Path, key: str, letters: Sequence[str]) -> Callable[[Any], list[str]]:
    """Token ids to words: by the tokenizer, or of a rival's lists by what its ids mean."""
    if key in letters:
        return load_tokenizer(tokens / key).decode
    words = json.loads((tokens / key / "words.json").read_text(encoding="utf-8"))
    return lambda ids: [words[one] for one in ids]


def _words(decode: Callable[[Any], list[str]], lists: Any, row: int) -> tuple[tuple[str, float], ...]:
    first, last = lists.offsets[row], lists.offsets[row + 1]
    pairs = zip(decode(lists.values[first:last]), lists.weights[first:last].tolist(), strict=True)
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))
