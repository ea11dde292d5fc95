"""LLaMA-family decoders from local Hugging Face folders, with their tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from captionary.errors import bad_value
from captionary.understand.vision import own_settings

__all__ = ["LlamaFolder", "llama_from_folder"]

_OF_OURS = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "decoder_width",
    "num_hidden_layers": "decoder_layers",
    "num_attention_heads": "decoder_heads",
    "num_key_value_heads": "decoder_kv_heads",
    "intermediate_size": "decoder_mlp",
    "tie_word_embeddings": "decoder_tied",
    "max_position_embeddings": "max_length",
}
"""What LlamaConfig calls the fields of MultimodalConfig."""
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "model_type")


class LlamaFolder(NamedTuple):
    """What a folder holds."""

    model: LlamaForCausalLM
    tokenizer: Tokenizer
    settings: dict[str, Any]
    """The fields of MultimodalConfig that describe the model, its special tokens included."""


def llama_from_folder(folder: Path, dtype: torch.dtype = torch.float32) -> LlamaFolder:
    """Read a LLaMA-family decoder (LLaMA 1 to 3, TinyLlama, Vicuna, …) and its tokenizer; nothing is downloaded.

    Raises:
        CaptionaryError: no such folder, another kind of model, missing weights, or a tokenizer that does not fit them.
    """
    if not (folder / "config.json").is_file():
        raise bad_value("decoder", str(folder), "a Hugging Face folder with config.json")
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        if not isinstance(config, LlamaConfig):
            raise bad_value("decoder", config.model_type, "of model_type llama", where=str(folder))
        kind: Any = LlamaForCausalLM
        model, report = kind.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, output_loading_info=True
        )
        tokenizer = _tokenizer(folder)
    except (OSError, ValueError, KeyError) as error:
        rule = "a Hugging Face folder with a LLaMA decoder and its tokenizer"
        raise bad_value("decoder", str(folder), rule, where=" ".join(str(error).split())[:200]) from None
    if lost := sorted(report["missing_keys"]):
        raise bad_value("decoder", str(folder), "a folder with all weights", where=f"missing {lost[:3]}")
    settings = {ours: getattr(config, theirs) for theirs, ours in _OF_OURS.items()}
    further = {k: v for k, v in own_settings(config).items() if k not in _OF_OURS and k not in _IDS}
    return LlamaFolder(
        model.eval(), tokenizer, settings | _special(config, tokenizer) | {"decoder_settings": further}
    )


def _tokenizer(folder: Path) -> Tokenizer:
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    # Of sentencepiece's tokenizer.model, `transformers` makes a fast one.
    return Tokenizer.from_str(
        AutoTokenizer.from_pretrained(str(folder), local_files_only=True).backend_tokenizer.to_str()
    )


def _special(config: LlamaConfig, tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the special tokens; where a model has several ends (LLaMA 3), the first."""
    ends = config.eos_token_id
    end = ends[0] if isinstance(ends, list) else ends
    if end is None:
        end = tokenizer.token_to_id("</s>")
    if end is None:
        raise bad_value("eos_token_id", None, "given in config.json", where="decoder")
    begin = config.bos_token_id
    # Any id does as padding: it is masked and never told.
    pad = config.pad_token_id if config.pad_token_id is not None and config.pad_token_id >= 0 else end
    return {"bos_id": end if begin is None else begin, "eos_id": end, "pad_id": pad}
