"""FuxiCTR's DLRM as a contender of benchmarks/training.py: in FuxiCTR's own environment.

    fuxictr_dlrm.py loaded ROWS    batches by its NpzDataLoader, in this process
    fuxictr_dlrm.py ready ROWS     batches lie ready as tensors

The package that pip installs has FuxiCTR's layers, its base model, losses and training step, and not its model zoo; the
DLRM here puts those layers together as the zoo's does: bottom MLP, embeddings, inner products, top MLP. Lists are
sequences padded to their longest, at most 64, averaged by its MaskedAveragePooling; they share one table. Its optimizer
is Adam on dense gradients, the one that its DLRM's configs name.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr import __version__
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.layers import FeatureEmbedding, InnerProductInteraction, MLP_Block
from fuxictr.pytorch.models import BaseModel
from turns import take_turns

READY, LONGEST = 16, 64


class DLRM(BaseModel):
    """Of FuxiCTR's layers."""

    def __init__(
        self, feature_map: FeatureMap, width: int, bottom: list[int], top: list[int], **rest: Any
    ) -> None:
        super().__init__(feature_map, model_id="DLRM", **rest)
        self.numbers = [name for name, spec in feature_map.features.items() if spec["type"] == "numeric"]
        self.embedding = FeatureEmbedding(feature_map, width, not_required_feature_columns=self.numbers)
        fields = len(feature_map.features) - len(self.numbers) + 1
        self.bottom = MLP_Block(
            input_dim=len(self.numbers),
            output_dim=width,
            hidden_units=bottom,
            hidden_activations="ReLU",
            output_activation="ReLU",
        )
        self.dots = InnerProductInteraction(num_fields=fields, output="inner_product")
        self.top = MLP_Block(
            input_dim=fields * (fields - 1) // 2 + width,
            output_dim=1,
            hidden_units=top,
            hidden_activations="ReLU",
            output_activation=self.output_activation,
        )
        self.compile("adam", "binary_crossentropy", 1e-3)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """y_pred [B, 1]."""
        given = self.get_inputs(inputs)
        vectors = self.embedding(given)
        dense = self.bottom(torch.stack([given[name].float() for name in self.numbers], dim=1))
        dots = self.dots(torch.cat([vectors, dense.unsqueeze(1)], dim=1))
        return {"y_pred": self.top(torch.cat([dots, dense], dim=1))}


def padded(values: np.ndarray, offsets: np.ndarray, longest: int) -> np.ndarray:
    """Lists [B, longest], ids from 1, zeros behind."""
    lengths = np.minimum(np.diff(offsets), longest)
    out = np.zeros((len(lengths), longest), np.int64)
    place = np.arange(longest)[None]
    kept = place < lengths[:, None]
    out[kept] = values[(offsets[:-1, None] + place)[kept]] + 1
    return out


def main() -> None:
    """Make the model and its batches, then wait."""
    torch.set_num_threads(1)
    kind, folder = sys.argv[1], Path(sys.argv[2])
    said = json.loads((folder / "rows.json").read_text())
    arrays = np.load(folder / "rows.npz")
    held = {name: arrays[name] for name in arrays.files}
    numbers = [f"n{place}" for place in range(held["dense"].shape[1])]
    features: OrderedDict[str, dict[str, Any]] = OrderedDict()
    for name in numbers:
        features[name] = {"type": "numeric", "source": ""}
    for name, rows in said["sizes"].items():
        features[name.replace(".", "_")] = {"type": "categorical", "source": "", "vocab_size": rows}
    longest = {}
    for place, name in enumerate(said["lists"]):
        longest[name] = min(LONGEST, int(np.diff(held[f"offsets:{name}"]).max()))
        spec = {
            "type": "sequence",
            "source": "",
            "vocab_size": said["vocabulary"] + 1,
            "padding_idx": 0,
            "max_len": longest[name],
            "feature_encoder": "layers.MaskedAveragePooling()",
        }
        if place:
            spec["share_embedding"] = said["lists"][0].replace(".", "_")
        features[name.replace(".", "_")] = spec
    known = FeatureMap("demo", str(folder))
    known.features, known.labels = features, ["label"]
    known.num_fields = len(features)
    known.set_column_index()
    columns: dict[str, Any] = {name: held["dense"][:, place] for place, name in enumerate(numbers)}
    columns |= {name.replace(".", "_"): held[f"id:{name}"] for name in said["sizes"]}
    for name in said["lists"]:
        columns[name.replace(".", "_")] = padded(
            held[f"values:{name}"], held[f"offsets:{name}"], longest[name]
        )
    columns["label"] = held["label"].astype(np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        model = DLRM(
            known,
            said["width"],
            said["bottom"],
            [*said["top"], said["tower"]],
            gpu=-1,
            verbose=0,
            model_root=scratch,
            metrics=["AUC"],
        )
    model._max_gradient_norm = 10.0  # as its `fit` sets it
    model.train()

    def endless() -> Any:
        if kind == "ready":
            cuts = [slice(number * said["batch"], (number + 1) * said["batch"]) for number in range(READY)]
            made = [
                {name: torch.from_numpy(all_[cut].copy()) for name, all_ in columns.items()} for cut in cuts
            ]
            yield from itertools.cycle(made)
        with tempfile.TemporaryDirectory() as scratch:
            np.savez(Path(scratch) / "train.npz", **columns)
            path = str(Path(scratch) / "train.npz")
            loader = NpzDataLoader(known, path, batch_size=said["batch"], shuffle=True, num_workers=0)
        while True:
            yield from loader

    def step(batch: dict[str, torch.Tensor]) -> int:
        model.train_step(batch).item()
        return len(batch["label"])

    about = {"fuxictr": __version__, "torch": torch.__version__, "padded_to": longest}
    take_turns(step, endless(), about)


if __name__ == "__main__":
    main()
