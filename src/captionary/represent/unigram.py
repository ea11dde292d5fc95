"""Unigram language model (Kudo 2018) by Hugging Face `tokenizers`, trained on the captions.

Its pieces are learnt by SentencePiece: the trainer of `tokenizers` sums in the order of a hash map, and so gives
another vocabulary in each process.
"""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from captionary.represent.pieces import PieceTokenizer, merging
from captionary.represent.tokenizers import UNK, TokenizerConfig
from captionary.represent.words import NORMALIZER, words_of

__all__ = ["UnigramTokenizer"]

_LONGEST = 16  # letters of a piece, as in SentencePiece


class UnigramTokenizer(PieceTokenizer):
    """The likeliest pieces of a word: "skateboarder" may be ``▁skate board er``; ▁ begins a word.

    Letters that the captions fitted on do not have become id 0, [UNK], a run of them one; the rest of the word is spelt
    as usual.
    """

    default_size = 2000
    starts = "▁"

    def __init__(self, config: TokenizerConfig) -> None:
        self._scores: list[float] = []
        super().__init__(config)

    def _train(self, captions: Sequence[str]) -> list[str]:
        from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

        alphabet = set(merging(captions, self.size, self.config.min_df)["initial_alphabet"])
        times = Counter(word for caption in captions for word in words_of(caption))
        words = sorted(word for word in times if alphabet.issuperset(word))
        model = io.BytesIO()
        with tempfile.TemporaryDirectory() as scratch:
            corpus = Path(scratch) / "words.tsv"
            corpus.write_text("".join(f"{word}\t{times[word]}\n" for word in words), encoding="utf-8")
            seeds = Path(scratch) / "seeds.tsv"
            candidates = _candidates({word: times[word] for word in words}, self.config.min_df)
            seeds.write_text("".join(f"{piece}\t{count}\n" for piece, count in candidates), encoding="utf-8")
            SentencePieceTrainer.train(
                input=str(corpus),
                input_format="tsv",
                seed_sentencepieces_file=str(seeds),
                model_writer=model,
                model_type="unigram",
                vocab_size=self.size,
                hard_vocab_limit=False,
                character_coverage=1.0,
                normalization_rule_name="identity",
                split_by_unicode_script=False,
                split_by_number=False,
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                unk_piece=UNK,
                num_threads=1,
                minloglevel=2,
            )
        trained = SentencePieceProcessor(model_proto=model.getvalue())
        pieces = range(trained.get_piece_size())
        # Rounded, so that the last bits of a sum on another processor do not make another tokenizer.
        self._scores = [round(trained.get_score(piece), 5) for piece in pieces]
        return [trained.id_to_piece(piece) for piece in pieces]

    def _library(self, vocabulary: Sequence[str]) -> Tokenizer:
        scores = self._scores if len(vocabulary) > 1 else [0.0]
        model = Tokenizer(models.Unigram(list(zip(vocabulary, scores, strict=True)), 0, False))
        model.normalizer = normalizers.Sequence([NORMALIZER, normalizers.Strip()])
        model.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always", split=True)]
        )
        return model

    def _remembered(self) -> dict[str, Any]:
        return {**super()._remembered(), "scores": self._scores}

    def _restore(self, payload: Mapping[str, Any]) -> None:
        self._scores = [float(score) for score in payload["scores"]]
        super()._restore(payload)


def _candidates(times: Mapping[str, int], least: int) -> list[tuple[str, int]]:
    """Pieces to begin with, and how often each occurs, the most letters covered first.

    SentencePiece's own candidates are parts that several distinct words share, so that a word without relatives could
    never be a token, however frequent it is.

    Args:
        times: word → how often it occurs.
        least: fewest occurrences of a piece of more than one letter, >= 1.
    """
    counts: Counter[str] = Counter()
    for word, count in times.items():
        marked = f"▁{word}"
        for start in range(len(marked)):
            for end in range(start + 1, min(start + _LONGEST, len(marked)) + 1):
                counts[marked[start:end]] += count
    kept = [(piece, count) for piece, count in counts.items() if len(piece) == 1 or count >= least]
    return sorted(kept, key=lambda pair: (-pair[1] * len(pair[0]), pair[0]))
