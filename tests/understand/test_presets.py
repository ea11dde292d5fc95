from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.understand.tiny_mmllm import CONFIG, WORDS, clip_folder, llama_folder, tiny_tokenizer
from transformers import LlamaForCausalLM

from captionary.errors import CaptionaryError
from captionary.understand.decoding import GreedyDecoder
from captionary.understand.llama import llama_from_folder
from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.presets import PRESETS, generative_model, preset, representation_model
from captionary.understand.representation import RepresentationModel

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8))


def count(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e9


def test_the_preset_of_the_paper_has_its_sizes() -> None:
    with torch.device("meta"):
        model = MultimodalLLM(preset("llama2-1.5b"), tiny_tokenizer())
    assert 1.45 <= count(model.decoder) <= 1.55
    assert 0.29 <= count(model.encoder) <= 0.31  # a ViT-L/14 has 0.304
    assert model.decoder.config.vocab_size == 32_000
    assert model.decoder.lm_head.weight is not model.decoder.get_input_embeddings().weight
    assert model.query.shape == (1, 32, 768)
    assert [hasattr(layer, "crossattention") for layer in model.qformer.encoder.layer] == [True, False] * 6
    assert model.encoder.cells == 1 + (224 // 14) ** 2
    with torch.device("meta"):
        grid = model.encoder(torch.zeros(1, 3, 224, 224))
        assert model.visual_prefix(grid).shape == (1, 32, 2048)


def test_presets_are_found_by_name() -> None:
    assert PRESETS["builtin"].encoder == "efficientnet-lite0"
    with pytest.raises(CaptionaryError, match=r"llama2-1\.5b \(did you mean that\?\)"):
        preset("llama2-1.5B")


def test_a_captioner_from_hugging_face_folders(tmp_path: Path) -> None:
    """CLIP's states and LLaMA's weights are those of the folders; it captions, is saved and loaded."""
    clip, llama = clip_folder(tmp_path / "clip"), llama_folder(tmp_path / "llama")
    model = generative_model(CONFIG, None, encoder=clip, decoder=llama).eval()
    loaded = LlamaForCausalLM.from_pretrained(llama)
    torch.testing.assert_close(model.decoder.state_dict(), loaded.state_dict())
    assert (model.config.vocabulary_size, model.config.decoder_kv_heads, model.config.decoder_tied) == (
        150,
        2,
        False,
    )
    assert model.prompt_ids == [1]
    said = model.describe([PICTURE, PICTURE.rotate(90)], 6)
    with torch.inference_mode():
        prefix = model.visual_prefix(model.encoder(model.encoder.to_pixels([PICTURE])))
    fast = GreedyDecoder(model.decoder).decode(prefix, model.prompt_ids, model.end_id, 6)
    assert model.tokenizer.decode(fast[0]).strip() == said[0]
    model.save(tmp_path / "saved", "card")
    again = MultimodalLLM.load(tmp_path / "saved", torch.bfloat16)
    assert again.config == model.config
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert len(again.describe([PICTURE], 3)) == 1


def test_special_tokens_are_the_decoders_own(tmp_path: Path) -> None:
    """A LLaMA-3-like folder: begin at 140, two ends, no padding, grouped heads, tied."""
    folder = llama_folder(tmp_path, bos_token_id=140, eos_token_id=[141, 142], tie_word_embeddings=True)
    found = llama_from_folder(folder)
    assert [found.settings[f"{name}_id"] for name in ("bos", "eos", "pad")] == [140, 141, 141]
    model = generative_model(CONFIG, None, encoder=clip_folder(tmp_path / "clip"), decoder=folder)
    assert model.prompt_ids == [140]
    grid = torch.randn(1, 5, 16)
    with torch.inference_mode():  # of an empty caption, the end alone is told
        opened = model.decoder.get_input_embeddings()(torch.tensor([[140]]))
        logits = model.decoder(inputs_embeds=torch.cat([model.eval().visual_prefix(grid), opened], 1)).logits
        told = float(model.loss(grid, [[[]]]))
    assert told == pytest.approx(-float(logits[0, -1].log_softmax(-1)[141]), rel=1e-4)
    model.save(tmp_path / "saved", "")
    assert MultimodalLLM.load(tmp_path / "saved").prompt_ids == [140]


def test_the_second_stage_takes_over_encoder_and_qformer(tmp_path: Path) -> None:
    first = representation_model(CONFIG, tiny_tokenizer(), encoder=clip_folder(tmp_path / "clip")).eval()
    first.save(tmp_path / "first", "")
    first = RepresentationModel.load(tmp_path / "first")
    second = generative_model(
        CONFIG, None, start=tmp_path / "first", decoder=llama_folder(tmp_path / "llama")
    )
    grid = torch.randn(2, 5, 16)
    with torch.inference_mode():
        torch.testing.assert_close(second.eval().answers(grid), first.answers(grid))
    new = generative_model(CONFIG, None, start=tmp_path / "first")
    assert new.tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    new.save(tmp_path / "second", "")
    on = generative_model(CONFIG, None, start=tmp_path / "second")
    with torch.inference_mode():
        torch.testing.assert_close(on.answers(grid), first.answers(grid))


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match="nothing would train a new one"):
        representation_model(CONFIG, tiny_tokenizer())
    with pytest.raises(CaptionaryError, match="vocabulary_size == 20"):
        RepresentationModel(replace(CONFIG, vocabulary_size=20), tiny_tokenizer())
    clip = clip_folder(tmp_path / "clip")
    with pytest.raises(CaptionaryError, match="of model_type llama"):
        generative_model(CONFIG, None, encoder=clip, decoder=clip)
    with pytest.raises(CaptionaryError, match="tokenizer == None"):
        generative_model(CONFIG, None, encoder=clip)
    with pytest.raises(CaptionaryError, match=r"must be a Hugging Face folder with config\.json"):
        generative_model(CONFIG, None, encoder=clip, decoder=tmp_path)
    with pytest.raises(CaptionaryError, match="must be a folder saved by Captionary"):
        generative_model(CONFIG, None, start=clip)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decoder_kv_heads", 3),
        ("vision", None),
        ("eos_id", 5000),
        ("text_length", 2),
        ("qformer_cross_every", 0),
    ],
)
def test_sizes_refuse(name: str, value: object) -> None:
    with pytest.raises(CaptionaryError, match=name):
        replace(CONFIG, **{name: value})  # type: ignore[arg-type]


def test_words_of_the_tiny_tokenizer_come_back() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(tokenizer.encode(WORDS[0]).ids) == WORDS[0]
