"""Byte-pair encoding (Sennrich et al. 2016) by Hugging Face `tokenizers`, trained on the captions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from captionary.represent.pieces import CONTINUES, PieceTokenizer, merging
from captionary.represent.tokenizers import UNK, TokenizerConfig
from captionary.represent.words import NORMALIZER

__all__ = ["BpeTokenizer"]


class BpeTokenizer(PieceTokenizer):
    """Pieces of words as in WordPiece, but a word is spelt by redoing the merges in the order they were learnt.

    A letter that the captions fitted on do not have becomes id 0, [UNK]; the rest of its word is spelt as usual.
    """

    default_size = 2000

    def __init__(self, config: TokenizerConfig) -> None:
        self._merges: list[tuple[str, str]] = []
        super().__init__(config)

    def _train(self, captions: Sequence[str]) -> list[str]:
        trainer = trainers.BpeTrainer(**merging(captions, self.size, self.config.min_df))
        learner = self._library([UNK])
        learner.train_from_iterator(captions, trainer)
        merges = json.loads(learner.to_str())["model"]["merges"]
        self._merges = [(first, second) for first, second in merges]
        ids = learner.get_vocab(with_added_tokens=True)
        return sorted(ids, key=ids.__getitem__)

    def _library(self, vocabulary: Sequence[str]) -> Tokenizer:
        ids = {token: index for index, token in enumerate(vocabulary)}
        merges = self._merges if len(vocabulary) > 1 else []
        model = Tokenizer(
            models.BPE(vocab=ids, merges=merges, unk_token=UNK, continuing_subword_prefix=CONTINUES)
        )
        model.normalizer = NORMALIZER
        model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return model

    def _remembered(self) -> dict[str, Any]:
        return {**super()._remembered(), "merges": [list(pair) for pair in self._merges]}

    def _restore(self, payload: Mapping[str, Any]) -> None:
        self._merges = [(str(first), str(second)) for first, second in payload["merges"]]
        super()._restore(payload)
