"""Named sizes of the composition, and a model of such a size from whatever weights are at hand.

builtin        EfficientNet-Lite0, a Q-Former of 3 × 256, a decoder of 4 × 256: about 11 M parameters
llama2-1.5b    a ViT-L/14, BLIP-2's Q-Former of 12 × 768 with 32 queries, a LLaMA-2-shaped decoder of 1.5 B (paper §4)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from captionary.errors import bad_value, nearest
from captionary.understand.architecture import MultimodalConfig
from captionary.understand.encoder import ImageEncoder, pretrained_encoder
from captionary.understand.llama import llama_from_folder
from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.qformer import read_folder
from captionary.understand.representation import RepresentationModel
from captionary.understand.vision import VisionSettings, vision_from_folder

__all__ = ["PRESETS", "generative_model", "preset", "representation_model"]

_VIT_L = VisionSettings(
    model={
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "projection_dim": 768,
    },
    layer=-2,
)

PRESETS: dict[str, MultimodalConfig] = {
    "builtin": MultimodalConfig(),
    "llama2-1.5b": MultimodalConfig(
        encoder="vit",
        vision=_VIT_L,
        vocabulary_size=32_000,
        queries=32,
        qformer_width=768,
        qformer_layers=12,
        qformer_heads=12,
        qformer_cross_every=2,
        decoder_width=2048,
        decoder_layers=27,
        decoder_heads=16,
        decoder_mlp=5504,
        decoder_tied=False,
        decoder_settings={"rms_norm_eps": 1e-5},  # LLaMA-2's
        max_length=512,
    ),
}
"""Name → sizes."""


def preset(name: str) -> MultimodalConfig:
    """The sizes of that name.

    Raises:
        CaptionaryError: there is none; names the nearest.
    """
    if name not in PRESETS:
        raise bad_value("preset", name, nearest(name, PRESETS))
    return PRESETS[name]


def representation_model(
    config: MultimodalConfig,
    tokenizer: Tokenizer,
    *,
    encoder: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> RepresentationModel:
    """The model of the first stage, its encoder from pretrained weights.

    Args:
        config: the sizes; those of the encoder give way to the folder's.
        tokenizer: of the captions.
        encoder: a local Hugging Face folder with a vision tower; None: the EfficientNet of the extra `train`.
        dtype: of the encoder's weights.

    Raises:
        CaptionaryError: the encoder is a Vision Transformer without a folder: it is frozen, nothing would train it.
    """
    config, seeing = _encoder(config, encoder, dtype)
    return RepresentationModel(config, tokenizer, encoder=seeing)


def generative_model(
    config: MultimodalConfig,
    tokenizer: Tokenizer | None,
    *,
    start: Path | None = None,
    encoder: Path | None = None,
    decoder: Path | None = None,
    encoder_dtype: torch.dtype = torch.float32,
    decoder_dtype: torch.dtype = torch.float32,
) -> MultimodalLLM:
    """The captioner that the second stage trains.

    Args:
        config: the sizes; those of `start` and of the folders come first.
        tokenizer: of the captions, where no decoder is given; None: that of `start`.
        start: a folder of the first stage (encoder and Q-Former are taken), or of a captioner (all is taken).
        encoder: a local Hugging Face folder with a vision tower, where `start` is None.
        decoder: a local Hugging Face folder with a LLaMA-family decoder and its tokenizer; None: a new decoder.
        encoder_dtype: of the encoder's weights.
        decoder_dtype: of the decoder's weights.

    Raises:
        CaptionaryError: parts do not fit each other, or none tells the tokenizer.
    """
    seeing: ImageEncoder | None = None
    if start is not None:
        begun, tokenizer, weights = read_folder(start)
        if any(name.startswith("decoder.") for name in weights):
            if encoder is not None or decoder is not None:
                rule = "a folder of the first stage where encoder or decoder is given"
                raise bad_value("start", str(start), rule)
            return MultimodalLLM.load(start)
        del weights
        decoding = ("vocabulary_size", "max_length", "prompt", "pad_id", "bos_id", "eos_id")
        kept = [f for f in config.__dataclass_fields__ if f.startswith("decoder_") or f in decoding]
        config = replace(begun, **{name: getattr(config, name) for name in kept})
        if encoder is not None:
            raise bad_value("encoder", str(encoder), "absent where start is given: it holds the encoder")
    else:
        config, seeing = _encoder(config, encoder, encoder_dtype)
    llama: LlamaForCausalLM | None = None
    if decoder is not None:
        llama, tokenizer, settings = llama_from_folder(decoder, decoder_dtype)
        config = replace(config, **settings)
    if tokenizer is None:
        raise bad_value("tokenizer", None, "given where neither start nor decoder is")
    model = MultimodalLLM(config, tokenizer, encoder=seeing, decoder=llama)
    if start is not None:
        model.adopt(start)
        model.encoder.to(encoder_dtype)
    return model


def _encoder(
    config: MultimodalConfig, folder: Path | None, dtype: torch.dtype
) -> tuple[MultimodalConfig, ImageEncoder]:
    if folder is not None:
        tower = vision_from_folder(folder, dtype=dtype)
        return replace(config, encoder="vit", vision=tower.settings), tower
    if config.vision is not None:
        rule = "a Hugging Face folder with a vision tower: it is frozen, nothing would train a new one"
        raise bad_value("encoder", None, rule)
    return config, pretrained_encoder().to(dtype)
