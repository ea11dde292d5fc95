"""Tiny tokenizers with the anatomy of well-known ones, trained on the spot: nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "a dog on a sofa", "a dog on a bed", "a cat on a sofa", "a cat", "a zebra grazing near zebras",
    "two dogs and a skateboarder", "surfers riding a wave",
] * 3  # fmt: skip


def llama2(folder: Path, corpus: Sequence[str] = CORPUS, size: int = 340) -> Path:
    """A folder as `LlamaTokenizerFast.save_pretrained` writes it: byte-pair encoding with byte fallback, unsplit."""
    from transformers import LlamaTokenizerFast

    vocabulary, merges = _learn(corpus, size)
    LlamaTokenizerFast(vocab=vocabulary, merges=merges).save_pretrained(folder)
    return folder


def llama2_legacy(folder: Path, corpus: Sequence[str] = CORPUS, size: int = 340) -> Path:
    """The published tokenizer.json of LLaMA 2: spaces become ▁ in the normalizer, and there is no pre-tokenizer."""
    vocabulary, merges = _learn(corpus, size)
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return _save(tokenizer, folder)


def gpt2(folder: Path, corpus: Sequence[str] = CORPUS) -> Path:
    """Byte-level byte-pair encoding, where the first word of a text is spelt unlike the same word later."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return _save(tokenizer, folder)


def bert(folder: Path, corpus: Sequence[str] = CORPUS) -> Path:
    """WordPiece with BERT's own splitting, and an unknown token."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=80, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return _save(tokenizer, folder)


def unsplit(folder: Path, corpus: Sequence[str] = CORPUS) -> Path:
    """One whose tokens reach over spaces ("a▁dog"), so that no word can be read alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=120, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return _save(tokenizer, folder)


def _learn(corpus: Sequence[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    learner = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learner.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False)
    )
    model = json.loads(learner.to_str())["model"]
    return model["vocab"], [(first, second) for first, second in model["merges"]]


def _save(tokenizer: Tokenizer, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
