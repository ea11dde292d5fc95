"""A service on a tiny exported ranker, a store with a few users and items, and a picture to upload."""

from __future__ import annotations

import functools
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.rank.served_rankers import ITEMS, TOKENS, artefact, raw_data, shaken

from captionary.online.items import ItemRecord
from captionary.online.log import EventMessage
from captionary.online.log_sqlite import SqliteLog
from captionary.online.service.arms import Trials, load_trials
from captionary.online.service.keys import KeyFile, KeyRing, new_key
from captionary.online.service.rankers import Loaded, Rankers
from captionary.online.service.services import Services
from captionary.online.service.settings import LimitsConfig, ServeConfig, UploadConfig
from captionary.online.service.words import Words
from captionary.online.spool import Spool
from captionary.online.store import OnlineStore, open_store
from captionary.online.updates import ItemUpdate, apply_events, put_items
from captionary.rank.artefact import Artefact
from captionary.rank.features import FeatureSet
from captionary.represent.profiles import ProfileConfig

PROFILES = ProfileConfig(event_types=("like", "share"), half_life_days=3.0, top_k=6)
WORDS = [
    "[UNK]",
    "dog",
    "sofa",
    "red sofa",
    "<script>alert(1)</script>",
    "guitar",
    *map(str, range(6, TOKENS)),
]
IDF = np.linspace(1, 2, TOKENS).astype(np.float32)
HOUR = 3_600_000_000
RAW = raw_data()
SCOPES = ("rank", "events", "items", "read", "erase", "admin")
EXPERIMENTS = """
salt: s
layers:
  - name: rankers
    experiments:
      - name: captions
        arms: [{name: control, share: 0.5}, {name: treatment, share: 0.5}]
        forced: {u1: treatment, u2: control}
"""


@functools.cache
def artefacts() -> dict[str, Artefact]:
    """`captions` reads all features, `ids` nothing but ids and context."""
    ids = FeatureSet()
    return {
        "captions": artefact(RAW, shaken(RAW))._replace(version="captions-v1"),
        "ids": artefact(RAW, shaken(RAW, ids), ids)._replace(version="ids-v1"),
    }


def loaded(*names: str) -> Rankers:
    return Rankers({name: Loaded(name, artefacts()[name]) for name in names}, names[0])


def fill(store: OnlineStore, rankers: Rankers) -> None:
    """Items 1000 to 1024 with rows, and what u1 and u2 liked and shared in the last hours."""
    tokens = RAW.data.item_tokens["A"]
    updates = []
    for place in range(ITEMS - 5):
        record = ItemRecord(
            item_id=1000 + place,
            status="ok",
            tokens=tokens.row(place).astype("<i4").tobytes(),
            caption="a <script>alert(1)</script> dog",
        )
        rows = {one.version: one.ranker.rows([1000 + place])[0] for one in rankers.loaded.values()}
        updates.append(ItemUpdate(record, rows))
    put_items(store, updates)
    now = time.time_ns() // 1000
    events = [
        EventMessage(user_id=user, item_id=1001 + k, event=event, timestamp=now - (k + 1) * HOUR)
        for user in ("u1", "u2")
        for k, event in enumerate(["like", "like", "share", "like", "share"])
    ]
    apply_events(store, events)


def services(
    folder: Path,
    *,
    limits: LimitsConfig | None = None,
    uploads: UploadConfig | None = None,
    experiments: str | None = None,
    open_to_all: bool = False,
    url: str | None = None,
    names: tuple[str, ...] = ("captions", "ids"),
    **more: Any,
) -> Services:
    """What `Services.open` opens, with a filled LMDB store."""
    paths: dict[str, Any] = {}
    if experiments is not None:
        (folder / "experiments.yaml").write_text(experiments)
        paths = {
            "experiments": folder / "experiments.yaml",
            "arms": {"captions": {"control": "ids", "treatment": "captions"}},
        }
    config = ServeConfig(
        rankers=dict.fromkeys(names, folder),
        default=names[0],
        tokenizer=folder,
        profiles=PROFILES,
        exposures=folder / "exposures",
        decisions=folder / "decisions.jsonl",
        requests=None,
        keys=None if open_to_all else folder / "keys.json",
        secret=folder / "secret",
        limits=limits or LimitsConfig(),
        uploads=uploads or UploadConfig(),
        **paths,
    )
    rankers = loaded(*names)
    store = open_store(url or str(folder / "store"), PROFILES, IDF)
    fill(store, rankers)
    trials = load_trials(config) if experiments is not None else Trials(config.default)
    return Services(
        config,
        rankers=rankers,
        store=store,
        log=SqliteLog(str(folder / "log.sqlite"), most_waiting=config.limits.backlog),
        spool=Spool(folder / "spool"),
        words=Words(WORDS, IDF, "tiny"),
        trials=trials,
        keys=None if open_to_all else KeyRing(folder / "keys.json"),
        **more,
    )


def make_key(folder: Path, *scopes: str, name: str = "test", **more: Any) -> dict[str, str]:
    """A key of the service in `folder`; the header that shows it."""
    key, secret = new_key(name, scopes or ("admin",), **({"per_second": None} | more))
    file = folder / "keys.json"
    KeyFile(keys=(*KeyFile.read(file).keys, key)).write(file)
    return {"Authorization": f"Bearer {secret}"}


def picture(colour: str = "red", image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, image_format)
    return buffer.getvalue()
