"""The sizes of the composition: image encoder, Q-Former, decoder; what config.json of a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import LlamaConfig

from captionary.errors import bad_value
from captionary.understand.vision import VisionSettings

__all__ = ["BOS", "EOS", "PAD", "UNK", "MultimodalConfig"]

PAD, BOS, EOS, UNK = 0, 1, 2, 3
"""Ids of the special tokens in every caption tokenizer of ours; those of another's are in its MultimodalConfig."""


@dataclass(frozen=True, kw_only=True)
class MultimodalConfig:
    """Sizes of the composition. The defaults are those of the built-in captioner, about 11 M parameters."""

    encoder: Literal["efficientnet-lite0", "vit"] = "efficientnet-lite0"
    """The image encoder: the built-in one, or the Vision Transformer of `vision`."""
    vision: VisionSettings | None = None
    """The Vision Transformer, where `encoder` is vit."""
    vocabulary_size: int = 4096
    """Tokens of the decoder, special ones included."""
    pad_id: int = PAD
    """Token that fills a batch's shorter rows; never read, never told."""
    bos_id: int = BOS
    """Token that opens a caption."""
    eos_id: int = EOS
    """Token that ends a caption."""
    queries: int = 32
    """Query tokens of the Q-Former: what the decoder sees of a picture."""
    qformer_width: int = 256
    qformer_layers: int = 3
    qformer_heads: int = 4
    qformer_cross_every: int = 1
    """Layers from one cross-attention to the next; 2 in BLIP-2."""
    text_length: int = 40
    """Positions of the Q-Former's text in the first training stage, >= 3."""
    contrast_width: int = 256
    """Features in which pictures and texts are compared in the first training stage."""
    decoder_width: int = 256
    decoder_layers: int = 4
    decoder_heads: int = 4
    decoder_kv_heads: int | None = None
    """Heads of keys and values, a divisor of `decoder_heads`; None: as many."""
    decoder_mlp: int = 704
    """Inner width of the decoder's gated MLP."""
    decoder_tied: bool = True
    """Whether the decoder reads and tells tokens with one matrix."""
    decoder_settings: dict[str, Any] = field(default_factory=dict)
    """Further settings of `transformers`' LlamaConfig: rope_parameters, rms_norm_eps, head_dim, …"""
    max_length: int = 160
    """Positions of the decoder: queries, prompt and caption."""
    prompt: str = ""
    """Text put before each caption; part of the fingerprint."""

    def __post_init__(self) -> None:
        for name in ("vocabulary_size", "queries", "qformer_layers", "decoder_layers", "qformer_cross_every"):
            if getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), ">= 1")
        for part in ("qformer", "decoder"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            if heads < 1 or width % heads:
                raise bad_value(f"{part}_heads", heads, f"a divisor of {part}_width == {width}")
        kv_heads = self.decoder_kv_heads
        if kv_heads is not None and (kv_heads < 1 or self.decoder_heads % kv_heads):
            rule = f"a divisor of decoder_heads == {self.decoder_heads}"
            raise bad_value("decoder_kv_heads", kv_heads, rule)
        if (self.encoder == "vit") != (self.vision is not None):
            rule = "given where encoder == vit, and only there"
            raise bad_value("vision", None if self.vision is None else "(settings)", rule)
        for name in ("pad_id", "bos_id", "eos_id"):
            if not 0 <= getattr(self, name) < self.vocabulary_size:
                raise bad_value(name, getattr(self, name), f"in [0, {self.vocabulary_size})")
        if self.text_length < 3:
            raise bad_value("text_length", self.text_length, ">= 3")
        if self.max_length < self.queries + 2:
            rule = f">= {self.queries + 2}: {self.queries} queries, the token that opens a caption, and one to say"
            raise bad_value("max_length", self.max_length, rule)

    @property
    def llama(self) -> LlamaConfig:
        """The decoder as `transformers` builds it."""
        return LlamaConfig(
            **self.decoder_settings,
            vocab_size=self.vocabulary_size,
            hidden_size=self.decoder_width,
            intermediate_size=self.decoder_mlp,
            num_hidden_layers=self.decoder_layers,
            num_attention_heads=self.decoder_heads,
            num_key_value_heads=self.decoder_kv_heads,
            max_position_embeddings=self.max_length,
            tie_word_embeddings=self.decoder_tied,
            pad_token_id=self.pad_id,
            bos_token_id=self.bos_id,
            eos_token_id=self.eos_id,
        )
