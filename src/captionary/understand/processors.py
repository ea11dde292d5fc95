"""Processors of `transformers` models without torchvision: always Pillow's, so that captions do not depend on it.

`AutoProcessor` would take torchvision where it is installed, whose pixels differ, and refuses models that can also
see video (Qwen2-VL, SmolVLM) where it is not. Here a processor is put together from its parts: tokenizers as they
are, the image processor with Pillow, and no video.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedConfig
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name

from captionary.errors import bad_value

__all__ = ["load_processor"]


class _NoVideo(dict[str, object]):
    """Stands where a processor wants one for videos, which a captioner of pictures never gives it.

    An empty dict, as processors print themselves as JSON.
    """

    num_frames = 0
    fps = 0


def _without_video(kind: Any) -> Any:
    """The processor class, content with `_NoVideo`: the check of its arguments needs torchvision to be there."""

    def check(self: Any, name: str, part: object) -> Any:
        return (
            _NoVideo if isinstance(part, _NoVideo) else kind.check_argument_for_proper_class(self, name, part)
        )

    return type(
        kind.__name__, (kind,), {"check_argument_for_proper_class": check, "__module__": kind.__module__}
    )


def load_processor(folder: Path, config: PreTrainedConfig) -> Any:
    """The processor of the model in `folder`, its image processor with Pillow.

    Raises:
        CaptionaryError: the folder has no processor, its image processor exists for torchvision alone, or a
            package is missing that it needs.
    """
    kind = _without_video(_processor_class(folder, config))
    settings, _ = kind.get_processor_dict(folder)
    parts: list[Any] = []
    try:
        for name in kind.get_attributes():
            if "tokenizer" in name:
                parts.append(_tokenizer(folder, name))
            elif name == "image_processor":
                parts.append(_image_processor(folder, config))
            elif name == "video_processor":
                parts.append(_NoVideo())
            else:
                raise bad_value("processor", kind.__name__, "one of pictures and text", where=str(folder))
        return kind.from_args_and_dict(parts, settings)
    except ImportError as error:
        said = " ".join(str(error).split())[:200]
        todo = "pip install 'captionary[hf]'"
        raise bad_value("processor", kind.__name__, "importable", where=said, todo=todo) from None
    except (OSError, TypeError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise bad_value(
            "processor", str(folder), "a whole one, as save_pretrained writes", where=said
        ) from None


def _processor_class(folder: Path, config: PreTrainedConfig) -> Any:
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        if (folder / file).exists():
            name = json.loads((folder / file).read_text(encoding="utf-8")).get("processor_class")
            found = processor_class_from_name(name) if name else None
            if found is not None:
                return found
    if type(config) in PROCESSOR_MAPPING:
        return PROCESSOR_MAPPING[type(config)]
    raise bad_value("model", str(folder), "one with a processor of pictures and text")


def _tokenizer(folder: Path, name: str) -> Any:
    """`tokenizer` lies in the folder itself, any other one in a folder of its name."""
    inner = "" if name == "tokenizer" or not (folder / name).is_dir() else name
    return AutoTokenizer.from_pretrained(folder, subfolder=inner)


def _image_processor(folder: Path, config: PreTrainedConfig) -> Any:
    if config.model_type == "llama4":
        from captionary.understand.llama4_tiles import Llama4ImageProcessorPil

        return Llama4ImageProcessorPil.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")  # type: ignore[no-untyped-call]
    if getattr(processor, "backend", "pil") != "pil":
        name = type(processor).__name__
        raise bad_value("image processor", name, "one that works without torchvision", where=str(folder))
    return processor
