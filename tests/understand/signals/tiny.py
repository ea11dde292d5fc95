"""Tiny models in the formats of large ones, saved to disk, for tests that load them for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

_SPECIAL = (
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
    "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
)  # fmt: skip


def whisper(folder: Path, says: str, *, no_speech: bool = False, unsure: bool = False) -> Path:
    """A Whisper that always says the same, converted to CTranslate2: attention is off, positions decide every token.

    Args:
        folder: to write into.
        says: one word: faster-whisper suppresses the bytes of white space and of most signs.
        no_speech: it is sure that nobody speaks (and says it all the same).
        unsure: twenty other tokens are as likely as each letter.
    """
    import ctranslate2
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperForConditionalGeneration

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: k for k, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in _SPECIAL])
    times = [f"<|{k * 0.02:.2f}|>" for k in range(1501)]
    tokenizer.add_tokens([AddedToken(name, special=False) for name in times])
    ids = {name: tokenizer.token_to_id(name) for name in (*_SPECIAL, "<|0.00|>", "<|2.00|>")}
    words = tokenizer.encode(says).ids
    config = WhisperConfig(
        vocab_size=tokenizer.get_vocab_size(), d_model=64, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        decoder_start_token_id=ids["<|startoftranscript|>"], bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"], pad_token_id=ids["<|endoftext|>"], begin_suppress_tokens=[],
        suppress_tokens=[],
    )  # fmt: skip
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config).eval()
    decoder: Any = model.model.decoder
    with torch.no_grad():
        for name, parameter in decoder.layers.named_parameters():
            if "layer_norm" not in name:
                parameter.zero_()
        embedding = torch.nn.functional.normalize(torch.randn(config.vocab_size, 64), dim=1)
        decoder.embed_tokens.weight.copy_(embedding)
        if unsure:
            for at, token in enumerate(sorted(set(words))):
                embedding[150 + 20 * (at % 5) : 170 + 20 * (at % 5)] = embedding[token]
            decoder.embed_tokens.weight.copy_(embedding)
        first = ids["<|nospeech|>"] if no_speech else ids["<|0.00|>"]
        said = [ids["<|0.00|>"], *words, ids["<|2.00|>"], ids["<|endoftext|>"]]
        # After the start token comes position 0; what it says of "no speech" is read there too.
        decoder.embed_positions.weight.zero_()
        for at, token in enumerate([first, *said[1:]] if no_speech else said):
            decoder.embed_positions.weight[at] = 30 * embedding[token]
        decoder.layer_norm.weight.fill_(3.0)
    source = folder / "transformers"
    model.generation_config.update(
        alignment_heads=[[0, 0]], lang_to_id={"<|en|>": ids["<|en|>"]}, suppress_tokens=[], begin_suppress_tokens=[],
        no_timestamps_token_id=ids["<|notimestamps|>"],
    )  # fmt: skip
    model.save_pretrained(source)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    ).save_pretrained(source)
    out = folder / "tiny-whisper"
    loader: Any = ctranslate2.converters.TransformersConverter(str(source), copy_files=["tokenizer.json"])
    loader.convert(str(out))
    (out / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80, "sampling_rate": 16000}))
    return out


def audio_classifier(folder: Path, family: str, labels: list[str], *, several: bool = False) -> Path:
    """A random AST or Wav2Vec2 whose bias makes the first label likely."""
    from transformers import (
        ASTConfig,
        ASTFeatureExtractor,
        ASTForAudioClassification,
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForSequenceClassification,
    )

    torch.manual_seed(0)
    names: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: k for k, label in enumerate(labels)},
        "problem_type": "multi_label_classification" if several else None,
    }
    model: Any
    extractor: Any
    if family == "ast":
        config = ASTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_length=128,
            num_mel_bins=32, **names,
        )  # fmt: skip
        model = ASTForAudioClassification(config)
        extractor = ASTFeatureExtractor(num_mel_bins=32, max_length=128)
        last = model.classifier.dense
    else:
        conv: dict[str, Any] = {"conv_dim": (16, 16), "conv_stride": (10, 16), "conv_kernel": (10, 16)}
        wav = Wav2Vec2Config(
            vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
            classifier_proj_size=8, **conv, **names,
        )  # fmt: skip
        model = Wav2Vec2ForSequenceClassification(wav)
        extractor = Wav2Vec2FeatureExtractor()
        last = model.classifier
    with torch.no_grad():
        last.weight.mul_(0.01)
        last.bias.copy_(torch.from_numpy(np.array([4.0] + [0.0] * (len(labels) - 1), np.float32)))
    out = folder / f"tiny-{family}"
    model.save_pretrained(out)
    extractor.save_pretrained(out)
    return out
