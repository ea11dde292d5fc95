"""Image encoder and Q-Former: the part of the composition that both training stages share.

    pixels ─encoder─▶ grid [B, cells, E] ─cross-attention of 32 queries─▶ [B, 32, Dq]

The Q-Former is BLIP-2's (Li et al. 2023, §3.1), from `transformers`. What an EfficientNet sees is projected to the
Q-Former's width and given positions first; a Vision Transformer's states are only normalised, as in BLIP-2.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from captionary.config import from_mapping
from captionary.errors import CaptionaryError, bad_value
from captionary.publish import atomic_file
from captionary.understand.architecture import MultimodalConfig
from captionary.understand.encoder import EfficientNetLite0, ImageEncoder
from captionary.understand.vision import VisionTower

__all__ = ["PictureReader", "keep_no_activations", "read_folder"]


class PictureReader(nn.Module):
    """Encoder, queries and Q-Former, with one pair of save and load for whatever is built on them.

    Args:
        config: the sizes.
        tokenizer: of the captions.
        encoder: ready weights; None: new ones.
        text: whether the Q-Former reads text too.

    Raises:
        CaptionaryError: the tokenizer has more tokens than the config.
    """

    encoder: ImageEncoder

    def __init__(
        self,
        config: MultimodalConfig,
        tokenizer: Tokenizer,
        *,
        encoder: ImageEncoder | None = None,
        text: bool = False,
    ) -> None:
        super().__init__()
        if tokenizer.get_vocab_size() > config.vocabulary_size:
            rule = f">= the {tokenizer.get_vocab_size()} tokens of the tokenizer"
            raise bad_value("vocabulary_size", config.vocabulary_size, rule)
        self.config = config
        self.tokenizer = tokenizer
        self.encoder = encoder or (
            EfficientNetLite0() if config.vision is None else VisionTower(config.vision)
        )
        read = self.encoder.width
        if config.vision is None:
            read = config.qformer_width
            self.grid_projection: nn.Module = nn.Linear(self.encoder.width, read)
        else:
            self.grid_projection = nn.Identity()
        self.grid_norm = nn.LayerNorm(read)
        if config.vision is None:
            self.grid_position = nn.Parameter(torch.randn(1, self.encoder.cells, read) * 0.02)
        self.query = nn.Parameter(torch.randn(1, config.queries, config.qformer_width) * 0.02)
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=config.qformer_width,
                num_hidden_layers=config.qformer_layers,
                num_attention_heads=config.qformer_heads,
                intermediate_size=4 * config.qformer_width,
                encoder_hidden_size=read,
                cross_attention_frequency=config.qformer_cross_every,
                use_qformer_text_input=text,
            )
        )

    def seen(self, grid: Tensor) -> Tensor:
        """What the queries attend to: [B, cells, E] → [B, cells, Dq], of a Vision Transformer [B, cells, E]."""
        if self.config.vision is not None:
            normed: Tensor = self.grid_norm(grid.to(self.grid_norm.weight.dtype))
            return normed
        placed: Tensor = self.grid_norm(self.grid_projection(grid)) + self.grid_position
        return placed

    def answers(self, grid: Tensor) -> Tensor:
        """What the queries found in each picture: [B, cells, E] → [B, queries, Dq]."""
        queries = self.query.expand(len(grid), -1, -1)
        answered: Tensor = self.qformer(
            query_embeds=queries, encoder_hidden_states=self.seen(grid)
        ).last_hidden_state
        return answered

    def checkpoint_gradients(self) -> None:
        """Keep no activations inside the layers; compute them again on the way back: less memory, a third more time."""
        self.qformer.main_input_name = "query_embeds"  # it has no input embeddings that would want a gradient
        keep_no_activations(self.qformer)

    def save(self, folder: Path, card: str, facts: dict[str, Any] | None = None) -> None:
        """Write config.json, model.safetensors, tokenizer.json and the model card to `folder`.

        Weights are written as float16, those held as bfloat16 as such.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tied = self._tied()
        weights = {
            name: _half(tensor).contiguous() for name, tensor in self.state_dict().items() if name not in tied
        }
        with atomic_file(folder / "model.safetensors") as file:
            file.write(save(weights, metadata={"format": "pt"}))
        (folder / "config.json").write_text(
            json.dumps(asdict(self.config) | {"facts": facts or {}}, indent=1)
        )
        self.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "MODEL_CARD.md").write_text(card)

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> Self:
        """Read what `save` wrote, in evaluation mode.

        Args:
            folder: where `save` wrote.
            dtype: of the weights in memory.

        Raises:
            CaptionaryError: a file is missing, or the weights do not fit the config.
        """
        config, tokenizer, weights = read_folder(folder)
        usual = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # so that a large model is never held in float32 besides
        try:
            model = cls(config, tokenizer)
        finally:
            torch.set_default_dtype(usual)
        try:
            missing, unexpected = model.load_state_dict(weights, strict=False)
        except RuntimeError as error:  # shapes
            wrong = [" ".join(str(error).split())[:300]]
        else:
            wrong = [name for name in [*missing, *unexpected] if name not in model._tied()]
        if wrong:
            raise bad_value(
                "weights", wrong[:3], "those of config.json", where=str(folder / "model.safetensors")
            )
        return model.eval()

    def _tied(self) -> frozenset[str]:
        """Names of weights that are others under a second name."""
        return frozenset()


def read_folder(folder: Path) -> tuple[MultimodalConfig, Tokenizer, dict[str, Tensor]]:
    """Config, tokenizer and weights, as they are in the files.

    Raises:
        CaptionaryError: a file is missing or damaged.
    """
    try:
        raw = json.loads((folder / "config.json").read_text())
        raw.pop("facts", None)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        weights = load_file(folder / "model.safetensors")
    except CaptionaryError:
        raise
    except Exception as error:  # tokenizers and safetensors raise bare Exceptions
        raise bad_value("captioner", str(folder), "a folder saved by Captionary", where=str(error)) from None
    return from_mapping(MultimodalConfig, raw, where=str(folder / "config.json")), tokenizer, weights


def keep_no_activations(model: Any) -> None:
    """Activation checkpointing of a `transformers` model, by the name that its version has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _half(tensor: Tensor) -> Tensor:
    kept = torch.bfloat16 if tensor.dtype == torch.bfloat16 else torch.float16
    return tensor.detach().to("cpu", kept)
