import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from captionary.errors import CaptionaryError
from captionary.understand.decoding import GreedyDecoder
from captionary.understand.mmllm import BOS, EOS, MultimodalConfig, MultimodalLLM, _pack
from captionary.understand.train import train_tokenizer

WORDS = ["a dog on a sofa", "two cats under a tree", "a red car in a city at night"] * 4
TINY = MultimodalConfig(
    vocabulary_size=80, queries=4, qformer_width=16, qformer_layers=1, qformer_heads=2,
    decoder_width=16, decoder_layers=2, decoder_heads=2, decoder_mlp=24, max_length=40,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(WORDS, 80)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> MultimodalLLM:
    torch.manual_seed(0)
    return MultimodalLLM(TINY, tokenizer).eval()


def test_captions_of_one_picture_do_not_see_each_other(model: MultimodalLLM, tokenizer: Tokenizer) -> None:
    """The packed loss equals the mean of the captions' losses taken one at a time."""
    grid = torch.randn(2, 49, 1728)
    groups = [[tokenizer.encode(line).ids for line in WORDS[:2]], [tokenizer.encode(WORDS[2]).ids]]
    with torch.inference_mode():
        packed = model.loss(grid, groups)
        total, count = 0.0, 0
        for row, group in enumerate(groups):
            for line in group:
                told = len(line) + 1  # the end token is told too
                total += float(model.loss(grid[row : row + 1], [[line]])) * told
                count += told
    assert float(packed) == pytest.approx(total / count, rel=1e-4)


def test_weights_apply_to_each_captions_own_tokens(model: MultimodalLLM, tokenizer: Tokenizer) -> None:
    """Weights (2, -1) of two captions: two times the loss of the first less that of the second, by their tokens."""
    first, second = (tokenizer.encode(line).ids for line in WORDS[:2])
    grid = torch.randn(1, 49, 1728)
    with torch.inference_mode():
        both = model.loss(grid, [[first, second]], weights=torch.tensor([[2.0, -1.0]]))
        alone = [float(model.loss(grid, [[line]])) for line in (first, second)]
    n, m = len(first) + 1, len(second) + 1
    assert float(both) == pytest.approx((2 * alone[0] * n - alone[1] * m) / (n + m), abs=1e-5)
    each = torch.zeros(1, 2, max(n, m))
    each[0, 1, :m] = 1.0  # every token of the second, none of the first
    with torch.inference_mode():
        second_only = model.loss(grid, [[first, second]], weights=each)
    assert float(second_only) == pytest.approx(alone[1] * m / (n + m), abs=1e-5)


def test_packing_restarts_positions_and_tells_the_next_token() -> None:
    ids, targets, owner, positions, mask = _pack([[[7, 8], [9]]], [BOS], 2, torch.device("cpu"))
    assert ids.tolist() == [[BOS, 7, 8, EOS, BOS, 9, EOS]]
    assert targets.tolist() == [[7, 8, EOS, -1, 9, EOS, -1]]
    assert owner.tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    assert positions.tolist() == [[0, 1, 2, 3, 4, 5, 2, 3, 4]]
    sees = mask[0, 0] == 0
    assert sees[6].tolist() == [True, True, False, False, False, False, True, False, False]


def test_decoding_equals_transformers_generate() -> None:
    """Grouped key-value heads and untied head included, with prompts of queries and words."""
    torch.manual_seed(1)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.3,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).eval()
    prefix, prompt = torch.randn(6, 5, 32), [BOS, 9]
    words = llama.get_input_embeddings()(torch.tensor(prompt)).expand(6, -1, -1)
    with torch.inference_mode():
        expected = llama.generate(
            inputs_embeds=torch.cat([prefix, words], 1), do_sample=False, max_new_tokens=12, use_cache=True
        )
    got = GreedyDecoder(llama).decode(prefix, prompt, EOS, 12)
    for row, line in zip(expected.tolist(), got, strict=True):
        assert line == (row[: row.index(EOS)] if EOS in row else row)
    assert len({len(line) for line in got}) > 1 or all(len(line) == 12 for line in got)


@pytest.mark.parametrize(
    "other", [{"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"}], ids=str
)
def test_what_the_fast_decoder_would_leave_out_is_refused(other: dict[str, Any]) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, **other))
    with pytest.raises(CaptionaryError, match=next(iter(other))):
        GreedyDecoder(llama)


def test_a_decoder_without_room_for_a_caption_is_refused(tokenizer: Tokenizer) -> None:
    """4 queries and the token that opens a caption take five positions; a prompt takes more."""
    with pytest.raises(CaptionaryError, match="max_length == 5, must be >= 6: 4 queries"):
        replace(TINY, max_length=5)
    MultimodalLLM(replace(TINY, max_length=6), tokenizer)
    words = len(tokenizer.encode("a dog").ids)
    with pytest.raises(
        CaptionaryError, match=rf"max_length == {5 + words}, must be > {5 + words}: 4 queries"
    ):
        MultimodalLLM(replace(TINY, max_length=5 + words, prompt="a dog"), tokenizer)
    MultimodalLLM(replace(TINY, max_length=6 + words, prompt="a dog"), tokenizer)


def test_a_caption_does_not_depend_on_its_batch(model: MultimodalLLM) -> None:
    grid = torch.randn(8, 49, 1728)
    decoder = GreedyDecoder(model.decoder)
    with torch.inference_mode():
        prefix = model.visual_prefix(grid)
    together = decoder.decode(prefix, model.prompt_ids, EOS, 10)
    alone = [decoder.decode(prefix[row : row + 1], model.prompt_ids, EOS, 10)[0] for row in range(8)]
    assert together == alone


def test_decoding_stops_at_the_longest_caption_and_the_last_position(model: MultimodalLLM) -> None:
    decoder = GreedyDecoder(model.decoder)
    prefix = torch.randn(3, 4, 16)
    assert all(len(line) <= 3 for line in decoder.decode(prefix, [BOS], EOS, 3))
    # 40 positions, 5 of them taken by queries and prompt
    assert all(len(line) == 35 for line in decoder.decode(prefix, [BOS], -1, 1000))


def test_saving_and_loading_gives_the_same_captioner(model: MultimodalLLM, tmp_path: Path) -> None:
    model.save(tmp_path, "card", {"scores": 1})
    loaded = MultimodalLLM.load(tmp_path)
    assert loaded.config == model.config
    grid = torch.randn(1, 49, 1728)
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded.visual_prefix(grid), model.visual_prefix(grid), atol=2e-2, rtol=2e-2
        )
    assert loaded.decoder.lm_head.weight is loaded.decoder.get_input_embeddings().weight
    assert (tmp_path / "MODEL_CARD.md").read_text() == "card"


def test_a_damaged_checkpoint_is_a_clear_error(model: MultimodalLLM, tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match="must be a folder saved by Captionary"):
        MultimodalLLM.load(tmp_path)
    model.save(tmp_path, "")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"qformer_layers": 2}))
    with pytest.raises(CaptionaryError, match="must be those of config"):
        MultimodalLLM.load(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CaptionaryError, match="must be a folder saved by Captionary"):
        MultimodalLLM.load(tmp_path)
