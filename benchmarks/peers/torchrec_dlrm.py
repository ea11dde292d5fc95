"""TorchRec's DLRM with fused row-wise Adagrad (fbgemm on the CPU) as a contender of benchmarks/training.py.

    torchrec_dlrm.py rows ROWS       the demo world's rows
    torchrec_dlrm.py random SIZES    random rows

Batches lie ready as KeyedJaggedTensors; lists are averaged without weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchrec
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torchrec.models.dlrm import DLRM
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from turns import take_turns

READY = 16  # batches


def model_of(sizes: dict[str, int], lists: list[str], vocabulary: int, said: dict[str, Any]) -> DLRM:
    """Tables of ids, one of tokens that all lists share, MLPs of the widths that our ranker has."""
    mean = torchrec.PoolingType.MEAN
    tables = [
        torchrec.EmbeddingBagConfig(
            name=f"table_{place}",
            embedding_dim=said["width"],
            num_embeddings=rows,
            feature_names=[name],
        )
        for place, (name, rows) in enumerate(sizes.items())
    ]
    tables.append(
        torchrec.EmbeddingBagConfig(
            name="tokens",
            embedding_dim=said["width"],
            num_embeddings=vocabulary,
            feature_names=lists,
            pooling=mean,
        )
    )
    collection = FusedEmbeddingBagCollection(
        tables=tables,
        optimizer_type=RowWiseAdagrad,
        optimizer_kwargs={"lr": said["embedding_lr"], "eps": 1e-8},
        device=torch.device("cpu"),
    )
    return DLRM(
        embedding_bag_collection=collection,
        dense_in_features=said["dense"],
        dense_arch_layer_sizes=[*said["bottom"], said["width"]],
        over_arch_layer_sizes=[*said["top"], said["tower"], 1],
    )


def of_rows(folder: Path) -> tuple[DLRM, list[Any]]:
    """The model and its batches of the demo world's rows."""
    said = json.loads((folder / "rows.json").read_text())
    arrays = np.load(folder / "rows.npz")
    held = {name: arrays[name] for name in arrays.files}
    said["dense"] = held["dense"].shape[1]
    names = [*said["sizes"], *said["lists"]]
    batches = []
    for number in range(READY):
        part = slice(number * said["batch"], (number + 1) * said["batch"])
        values, lengths = [], []
        for name in said["sizes"]:
            values.append(held[f"id:{name}"][part])
            lengths.append(np.ones(said["batch"], np.int64))
        for name in said["lists"]:
            ends = held[f"offsets:{name}"][part.start : part.stop + 1]
            values.append(held[f"values:{name}"][ends[0] : ends[-1]])
            lengths.append(np.diff(ends))
        keyed = torchrec.KeyedJaggedTensor(
            keys=names,
            values=torch.from_numpy(np.concatenate(values).astype(np.int64)),
            lengths=torch.from_numpy(np.concatenate(lengths).astype(np.int64)),
        )
        labels = torch.from_numpy(held["label"][part].astype(np.float32))
        batches.append((torch.from_numpy(held["dense"][part]), keyed, labels))
    return model_of(said["sizes"], said["lists"], said["vocabulary"], said), batches


def of_random(sizes: dict[str, Any]) -> tuple[DLRM, list[Any]]:
    """The model and its batches of random rows."""
    rng = np.random.default_rng(0)
    rows, features = sizes["batch"], [f"f{number}" for number in range(sizes["features"])]
    batches = []
    for _ in range(READY):
        values = rng.integers(0, sizes["rows"], rows * (sizes["features"] + sizes["tokens"]))
        lengths = np.ones(rows * (sizes["features"] + 1), np.int64)
        lengths[rows * sizes["features"] :] = sizes["tokens"]
        keyed = torchrec.KeyedJaggedTensor(
            keys=[*features, "tokens"], values=torch.from_numpy(values), lengths=torch.from_numpy(lengths)
        )
        dense = torch.from_numpy(rng.normal(size=(rows, sizes["dense"])).astype(np.float32))
        batches.append((dense, keyed, (torch.from_numpy(rng.random(rows)) < 0.3).float()))
    said = {
        "width": sizes["width"],
        "dense": sizes["dense"],
        "bottom": [64],
        "top": [128],
        "tower": 32,
        "embedding_lr": 0.05,
    }
    return model_of(dict.fromkeys(features, sizes["rows"]), ["tokens"], sizes["rows"], said), batches


def main() -> None:
    """Make the model and its batches, then wait."""
    torch.set_num_threads(1)
    model, batches = (
        of_random(json.loads(sys.argv[2])) if sys.argv[1] == "random" else of_rows(Path(sys.argv[2]))
    )
    fused = [module for module in model.modules() if isinstance(module, FusedEmbeddingBagCollection)]
    assert fused, "the tables have a fused optimizer"
    tables = {id(parameter) for module in fused for parameter in module.parameters()}
    layers = torch.optim.AdamW(
        [p for p in model.parameters() if id(p) not in tables], lr=2e-3, weight_decay=0.0
    )

    def endless() -> Any:
        while True:
            yield from batches

    def step(given: Any) -> int:
        dense, keyed, labels = given
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(dense, keyed).squeeze(1), labels)
        layers.zero_grad()
        loss.backward()
        layers.step()
        loss.item()
        return len(labels)

    kind = EmbOptimType.EXACT_ROWWISE_ADAGRAD.value
    take_turns(
        step, endless(), {"torchrec": torchrec.__version__, "torch": torch.__version__, "tables": kind}
    )


if __name__ == "__main__":
    main()
