"""A composition of a few thousand weights, and tiny Hugging Face folders to start it from."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from captionary.understand.mmllm import MultimodalConfig
from captionary.understand.train import train_tokenizer
from captionary.understand.vision import VisionSettings

WORDS = [
    "a dog on a sofa", "two cats under a tree", "a red car in a city at night", "three blue birds",
    "a horse in front of a barn", "an old man with a hat", "bread and wine", "a boat at sea by day",
]  # fmt: skip
CLIP = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
VISION = VisionSettings(model={"model_type": "clip_vision_model", **CLIP}, size=28, layer=-2)
"""Five cells of 16 features: 2 × 2 patches and the class token."""
SIZES = {
    "vocabulary_size": 140, "queries": 4, "qformer_width": 32, "qformer_layers": 2, "qformer_heads": 2,
    "qformer_cross_every": 2, "contrast_width": 16, "text_length": 24, "decoder_width": 32, "decoder_layers": 1,
    "decoder_heads": 2, "decoder_mlp": 48, "max_length": 60,
}  # fmt: skip
CONFIG = MultimodalConfig(encoder="vit", vision=VISION, **SIZES)  # type: ignore[arg-type]


def tiny_tokenizer() -> Tokenizer:
    return train_tokenizer(WORDS * 3, 140)


def clip_folder(folder: Path) -> Path:
    torch.manual_seed(11)
    CLIPVisionModel(CLIPVisionConfig(**CLIP)).save_pretrained(folder)
    return folder


def llama_folder(folder: Path, **other: object) -> Path:
    """A decoder whose special tokens lie where LLaMA-2's do: unknown, begin and end at 0, 1, 2."""
    torch.manual_seed(12)
    sizes = {
        "vocab_size": 150, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**(sizes | other))).save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder
