"""Tokenizer B: WordPiece by Hugging Face `tokenizers`, trained on the captions; punctuation left out."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from captionary.represent.pieces import CONTINUES, PieceTokenizer, merging
from captionary.represent.tokenizers import UNK
from captionary.represent.words import NORMALIZER

__all__ = ["WordPieceTokenizer"]


class WordPieceTokenizer(PieceTokenizer):
    """Tokenizer B. Pieces of words: "skateboarder" may be ``skate ##board ##er``, the longest piece first.

    A word with a letter that the captions fitted on do not have becomes id 0, [UNK]; any other word is spelt
    in pieces. The same captions give the same vocabulary in any order and in any process.
    """

    default_size = 2000

    def _train(self, captions: Sequence[str]) -> list[str]:
        trainer = trainers.WordPieceTrainer(**merging(captions, self.size, self.config.min_df))
        learner = self._library([UNK])
        learner.train_from_iterator(captions, trainer)
        ids = learner.get_vocab(with_added_tokens=True)
        return sorted(ids, key=ids.__getitem__)

    def _library(self, vocabulary: Sequence[str]) -> Tokenizer:
        ids = {token: index for index, token in enumerate(vocabulary)}
        model = Tokenizer(models.WordPiece(vocab=ids, unk_token=UNK, continuing_subword_prefix=CONTINUES))
        model.normalizer = NORMALIZER
        model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return model
