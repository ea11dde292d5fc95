"""How fast captions become token ids, with every tokenizer, beside the plain call of the library that it is made of.

    python benchmarks/tokenizer_speed.py [--captions FILE.csv] [--quick]

By default captions of the simulated world's grammar; with --captions those of a CSV with a column `caption`. All in one
process on one thread. Of each tokenizer: `cold`, just loaded, on captions it has never seen, and `warm`, again; the
plain call is `encode_batch_fast` of Hugging Face `tokenizers`, of sentencepiece for unigram as well.
"""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # before the library starts its threads

import argparse
import csv
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from result import read_result, write_result

from captionary.represent.compare import compare_tokenizers
from captionary.represent.normalize import normalize
from captionary.represent.tokenizers import TokenizerConfig, load_tokenizer, make_tokenizer
from captionary.world.grammar import reference_captions
from captionary.world.scenes import draw_scenes

KINDS = ("concepts", "phrases", "wordpiece", "bpe", "unigram", "hash")
PAGE = Path(__file__).parent.parent / "docs" / "tokenizers.md"
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def main() -> None:
    """Measure every tokenizer and write benchmarks/results/tokenizer_speed.json (not with --quick)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=Path, help="CSV with a column caption")
    parser.add_argument(
        "--hf", action="append", default=[], help="folder of a pretrained tokenizer; repeatable"
    )
    parser.add_argument(
        "--quick", action="store_true", help="2,000 captions, one repetition, nothing written"
    )
    said = parser.parse_args()
    repeats = 1 if said.quick else 7
    captions = read(said.captions) if said.captions else grammar(2_000 if said.quick else 40_000)
    captions = captions[:2_000] if said.quick else captions
    half = len(captions) // 2
    fitted_on, measured = captions[:half], captions[half:]
    figures: dict[str, Any] = {
        "captions": len(measured),
        "source": said.captions.parent.name if said.captions else "world grammar",
        "words_per_caption": round(sum(len(text.split()) for text in measured) / len(measured), 2),
        "threads": 1,
        "tokenizers": {},
    }
    for kind in (*KINDS, *(f"hf:{folder}" for folder in said.hf)):
        figures["tokenizers"][kind.partition(":")[0]] = found = measure(kind, fitted_on, measured, repeats)
        print(kind, {name: each["median"] for name, each in found.items()})
    configs = [TokenizerConfig(kind=kind) for kind in (*KINDS, *(f"hf:{folder}" for folder in said.hf))]
    compared = compare_tokenizers(captions, configs, repeats=repeats)
    figures["compared"] = compared.to_markdown()
    print(figures["compared"])
    if not said.quick:
        print(write_result("tokenizer_speed", figures))
        PAGE.write_text(
            with_tables(PAGE.read_text(encoding="utf-8"), read_result("tokenizer_speed")), encoding="utf-8"
        )


def with_tables(page: str, result: dict[str, Any]) -> str:
    """The page with the figures of a result file between its marks."""
    figures = result["figures"]
    lines = ["| tokenizer | captions/s, cold | warm | plain library call |", "|---|---:|---:|---:|"]
    for kind, found in figures["tokenizers"].items():
        plain = ", ".join(
            f"{found[name]['median']:,}" + (" (sentencepiece)" if name != "library" else "")
            for name in ("library", "sentencepiece")
            if name in found
        )
        lines.append(
            f"| {kind} | {found['cold']['median']:,} | {found['warm']['median']:,} | {plain or '–'} |"
        )
    said = (
        f"Captions of {figures['source']}, {figures['words_per_caption']} words each; speed on one thread, median, "
        f"over {figures['captions']:,} captions that the tokenizer was not fitted on. {result['hardware']}; commit "
        f"{result['commit']}; {result['date'][:10]}; `{result['command']}`."
    )
    block = "\n".join([BEGIN, "", *lines, "", figures["compared"], "", said, "", END])
    before, _, rest = page.partition(BEGIN)
    return before + block + rest.partition(END)[2]


def measure(kind: str, fitted_on: list[str], captions: list[str], repeats: int) -> dict[str, dict[str, Any]]:
    """name → captions a second: median, least and most of `repeats`; ours and the library's by turns."""
    fitted = make_tokenizer(TokenizerConfig(kind=kind)).fit(fitted_on)
    calls: dict[str, Callable[[], object]] = {"warm": lambda: fitted.encode(captions)}
    library = getattr(fitted, "_model", None) or getattr(fitted, "_library", None)
    if library is not None:
        calls["library"] = lambda: [
            each.ids for each in library.encode_batch_fast(captions, add_special_tokens=False)
        ]
    if kind == "unigram":
        processor = sentencepiece_of(fitted_on)
        calls["sentencepiece"] = lambda: processor.encode(captions, num_threads=1)
    speeds: dict[str, list[float]] = {name: [] for name in ("cold", *calls)}
    with tempfile.TemporaryDirectory() as scratch:
        fitted.save(Path(scratch))
        for _ in range(repeats):
            fresh = load_tokenizer(Path(scratch))
            speeds["cold"].append(speed(lambda fresh=fresh: fresh.encode(captions), len(captions)))  # type: ignore[misc]
            for name, call in calls.items():
                speeds[name].append(speed(call, len(captions)))
    return {
        name: {"median": round(statistics.median(found)), "range": [round(min(found)), round(max(found))]}
        for name, found in speeds.items()
    }


def speed(call: Callable[[], object], captions: int) -> float:
    """Captions a second of one call."""
    began = time.perf_counter()
    call()
    return captions / (time.perf_counter() - began)


def sentencepiece_of(captions: list[str]) -> Any:
    """sentencepiece's own tokenizer, trained by itself on the same captions."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=model,
        vocab_size=2000,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return SentencePieceProcessor(model_proto=model.getvalue())


def read(path: Path) -> list[str]:
    """The captions of a CSV, normalised."""
    with path.open(encoding="utf-8", newline="") as file:
        return [normalize(row["caption"]) for row in csv.DictReader(file)]


def grammar(count: int) -> list[str]:
    """Captions of random scenes, normalised; most are said once."""
    scenes = draw_scenes(np.random.default_rng(0), count)
    return [normalize(reference_captions(scenes, row, 1)[0]) for row in range(count)]


if __name__ == "__main__":
    main()
