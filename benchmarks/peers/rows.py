"""Write the demo world's training rows as arrays that every contender reads: rows.py RUN OUT."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captionary.assemble import ranking_data, with_features
from captionary.exporting import finished_stages
from captionary.rank.batches import draw_epoch
from captionary.rank.data import RankingData
from captionary.rank.features import FeatureSet
from captionary.rank.settings import RankerConfig
from captionary.settings import load_run


def data_of(run: Path, **features: Any) -> tuple[RankingData, FeatureSet, RankerConfig]:
    """(the run's data with these features, which they are, its ranker's config)."""
    os.chdir(run.parent.parent)
    stages = finished_stages(load_run(_config(run)))
    chosen = FeatureSet(**features)
    return with_features(stages, ranking_data(stages), chosen), chosen, stages.config.ranker


def _config(run: Path) -> Path:
    for path in (run.parent.parent / f"{run.name}.yaml", Path(__file__).parents[2] / "configs" / "demo.yaml"):
        if path.exists():
            return path
    raise SystemExit(f"no config of {run}")


def main() -> None:
    """Write ids, numbers, one label, and the lists of items and users, in the order that all train in."""
    torch.set_num_threads(1)
    run, out = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    data, _, config = data_of(run, tokens="A", profiles="A")
    out.mkdir(parents=True)
    order = draw_epoch(data.train, 0, 0, config.shuffle_window, 0.0, 0.0).order
    items = data.item[order]
    columns = {"user": data.user[order], "item": data.item_id[items]}
    columns |= {f"context.{name}": index[order] for name, index in data.context_categorical.items()}
    columns |= {f"item.{name}": index[items] for name, index in data.item_categorical.items()}
    sizes = {"user": data.users, "item": data.item_ids}
    sizes |= {name: int(column.max()) + 1 for name, column in columns.items() if name not in sizes}
    dense = data.dense(order)
    dense = (dense - dense.mean(0)) / np.where(dense.std(0) > 0, dense.std(0), 1)
    tokens = data.item_tokens["A"]
    lists = {"tokens": tokens.take(items)}
    lists |= {f"profile.{event}": part.take(order) for event, part in data.profiles["A"].items()}
    arrays = {f"id:{name}": column for name, column in columns.items()}
    for name, part in lists.items():
        arrays |= {f"values:{name}": part.values, f"offsets:{name}": part.offsets}
    np.savez(out / "rows.npz", dense=dense.astype(np.float32), label=data.labels[order, 0], **arrays)
    said = {
        "sizes": sizes,
        "lists": list(lists),
        "vocabulary": data.vocabulary("A"),
        "batch": config.batch_size,
        "width": config.embedding_dim,
        "bottom": config.bottom,
        "top": config.top,
        "tower": config.tower,
        "embedding_lr": config.embedding_lr,
        "dense_lr": config.dense_lr,
        "run": str(run.resolve()),
    }
    (out / "rows.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
