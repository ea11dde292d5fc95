"""`hf:`: any image-text-to-text model of `transformers`, from the Hub or a folder.

    BLIP, BLIP-2                        say what they see, unasked, or go on from a prompt
    InstructBLIP                        is asked a prompt
    LLaVA, Idefics3/SmolVLM, Qwen-VL,
    Llama 4, …                          are asked through their chat template

Decoding is greedy. Prompts of unequal length are padded on the left with their mask; the BLIP family, whose
positions padding would move, is batched by equal length: a caption does not depend on which pictures share the
batch (but for ties that rounding decides, which 16-bit weights have).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from captionary.errors import bad_value
from captionary.understand.captioner import Caption
from captionary.understand.device import choose_device
from captionary.understand.hf_files import hf_fingerprint, hf_prompt, model_folder
from captionary.understand.processors import load_processor
from captionary.understand.prompts import about_picture
from captionary.understand.untrusted import clean

__all__ = ["HfCaptioner"]

_BLIP = ("blip", "blip-2", "instructblip")
"""Their processors place the picture themselves; padding would move their positions; they need a picture."""
_LLAVA = "USER: {image}\n{prompt} ASSISTANT:"
"""How LLaVA 1.5 was trained to be asked, for copies of it without a chat template."""
_SIDE = 768
"""Shorter side in pixels of pictures for models that take any size."""


class HfCaptioner:
    """Pictures in, captions out, by a model of `transformers`; also texts in, texts out where it can.

    Args:
        name: a folder as `save_pretrained` writes, or a Hub id.
        prompt: a prompt's name or path; empty: `caption`, and none for BLIP and BLIP-2.
        batch_size: pictures per forward pass.
        max_new_tokens: at which a caption is cut.
        device: `auto` (CUDA, else Apple's, else the CPU) or a name of torch's.
        dtype: `auto` (float32 on a CPU, the checkpoint's own elsewhere) or a name of torch's.
        threads: CPU threads, 0 for all cores.
        base: where a relative folder or prompt path starts.

    Raises:
        CaptionaryError: no such model, one that `transformers` or its processor cannot read, or no such device.
    """

    def __init__(
        self,
        name: str,
        *,
        prompt: str = "",
        batch_size: int = 8,
        max_new_tokens: int = 32,
        device: str = "auto",
        dtype: str = "auto",
        threads: int = 0,
        base: Path = Path(),
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.name = f"hf:{name}"
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        folder = model_folder(name, base)
        self.prompt = about_picture(hf_prompt(folder, prompt, base))
        self._model = _load_model(folder, device, dtype)
        self.family = str(self._model.config.model_type)
        self._processor = load_processor(folder, self._model.config)
        self._tokenizer = self._processor.tokenizer
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._mend_blip2()
        self._greedy = self._decoding()
        # Set, not passed: BLIP's `generate` passes on settings of its own, and takes one kind or the other.
        for part in ("", "text_decoder", "language_model"):
            owner = getattr(self._model, part, None) if part else self._model
            if owner is not None and getattr(owner, "generation_config", None) is not None:
                owner.generation_config = self._greedy
        self._special = sorted(_special_tokens(self._tokenizer, self._processor), key=len, reverse=True)
        self.image_size = _useful_side(self._processor.image_processor)
        self.fingerprint = hf_fingerprint(name, prompt, max_new_tokens, base)

    def caption(self, images: Sequence[Image], texts: Sequence[str | None] | None = None) -> list[Caption]:
        """One caption per picture, in order; `texts` fill the prompt's {title}, one per picture."""
        titles: Sequence[str | None] = [None] * len(images) if texts is None else texts
        if len(titles) != len(images):
            raise ValueError(f"{len(titles)} texts for {len(images)} pictures")
        asked = [self._asked(title) for title in titles]
        captions: list[Caption | None] = [None] * len(images)
        for rows in self._batches(asked, images):
            said = self._generate([asked[row] for row in rows], [images[row] for row in rows])
            for row, caption in zip(rows, said, strict=True):
                captions[row] = caption
        return [caption for caption in captions if caption is not None]

    def complete(self, texts: Sequence[str]) -> list[str]:
        """What the model writes after each text, no picture given: for profiles of users in words.

        Args:
            texts: whole prompts, e.g. ``prompts.load("user_profile").fill(history=captions)``.

        Raises:
            CaptionaryError: the model needs a picture.
        """
        if self.family in _BLIP:
            raise bad_value("captioner", self.name, "a model that answers without a picture")
        asked = [self._chat([{"type": "text", "text": text}]) or text for text in texts]
        written = [""] * len(asked)
        order = sorted(range(len(asked)), key=lambda row: (len(asked[row]), row))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for row, said in zip(rows, self._generate([asked[row] for row in rows], None), strict=True):
                written[row] = said.text
        return written

    def _asked(self, title: str | None) -> str:
        """The text that goes to the processor, the picture's place in it."""
        text = self.prompt.fill(title=None if title is None else self._disarmed(title))
        if self.family in _BLIP:
            return text
        chat = self._chat([{"type": "image"}, {"type": "text", "text": text}])
        if chat is not None:
            return chat
        image = getattr(self._processor, "image_token", "")
        image = getattr(image, "content", image)
        return _LLAVA.format(image=image, prompt=text) if self.family == "llava" else f"{image}{text}"

    def _chat(self, content: list[dict[str, str]]) -> str | None:
        """The chat template's rendering of one turn of the user's, None where the model has no template."""
        for holder in (self._processor, self._tokenizer):
            template = getattr(holder, "chat_template", None)
            if template:
                turn = [{"role": "user", "content": content}]
                # The tokenizer renders both: a processor would look into the pictures of the turn.
                return str(
                    self._tokenizer.apply_chat_template(
                        turn, chat_template=_one(template), tokenize=False, add_generation_prompt=True
                    )
                )
        return None

    def _disarmed(self, text: str) -> str:
        """A stranger's text without anything that this tokenizer reads as a mark of its own."""
        text, before = clean(text), None
        while text != before:
            before = text
            for token in self._special:
                text = text.replace(token, " ")
            text = clean(text)
        return text

    def _batches(self, asked: Sequence[str], images: Sequence[Image]) -> Iterator[list[int]]:
        """Rows that go through the model together: alike in length, so that little is padded.

        A row's length is that of its text and of what its picture becomes, in tokens; rows of one length are ordered by
        their pictures' sizes, since some models pad these too. BLIP's family takes batches of equal length only.
        """
        texts = {text: len(self._tokenizer(text)["input_ids"]) for text in dict.fromkeys(asked)}
        pictures = self._picture_tokens(images)
        lengths = [texts[text] + tokens for text, tokens in zip(asked, pictures, strict=True)]
        order = sorted(
            range(len(asked)),
            key=lambda row: (lengths[row], images[row].width * images[row].height, images[row].width, row),
        )
        alike = self.family in _BLIP
        start = 0
        while start < len(order):
            end = start + 1
            while end < min(len(order), start + self.batch_size) and not (
                alike and lengths[order[end]] != lengths[order[start]]
            ):
                end += 1
            yield order[start:end]
            start = end

    def _picture_tokens(self, images: Sequence[Image]) -> list[int]:
        """Tokens that the processor makes of each picture; zeros where it cannot tell beforehand, or all are alike."""
        count = getattr(self._processor, "_get_num_multimodal_tokens", None)
        if count is None or self.family in _BLIP:
            return [0] * len(images)
        try:
            return [int(n) for n in count([(image.height, image.width) for image in images]).num_image_tokens]
        except (AttributeError, KeyError, TypeError, ValueError):  # an image processor that cannot
            return [0] * len(images)

    @torch.inference_mode()
    def _generate(self, texts: Sequence[str], images: Sequence[Image] | None) -> list[Caption]:
        bos = self._tokenizer.bos_token
        options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        if bos and all(text.startswith(bos) for text in texts):  # written by the chat template
            options["add_special_tokens"] = False
        if images is None:
            inputs = self._tokenizer(list(texts), **options)
        else:
            # Families that cut pictures into tiles take a list of pictures per text.
            nested = hasattr(self._processor.image_processor, "do_image_splitting")
            pictures = [[image] for image in images] if nested else list(images)
            inputs = self._processor(images=pictures, text=list(texts), **options)
        inputs.pop("token_type_ids", None)
        inputs = inputs.to(self._model.device)
        for key, value in inputs.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                inputs[key] = value.to(self._model.dtype)
        read = inputs["input_ids"].shape[1]
        seen = inputs["attention_mask"].sum(1).tolist()
        written = self._model.generate(**inputs)  # [B, read + new]
        if _is_encoder_decoder(self._model.config):
            read = 1  # the decoder's start token
        elif self.family == "blip":
            read -= 1  # `generate` takes the end token off the prompt
        lines = written[:, read:].tolist()
        ends = self._greedy.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        if self.family == "blip":
            ends.add(self._model.config.text_config.sep_token_id)
        said = self._tokenizer.batch_decode(lines, skip_special_tokens=True)
        return [
            Caption(text.strip(), int(count), _length(line, ends))
            for text, line, count in zip(said, lines, seen, strict=True)
        ]

    def _decoding(self) -> Any:
        """Greedy, whatever the checkpoint recommends, but with its own end and padding tokens."""
        from transformers import GenerationConfig

        own, text = self._model.generation_config, self._model.config.get_text_config()
        language = getattr(self._model, "language_model", None)
        inner = getattr(language, "generation_config", None)

        def first(name: str, last: Any = None) -> Any:
            found = [getattr(place, name, None) for place in (own, inner, text)]
            return next((value for value in found if value is not None), last)

        end = first("eos_token_id", self._tokenizer.eos_token_id)
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            eos_token_id=end,
            pad_token_id=first("pad_token_id", self._tokenizer.pad_token_id),
            bos_token_id=first("bos_token_id", self._tokenizer.bos_token_id),
            decoder_start_token_id=first("decoder_start_token_id"),
        )

    def _mend_blip2(self) -> None:
        """Copies of BLIP-2 from before 2024 do not say where in the text the picture goes; the model knows."""
        if self.family not in ("blip-2", "instructblip"):
            return
        if self._processor.num_query_tokens is None:
            self._processor.num_query_tokens = self._model.config.num_query_tokens
        if self._model.config.image_token_index is None:
            token = self._tokenizer.convert_tokens_to_ids(str(self._processor.image_token))
            self._model.config.image_token_index = token
            if token >= self._model.get_input_embeddings().num_embeddings:
                self._model.resize_token_embeddings(len(self._tokenizer), pad_to_multiple_of=64)


def _load_model(folder: Path, device: str, dtype: str) -> Any:
    from transformers import AutoModelForImageTextToText

    if device == "auto":
        chosen = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    else:
        chosen = str(choose_device(device))
    numbers = dtype if dtype != "auto" else "float32" if chosen == "cpu" else "auto"
    # With accelerate a model is spread over the machine's GPUs where one is too small for it.
    spread = device == "auto" and chosen == "cuda" and importlib.util.find_spec("accelerate") is not None
    try:
        # No code of the repository's is run: trust_remote_code stays off.
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=numbers, **({"device_map": "auto"} if spread else {})
        )
        return (model if spread else model.to(chosen)).eval()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        rule = "an image-text-to-text model of transformers"
        raise bad_value("model", str(folder), rule, where=said) from None


def _one(template: object) -> str:
    """A repository may have several templates by name."""
    return (
        str(template.get("default") or next(iter(template.values())))
        if isinstance(template, dict)
        else str(template)
    )


def _special_tokens(tokenizer: Any, processor: Any) -> set[str]:
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    named = {str(getattr(processor, name, "")) for name in ("image_token", "video_token", "fake_image_token")}
    return {token for token in added | named | set(tokenizer.all_special_tokens) if token.strip()}


def _is_encoder_decoder(config: Any) -> bool:
    return bool(
        getattr(config, "is_encoder_decoder", False)
        or getattr(config.get_text_config(), "is_encoder_decoder", False)
    )


def _useful_side(image_processor: Any) -> int:
    """Pixels of the shorter side that the model has use for, where it takes one size only."""
    size = dict(getattr(image_processor, "size", None) or {})
    if hasattr(image_processor, "max_patches") or hasattr(image_processor, "max_image_size"):
        return _SIDE  # tiles
    if size.get("height") and size.get("width"):
        return int(max(size["height"], size["width"]))
    if size.get("shortest_edge") and not size.get("longest_edge"):
        return int(size["shortest_edge"])
    return _SIDE


def _length(line: Sequence[int], ends: set[int]) -> int:
    """Tokens up to the end token, it included; all where there is none."""
    return next((place + 1 for place, token in enumerate(line) if token in ends), len(line))
