"""How well the built-in sound tagger tells 50 sounds apart, on clips that it has not heard.

    python benchmarks/sounds.py ../shared/data/sounds

Five-fold cross-validation with three ways to hold out: clips (several are cut from one recording), whole recordings,
and sessions (recordings with neighbouring numbers). --quick: no changed copies, one repetition.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from result import write_result

from captionary.understand.signals.sound_tagger import SoundTagger
from captionary.understand.signals.sound_training import evaluate, read_clips


def main() -> None:
    """Measure and write benchmarks/results/sounds.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="labels.csv and audio/, files named as in ESC-50")
    parser.add_argument("--quick", action="store_true", help="try the script out; writes no result")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    clips = read_clips(args.folder, copies=1 if args.quick else 5)
    seconds = time.monotonic() - began
    figures: dict[str, object] = {
        "clips": len(clips.label),
        "classes": len(clips.labels),
        "recordings": len(np.unique(clips.recording)),
        "features_seconds": round(seconds, 1),
    }
    for hold_out in ("clip", "recording", "session"):
        measured = evaluate(clips, hold_out, repeats=1 if args.quick else 3)
        figures[f"{hold_out}s held out"] = {k: round(v, 4) for k, v in measured._asdict().items()}
        print(hold_out, measured)
    if not args.quick:
        tagger, second = SoundTagger(), np.random.default_rng(0).normal(size=5 * 16_000).astype(np.float32)
        began = time.monotonic()
        for _ in range(20):
            tagger.probabilities(second)
        figures["seconds_of_sound_a_second"] = round(20 * 5 / (time.monotonic() - began))
        print(write_result("sounds", figures))


if __name__ == "__main__":
    main()
