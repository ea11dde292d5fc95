"""How fast the built-in captioner is, beside the plain `generate` loop of transformers with the same weights.

    python benchmarks/captioning.py [--images 1024] [--rounds 5] [--quick]

Both sides open the same picture files of world scenes and end with captions as text; each in a process of its own, in
turns, with all cores. Ours is the caption stage as `captionary caption` runs it, store included. The plain loop calls
the encoder's convolutions one by one, as their modules are, and `generate` for 16 pictures at a time. Both are
measured with captions as long as the model makes them, a dozen tokens, and with 32 tokens a caption, the end ignored.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from result import write_result

OURS = """
import json, resource, sys, time
from pathlib import Path
import pyarrow as pa
from captionary.understand.caption import caption_items
from captionary.understand.captioner import CaptionerConfig, load_captioner
from captionary.understand.store import CaptionStore
root, store = Path(sys.argv[1]), Path(sys.argv[2])
names = sorted(path.name for path in root.glob("*.png"))
config = CaptionerConfig()
captioner = load_captioner(config)
if sys.argv[3] == "32":
    type(captioner._model).end_id = -1
def run(some, to):
    items = pa.table({"item_id": list(range(len(some))), "media": [[name] for name in some]})
    return caption_items(
        items, root, captioner, CaptionStore(to), batch_size=config.pictures, progress=False
    )
run(names[:128], store / "warm.sqlite")
began = time.monotonic()
report = run(names, store / "store.sqlite")
seconds = time.monotonic() - began
table = report.captions
tokens = sum(n or 0 for n in table["output_tokens"].to_pylist())
said = dict(zip(names, table["caption"].to_pylist()))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "tokens": tokens, "peak_mb": peak, "said": said}))
"""

PLAIN = """
import json, resource, sys, time
from pathlib import Path
import torch
from PIL import Image
from torch.nn.functional import pixel_unshuffle, relu6
from captionary.understand.builtin import CHECKPOINT
from captionary.understand.encoder import to_pixels
from captionary.understand.mmllm import BOS, EOS, PAD, MultimodalLLM
root = Path(sys.argv[1])
ends = {} if sys.argv[3] == "32" else {"eos_token_id": EOS}
names = sorted(path.name for path in root.glob("*.png"))
model = MultimodalLLM.load(CHECKPOINT)
model.decoder.set_attn_implementation("sdpa")
if not ends:
    model.decoder.generation_config.eos_token_id = None
encoder = model.encoder
opening = torch.tensor([model.prompt_ids])
def blocks(x, some):
    for block in some:
        y = x if block.expand is None else relu6(block.expand(x))
        y = block.project(relu6(block.depthwise(y)))
        x = x + y if block.residual else y
    return x
def see(pixels):
    fine = blocks(relu6(encoder.stem(pixels)), encoder.blocks[:11])
    coarse = relu6(encoder.head(blocks(fine, encoder.blocks[11:])))
    return torch.cat([coarse, pixel_unshuffle(fine, 2) / 16], 1).flatten(2).transpose(1, 2)
@torch.inference_mode()
def run(some):
    said, tokens = [], 0
    for start in range(0, len(some), 16):
        images = [Image.open(root / name).convert("RGB") for name in some[start:start + 16]]
        prefix = model.visual_prefix(see(to_pixels(images)))
        words = model.decoder.get_input_embeddings()(opening.expand(len(images), -1))
        ids = model.decoder.generate(
            inputs_embeds=torch.cat([prefix, words], 1), max_new_tokens=32, do_sample=False,
            pad_token_id=PAD, bos_token_id=BOS, **ends,
        )
        tokens += int((ids != PAD).sum()) if ends else ids.numel()
        said += [line.strip() for line in model.tokenizer.decode_batch(ids.tolist())]
    return said, tokens
run(names[:16])
began = time.monotonic()
said, tokens = run(names)
seconds = time.monotonic() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "tokens": tokens, "peak_mb": peak, "said": dict(zip(names, said))}))
"""


def main() -> None:
    """Measure both sides in turns and write benchmarks/results/captioning.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few pictures, once, nothing written")
    args = parser.parse_args()
    images, rounds = (64, 1) if args.quick else (args.images, args.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        _draw(Path(scratch), images)
        figures: dict[str, Any] = {
            "images": images,
            "rounds": rounds,
            **_measure(scratch, images, rounds, "own"),
        }
        figures["32 tokens a caption"] = _measure(scratch, images, rounds, "32")
    print(json.dumps(figures, indent=1))
    if not args.quick:
        print(write_result("captioning", figures))


def _measure(scratch: str, images: int, rounds: int, length: str) -> dict[str, Any]:
    """Both sides in turns; `length`: of the captions, the model's own or 32."""
    runs: dict[str, list[dict[str, Any]]] = {"captionary": [], "transformers generate": []}
    with tempfile.TemporaryDirectory() as stores:
        for number in range(rounds):
            store = Path(stores) / str(number)
            store.mkdir()
            runs["captionary"].append(_run(OURS, scratch, str(store), length))
            runs["transformers generate"].append(_run(PLAIN, scratch, "", length))
    said: list[dict[str, str]] = [run[0].pop("said") for run in runs.values()]
    figures: dict[str, Any] = {
        "same_captions": f"{sum(said[0][name] == said[1][name] for name in said[0])} of {images}"
    }
    for name, measured in runs.items():
        rates = sorted(images / run["seconds"] for run in measured)
        figures[name] = {
            "images_per_second": [round(rate, 1) for rate in rates],
            "median_images_per_second": round(statistics.median(rates), 1),
            "tokens_per_second": round(statistics.median(run["tokens"] / run["seconds"] for run in measured)),
            "seconds_per_1000_items": round(1000 / statistics.median(rates), 1),
            "peak_mb": round(max(run["peak_mb"] for run in measured)),
        }
    ours, plain = (figures[name]["median_images_per_second"] for name in runs)
    figures["times_as_fast"] = round(ours / plain, 2)
    return figures


def _draw(folder: Path, n: int) -> None:
    from captionary.understand.recipe import HELD_OUT_SEED
    from captionary.understand.training_data import scenes

    data = scenes(n, HELD_OUT_SEED, captions=1)
    for row in range(n):
        data.picture(row).save(folder / f"{row:05}.png")


def _run(script: str, *words: str) -> dict[str, Any]:
    out = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(out.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
