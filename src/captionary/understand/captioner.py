"""What a captioner is: anything that turns pictures into captions and can name exactly what it is.

    Captioner            caption(images) -> captions
    EmbeddingCaptioner   the same, and one visual vector per picture from the same encoder pass
    PromptedCaptioner    caption(images, texts), and complete(texts) -> texts
    ImportedCaptions     captions made elsewhere, looked up by item: no picture is opened

`load_captioner` builds any of them from a `CaptionerConfig`, `fingerprint_of` names what it would build.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from captionary.errors import CaptionaryError, bad_value, nearest
from captionary.understand.endpoint import EndpointConfig, parse_endpoint
from captionary.understand.imported import ImportedCaptions
from captionary.understand.media import MediaError, MediaLimits, digest

__all__ = [
    "Caption",
    "Captioner",
    "CaptionerConfig",
    "EmbeddingCaptioner",
    "ImportedCaptions",
    "NoCaptioner",
    "PromptedCaptioner",
    "StoppedError",
    "embeds",
    "fingerprint_of",
    "load_captioner",
    "prompted",
]

SOURCES = {
    "builtin": "builtin, or builtin:FOLDER that `captionary captioner train` or `adapt` wrote",
    "hf": "hf:ID, a model of the Hugging Face Hub, or hf:FOLDER",
    "openai": "openai:URL#model, such as openai:http://localhost:8000/v1#Qwen/Qwen2.5-VL-7B-Instruct",
    "import": "import:FILE of captions, .csv, .parquet or .jsonl",
}
"""Kinds of captioners, and how one is named."""
_CHECKPOINT_FILES = ("config.json", "model.safetensors", "tokenizer.json")


class Caption(NamedTuple):
    """What a captioner says about one picture."""

    text: str
    """As the model gave it; normalising is a later stage's work. Empty means that it had nothing to say."""
    prompt_tokens: int = 0
    """Tokens that the language model read: the queries of the picture and the prompt."""
    output_tokens: int = 0
    """Tokens that it wrote, the end token included where it came to one."""


class Captioner(Protocol):
    """Pictures in, captions out.

    A captioner may also have an attribute `image_size: int`: the pixels of the shorter side that it has use
    for. Pictures then arrive shrunk to it, which saves decoding time and memory.
    """

    @property
    def name(self) -> str:
        """For people: `builtin`, a Hub id, …"""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever a caption could: weights, prompt, decoding, preprocessing. Key of the store."""
        ...

    def caption(self, images: Sequence[Image]) -> list[Caption]:
        """One caption per picture, in order; it must not depend on which pictures share the batch.

        Args:
            images: upright RGB pictures of any size.

        Raises:
            Exception: any; the caption stage then retries picture by picture and gives up on the culprit.
        """
        ...


class EmbeddingCaptioner(Captioner, Protocol):
    """A captioner whose encoder pass also gives a pooled visual vector."""

    @property
    def encoder_fingerprint(self) -> str:
        """Changes whenever a vector could: encoder weights, pooling, preprocessing."""
        ...

    @property
    def vector_size(self) -> int:
        """D; 0 where there are no vectors after all."""
        ...

    def caption_and_embed(self, images: Sequence[Image]) -> tuple[list[Caption], npt.NDArray[np.float32]]:
        """`caption`, and vectors float32 [B, D], finite and within ±65,504 (they are stored as float16)."""
        ...


class PromptedCaptioner(Captioner, Protocol):
    """A captioner that is asked in words (`hf:`, `openai:`)."""

    def caption(self, images: Sequence[Image], texts: Sequence[str | None] | None = None) -> list[Caption]:
        """As `Captioner.caption`; `texts`, one per picture or None, fill the {title} of its prompt.

        The caption stage asks without texts: its store knows a caption by picture and fingerprint alone. Who
        gives texts keeps the captions under a key that has them too.
        """
        ...

    def complete(self, texts: Sequence[str]) -> list[str]:
        """What the model writes after each text, no picture given: for profiles of users in words.

        Raises:
            CaptionaryError: the model cannot answer without a picture.
        """
        ...


class StoppedError(CaptionaryError):
    """The captioner cannot go on, and not for a picture's sake: a cap is reached, a key is refused.

    Every further call raises it too, at no cost.

    Attributes:
        answered: the captions that were got in this call all the same, None for the others.
    """

    def __init__(self, message: str, answered: Sequence[Caption | None] = ()) -> None:
        super().__init__(message)
        self.answered = list(answered)


def prompted(captioner: Captioner) -> TypeGuard[PromptedCaptioner]:
    """Whether the captioner takes texts beside pictures, and texts alone."""
    return callable(getattr(captioner, "complete", None))


def embeds(captioner: Captioner) -> TypeGuard[EmbeddingCaptioner]:
    """Whether the captioner gives visual vectors too."""
    return int(getattr(captioner, "vector_size", 0)) > 0


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """Which captioner to run and how."""

    source: str = "builtin"
    """`builtin`, `builtin:FOLDER` (a checkpoint), `hf:ID` or `hf:FOLDER` (a model of transformers), `openai:URL#model` (a server), or `import:FILE` (captions by item_id or media)."""  # noqa: E501
    prompt: str = ""
    """hf, openai: a shipped prompt's name or a file's path; empty: `caption`, and none for BLIP and BLIP-2. Part of the fingerprint."""  # noqa: E501
    batch_size: int = 0
    """Pictures per call; 0 for 64 with `builtin`, 32 with others."""
    max_new_tokens: int = 32
    """Longest caption in tokens, ≥ 1. Part of the captioner's fingerprint."""
    threads: int = 0
    """CPU threads of the model, 0 for all cores."""
    device: str = "auto"
    """builtin, hf: `auto` (CUDA, else, for hf, Apple's, else the CPU), or a name of torch's such as `cpu` or `cuda:1`."""  # noqa: E501
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """hf: numbers of the weights; `auto`: float32 on a CPU, the checkpoint's own elsewhere."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    """openai: how the server is called and what it may cost."""

    def __post_init__(self) -> None:
        if self.kind not in SOURCES or not (self.rest or self.source == "builtin"):
            known = self.kind in SOURCES
            rule = (
                SOURCES[self.kind]
                if known
                else f"{nearest(self.kind, SOURCES)}: {'; '.join(SOURCES.values())}"
            )
            raise bad_value("source", self.kind if "@" in self.rest else self.source, rule)
        if self.kind == "openai":
            parse_endpoint(self.rest)
        elif self.endpoint != EndpointConfig():
            raise bad_value(
                "endpoint", "(given)", "left out", where=f"source is {self.kind}, no openai:URL#model"
            )
        if self.prompt and self.kind in ("builtin", "import"):
            raise bad_value(
                "prompt", self.prompt, "left out", where=f"{self.kind} captions are not asked for in words"
            )
        if self.device != "auto" and self.kind in ("openai", "import"):
            where = f"{self.kind} captions are not made on this machine"
            raise bad_value("device", self.device, "left out", where=where)
        if self.kind == "builtin" and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise bad_value("device", self.device, "auto, cpu, cuda or cuda:NUMBER")
        if self.dtype != "auto" and self.kind != "hf":
            raise bad_value("dtype", self.dtype, "left out", where=f"source is {self.kind}, not hf:ID")
        for name, least in (("batch_size", 0), ("max_new_tokens", 1), ("threads", 0)):
            if getattr(self, name) < least:
                raise bad_value(name, getattr(self, name), f">= {least}")

    @property
    def pictures(self) -> int:
        """Per call, ≥ 1."""
        return self.batch_size or (64 if self.kind == "builtin" else 32)

    @property
    def kind(self) -> str:
        """`builtin`, `hf`, `openai` or `import`."""
        return self.source.partition(":")[0]

    @property
    def rest(self) -> str:
        """What follows the kind: a folder, an id, an address or a file; empty for the shipped captioner."""
        return self.source.partition(":")[2]


def fingerprint_of(config: CaptionerConfig, base: Path = Path()) -> str:
    """Names what `config` would build, without loading it: the files or server that it reads, how it decodes.

    Raises:
        CaptionaryError: a file that it reads is missing.
    """
    kind, rest = config.kind, config.rest
    if kind == "hf":
        from captionary.understand.hf_files import hf_fingerprint

        return hf_fingerprint(rest, config.prompt, config.max_new_tokens, base)
    if kind == "openai":
        from captionary.understand.openai import endpoint_fingerprint

        return endpoint_fingerprint(rest, config.prompt, config.max_new_tokens, config.endpoint, base)
    folder = _checkpoint(rest, base) if kind == "builtin" else base
    paths = [base / rest] if kind == "import" else sorted(path for path in folder.glob("*") if path.is_file())
    try:
        read = [digest(path, MediaLimits(max_bytes=1 << 62)) for path in paths]
    except MediaError as error:
        rule = "a readable file"
        raise bad_value(kind, rest or str(folder), rule, where=error.detail or error.reason) from None
    return "-".join([kind, str(config.max_new_tokens), *read])


def _checkpoint(name: str, base: Path) -> Path:
    """The folder of a checkpoint; the shipped one where there is no name."""
    if not name:
        return Path(__file__).parent / "checkpoints" / "builtin"
    folder = base / Path(name).expanduser()
    for file in _CHECKPOINT_FILES:
        if not (folder / file).is_file():
            rule = "a folder with " + ", ".join(_CHECKPOINT_FILES)
            todo = "name the folder `checkpoint` below the one that `captionary captioner train` wrote to"
            raise bad_value("builtin", name, rule, where=f"{folder / file}: missing", todo=todo)
    return folder


class NoCaptioner:
    """For a data set without media: names itself, and is never asked for a caption."""

    name = "none"
    fingerprint = "none"

    def caption(self, images: Sequence[Image]) -> list[Caption]:
        """Nothing is known of any picture."""
        return [Caption("") for _ in images]


def load_captioner(config: CaptionerConfig, base: Path = Path()) -> Captioner | ImportedCaptions:
    """Build the captioner that `config` names; relative folders and files are looked up in `base`.

    Raises:
        CaptionaryError: what it names is missing, unreadable or ambiguous, or needs a package or key that is.
    """
    rest = config.rest
    if config.kind == "import":
        return ImportedCaptions(base / rest)
    # Each imported here: torch, transformers and aiohttp take seconds.
    if config.kind == "hf":
        from captionary.understand.hf import HfCaptioner

        return HfCaptioner(
            rest,
            prompt=config.prompt,
            batch_size=config.pictures,
            max_new_tokens=config.max_new_tokens,
            device=config.device,
            dtype=config.dtype,
            threads=config.threads,
            base=base,
        )
    if config.kind == "openai":
        from captionary.understand.openai import EndpointCaptioner

        return EndpointCaptioner(
            rest,
            prompt=config.prompt,
            max_new_tokens=config.max_new_tokens,
            config=config.endpoint,
            base=base,
        )
    from captionary.understand.builtin import BuiltinCaptioner

    chosen = {"checkpoint": _checkpoint(rest, base)} if rest else {}
    return BuiltinCaptioner(
        batch_size=config.pictures,
        max_new_tokens=config.max_new_tokens,
        threads=config.threads,
        device=config.device,
        **chosen,
    )
