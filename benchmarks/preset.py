"""What the preset llama2-1.5b takes: to build it, to make a training step of either stage, to caption.

    python benchmarks/preset.py [--quick] [--device cuda]

bf16, encoder and decoder frozen, two pictures a step, activations computed again; each stage in a process of its own.
`--quick` does the same with the built-in sizes and writes nothing. New weights: the figures do not depend on them.

With `--device cuda`, and with `--quick`, also how fast the captioner `builtin:FOLDER` of these sizes is: pictures of
224 x 299 in, captions of 20 tokens out (the end is ignored), the median of a few calls at each batch size, and the
share of the card's peak FLOP/s that this is:

    share = images/s x FLOP of a caption (captionary.understand.flops says what is counted) / peak

The peak is that of a large bf16 product (n x n by n x n) in the same process, 2 n^3 over the best time of ten. What
limits it: the seconds of a batch by part, each waited for, and the share of peak of each; `squares` is the processor's
work, `decode` all tokens but the first.
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

CAPTIONS = """
import json, statistics, sys, tempfile, time
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from captionary.understand.builtin import BuiltinCaptioner
from captionary.understand.flops import caption_flops
from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.presets import preset
from captionary.understand.train import train_tokenizer

name, device, rounds, side, *sizes = sys.argv[1:]
TOKENS = 20
tokenizer = train_tokenizer(["a dog on a sofa", "a cat under a tree"] * 4, 100)
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
with torch.device(device):
    model = MultimodalLLM(preset(name), tokenizer)
torch.set_default_dtype(torch.float32)
with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder), "")
    del model
    captioner = BuiltinCaptioner(max_new_tokens=TOKENS, device=device, checkpoint=Path(folder))
prompt = captioner._model.prompt_ids
type(captioner._model).end_id = -1  # so that all captions are as long

def waited():
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()

def timed(what, *given, **more):
    began = waited()
    with torch.inference_mode():
        found = what(*given, **more)
    return found, waited() - began

def peak():
    n = int(side)
    left, right = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
    best = min(timed(torch.mm, left, right)[1] for _ in range(10))
    return 2 * n**3 / best

flops = caption_flops(preset(name), TOKENS, len(prompt))
best = peak()
noise = np.random.default_rng(0).integers(0, 255, (int(sizes[-1]), 224, 299, 3), dtype=np.uint8)
pictures = [Image.fromarray(each) for each in noise]
figures = {"tokens": TOKENS, "gflop_a_caption": {part: round(n / 1e9, 2) for part, n in flops._asdict().items()},
           "peak_tflop_s": round(best / 1e12, 3), "matmul": int(side), "batches": {}}
for size in map(int, sizes):
    some = pictures[:size]
    captioner.batch_size = size
    captioner.caption(some)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    rates = []
    for _ in range(int(rounds)):
        said, seconds = timed(captioner.caption, some)
        assert all(caption.output_tokens == TOKENS for caption in said)
        rates.append(size / seconds)
    parts = {}
    _, parts["squares"] = timed(captioner._model.encoder.squares, some)
    grid, parts["encoder"] = timed(captioner._see, some)  # squares, in threads, included
    prefix, parts["qformer"] = timed(captioner._reader, grid)
    _, parts["prefill"] = timed(captioner._decoder.decode, prefix, prompt, -1, 1)
    parts["decode"] = timed(captioner._decoder.decode, prefix, prompt, -1, TOKENS)[1] - parts["prefill"]
    rate = statistics.median(rates)
    figures["batches"][size] = {
        "images_per_second": round(rate, 1),
        "slowest_and_fastest": [round(min(rates), 1), round(max(rates), 1)],
        "share_of_peak": round(rate * flops.total / best, 4),
        "seconds": {part: round(seconds, 4) for part, seconds in parts.items()},
        "share_of_peak_by_part": {
            part: round(size * n / parts[part] / best, 4) for part, n in flops._asdict().items()
        },
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device == "cuda" else None,
    }
print(json.dumps(figures))
"""
BATCHES = {"quick": (2, 4), "full": (1, 16, 64, 256, 512)}


def main() -> None:
    """Measure both stages, and captions, and write benchmarks/results/preset.json or preset-cuda.json."""
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
    if arguments.quick or arguments.device == "cuda":
        rounds, side, sizes = (
            ("1", "512", BATCHES["quick"]) if arguments.quick else ("5", "16384", BATCHES["full"])
        )
        words = [sys.executable, "-c", CAPTIONS, name, arguments.device, rounds, side, *map(str, sizes)]
        out = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
        figures["captions"] = json.loads(out.splitlines()[-1])
        print("captions", json.dumps(figures["captions"], indent=1))
    if not arguments.quick:
        print(write_result("preset" if arguments.device == "cpu" else "preset-cuda", figures))


if __name__ == "__main__":
    main()
