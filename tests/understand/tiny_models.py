"""Random models of each family that `hf:` reads, small enough to save and load in a test.

`save_tiny(family, folder)` writes what a Hub repository has: weights, configs, tokenizer, image processor, chat
template. The tokenizer knows a few words and the families' special tokens; weights are seeded.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipConfig,
    BlipForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    Llama4Config,
    Llama4ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

SPECIAL = [
    *("<pad>", "<s>", "</s>", "<unk>", "[SEP]", "<image>", "<fake_token_around_image>", "<end_of_utterance>"),
    *("<global-img>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
    *("<|video_pad|>", "<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>"),
    *("<|tile_y_separator|>", "<|header_start|>", "<|header_end|>", "<|eot|>", "⟦img⟧"),
    *(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)),
]
WORDS = [
    "a",
    "an",
    "the",
    "of",
    "in",
    "on",
    "under",
    "next",
    "to",
    "front",
    "and",
    "with",
    "red",
    "green",
    "blue",
    "yellow",
    "black",
    "white",
    "dog",
    "cat",
    "sofa",
    "car",
    "apple",
    "tree",
    "boat",
    "chair",
    "bird",
    "cup",
    "kitchen",
    "park",
    "beach",
    "street",
    "forest",
    "picture",
    "photo",
    "describe",
    "this",
    "what",
    "is",
    "shown",
    "one",
    "sentence",
    "USER",
    "ASSISTANT",
    "User",
    "Assistant",
    ":",
    ".",
    ",",
    "?",
    "1",
    "2",
    "3",
]
IDS = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
SIZE = len(IDS)
FAMILIES = (
    *(
        "blip",
        "blip2-opt",
        "blip2-t5",
        "instructblip",
        "llava",
        "llava-plain",
        "idefics3",
        "smolvlm",
        "qwen2-vl",
    ),
    *("qwen2.5-vl", "llama4"),
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": SIZE,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 4096,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
PICTURE = {"do_resize": True, "do_normalize": True, "do_rescale": True, "do_convert_rgb": True}


def tiny_tokenizer(*, template: str | None = None, bert: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = "<s> $A [SEP]" if bert else "<s> $A"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=ends, special_tokens=[("<s>", 1), ("[SEP]", IDS["[SEP]"])]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[4:],
        padding_side="right",
    )
    made.chat_template = template
    return made


def _model(family: str) -> PreTrainedModel:
    if family == "blip":
        text = {
            "vocab_size": SIZE,
            "hidden_size": 32,
            "encoder_hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "sep_token_id": IDS["[SEP]"],
        }
        return BlipForConditionalGeneration(
            BlipConfig(text_config=text, vision_config=VISION, projection_dim=16, image_text_hidden_size=16)
        )
    if family.startswith(("blip2", "instructblip")):
        former = {
            "vocab_size": SIZE,
            "hidden_size": 32,
            "encoder_hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "cross_attention_frequency": 1,
        }
        if family == "blip2-t5":
            text = {
                "model_type": "t5",
                "vocab_size": SIZE,
                "d_model": 32,
                "d_kv": 8,
                "d_ff": 48,
                "num_layers": 2,
                "num_heads": 4,
                "pad_token_id": 0,
                "eos_token_id": 2,
                "decoder_start_token_id": 0,
                "feed_forward_proj": "gated-gelu",
            }
        else:
            text = {
                "model_type": "opt",
                "vocab_size": SIZE,
                "hidden_size": 32,
                "ffn_dim": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "word_embed_proj_dim": 32,
                "max_position_embeddings": 128,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
            }
        config, model = (
            (InstructBlipConfig, InstructBlipForConditionalGeneration)
            if family == "instructblip"
            else (Blip2Config, Blip2ForConditionalGeneration)
        )
        return model(
            config(
                vision_config=VISION,
                qformer_config=former,
                text_config=text,
                num_query_tokens=4,
                image_token_index=IDS["<image>"],
            )
        )
    if family.startswith("llava"):
        vision = {**VISION, "model_type": "clip_vision_model", "projection_dim": 16}
        return LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=vision,
                text_config={**LLAMA, "model_type": "llama"},
                image_token_index=IDS["<image>"],
                image_seq_length=16,
            )
        )
    if family in ("idefics3", "smolvlm"):
        config, model = (
            (Idefics3Config, Idefics3ForConditionalGeneration)
            if family == "idefics3"
            else (SmolVLMConfig, SmolVLMForConditionalGeneration)
        )
        return model(
            config(
                vision_config=VISION,
                text_config={**LLAMA, "model_type": "llama"},
                image_token_id=IDS["<image>"],
                scale_factor=2,
                pad_token_id=0,
            )
        )
    if family in ("qwen2-vl", "qwen2.5-vl"):
        text = {
            **LLAMA,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        }
        marks = {
            "image_token_id": IDS["<|image_pad|>"],
            "video_token_id": IDS["<|video_pad|>"],
            "vision_start_token_id": IDS["<|vision_start|>"],
            "vision_end_token_id": IDS["<|vision_end|>"],
        }
        if family == "qwen2-vl":
            vision = {
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 4,
                "mlp_ratio": 2,
                "patch_size": 8,
            }
            return Qwen2VLForConditionalGeneration(
                Qwen2VLConfig(text_config=text, vision_config=vision, **marks)
            )
        vision = {
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": 8,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        }
        return Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision, **marks)
        )
    assert family == "llama4"
    text = {
        **LLAMA,
        "intermediate_size_mlp": 48,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "head_dim": 8,
        "attention_chunk_size": 512,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "vision_output_dim": 32,
        "projector_input_dim": 32,
        "projector_output_dim": 32,
        "pixel_shuffle_ratio": 0.5,
    }
    return Llama4ForConditionalGeneration(
        Llama4Config(text_config=text, vision_config=vision, image_token_index=IDS["<|patch|>"])
    )


def _processor(family: str, folder: Path) -> None:
    """Files as a Hub repository has them; no class that needs torchvision is made."""
    images = {**PICTURE, "size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    name, settings, template = "", {}, None
    if family == "blip":
        name, images["image_processor_type"] = "BlipProcessor", "BlipImageProcessor"
    elif family.startswith(("blip2", "instructblip")):
        name = "InstructBlipProcessor" if family == "instructblip" else "Blip2Processor"
        settings, images["image_processor_type"] = {"num_query_tokens": 4}, "BlipImageProcessor"
        if family == "instructblip":
            tiny_tokenizer(bert=True).save_pretrained(folder / "qformer_tokenizer")
    elif family.startswith("llava"):
        name, images["image_processor_type"] = "LlavaProcessor", "CLIPImageProcessor"
        images |= {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        settings = {
            "patch_size": 8,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        }
        template = None if family == "llava-plain" else CHATML.replace("IMAGE", "<image>")
    elif family in ("idefics3", "smolvlm"):
        name = "Idefics3Processor" if family == "idefics3" else "SmolVLMProcessor"
        images["image_processor_type"] = name.replace("Processor", "ImageProcessor")
        images |= {
            "size": {"longest_edge": 64},
            "max_image_size": {"longest_edge": 32},
            "do_image_splitting": True,
            "do_pad": True,
        }
        settings, template = {"image_seq_len": 4}, CHATML.replace("IMAGE", "<image>")
    elif family.startswith("qwen"):
        name = "Qwen2_5_VLProcessor" if "2.5" in family else "Qwen2VLProcessor"
        images["image_processor_type"] = "Qwen2VLImageProcessor"
        images |= {"size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}, "patch_size": 8}
        images |= {"merge_size": 2, "temporal_patch_size": 2}
        template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    elif family == "llama4":
        name, images["image_processor_type"] = "Llama4Processor", "Llama4ImageProcessor"
        images["max_patches"] = 4
        settings = {"patch_size": 8, "pixel_shuffle_ratio": 0.5}
        template = CHATML.replace("IMAGE", "<|image|>")
    tiny_tokenizer(bert=family == "blip").save_pretrained(folder)
    if template:
        (folder / "chat_template.jinja").write_text(template)
    (folder / "preprocessor_config.json").write_text(json.dumps({**images, "processor_class": name}))
    (folder / "processor_config.json").write_text(json.dumps({**settings, "processor_class": name}))


def save_tiny(family: str, folder: Path) -> Path:
    """Write a random model of the family and all that goes with it; returns the folder."""
    torch.manual_seed(7)
    model = _model(family)
    with torch.no_grad():  # random weights as initialised say the same word for ever
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    _processor(family, folder)
    return folder
