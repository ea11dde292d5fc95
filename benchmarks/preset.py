"""What the preset llama2-1.5b takes: to build it, to make a training step of either stage, to caption.

    python benchmarks/preset.py [--quick] [--device cuda]

bf16, encoder and decoder frozen, two pictures a step, activations computed again; each stage in a process of its own.
`--quick` does the same with the built-in sizes and writes nothing. New weights: the figures do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from result import write_result

PROBE = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.presets import preset
from captionary.understand.pretrain_recipe import PretrainConfig, PretrainData
from captionary.understand.pretrain_step import Objective, freeze
from captionary.understand.representation import RepresentationModel
from captionary.understand.train import train_tokenizer

name, stage, device = sys.argv[1:]
words = ["a dog on a sofa", "a cat under a tree"]
tokenizer = train_tokenizer(words * 4, 100)
figures = {}

def told(what, began):
    if device == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures[what] = {"seconds": round(time.monotonic() - began, 1), "peak_gib": round(peak / 2**30, 2)}

torch.manual_seed(0)
began = time.monotonic()
torch.set_default_dtype(torch.bfloat16)
with torch.device(device):
    model = {"representation": RepresentationModel, "generative": MultimodalLLM}[stage](preset(name), tokenizer)
torch.set_default_dtype(torch.float32)
told("build", began)
frozen = {"encoder", "decoder"}
for part, module in model.named_children():
    if part not in frozen:
        module.float()
for part in model.parameters(recurse=False):
    part.data = part.data.float()
frozen_decoder = stage == "generative"
config = PretrainConfig(
    stage=stage, out=Path("."), data=PretrainData(scenes=1), freeze_decoder=frozen_decoder,
    start=Path(".") if frozen_decoder else None, gradient_checkpointing=True,
)
freeze(model, config)
figures["parameters"] = {
    "encoder": sum(p.numel() for p in model.encoder.parameters()),
    "decoder": sum(p.numel() for p in getattr(model, "decoder", torch.nn.Module()).parameters()),
    "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
    "all": sum(p.numel() for p in model.parameters()),
}
objective = Objective(model, cached=False).train()
model.encoder.eval()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
noise = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3), dtype=np.uint8)
pictures = [Image.fromarray(each) for each in noise]
captions = [[tokenizer.encode(line).ids] for line in words]
for step in ("first step", "second step"):  # the first one makes AdamW's moments
    began = time.monotonic()
    with torch.autocast(device, torch.bfloat16):
        loss = sum(objective(model.encoder.to_pixels(pictures).to(device), captions, 0.0).values())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    told(step, began)
assert bool(torch.isfinite(loss.detach()))
if stage == "generative":
    model.eval().to(torch.bfloat16)
    began = time.monotonic()
    assert len(model.describe(pictures[:1], 8)) == 1
    told("a caption of 8 tokens", began)
print(json.dumps(figures))
"""


def main() -> None:
    """Measure both stages and write benchmarks/results/preset.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    name = "builtin" if arguments.quick else "llama2-1.5b"
    figures: dict[str, Any] = {"preset": name, "device": arguments.device, "pictures": 2}
    for stage in ("representation", "generative"):
        words = [sys.executable, "-c", PROBE, name, stage, arguments.device]
        out = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
        figures[stage] = json.loads(out.splitlines()[-1])
        print(stage, figures[stage])
    if not arguments.quick:
        print(write_result("preset" if arguments.device == "cpu" else "preset-cuda", figures))


if __name__ == "__main__":
    main()
