"""Decoding in operations of torch alone says what the CPU's compiled loops and `generate` of transformers say."""

from collections import Counter
from typing import Any

import pytest
import torch
from tests.rank.pretend_cuda import CUDA, Pretended, pretended
from transformers import LlamaConfig, LlamaForCausalLM

from captionary.errors import CaptionaryError
from captionary.understand.decoding import GreedyDecoder
from captionary.understand.device_decoding import DeviceDecoder

ROWS, PROMPT = 24, [1, 9]
SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.3,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def llama(**other: Any) -> LlamaForCausalLM:
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**(SIZES | other))).eval()


def prefix(queries: int = 5) -> torch.Tensor:
    return torch.randn(ROWS, queries, 32, generator=torch.Generator().manual_seed(7))


def common_end(model: LlamaForCausalLM) -> int:
    """A token that many rows say, early or late: what makes rows end one after another."""
    lines = GreedyDecoder(model).decode(prefix(), PROMPT, -1, 16)
    said = Counter(token for line in lines for token in set(line[1:]))
    return next(token for token, rows in said.most_common() if rows < ROWS)


MODELS = pytest.mark.parametrize(
    "other",
    [{}, {"num_key_value_heads": 2}, {"num_key_value_heads": 1, "head_dim": 16}, {"tie_word_embeddings": True},
     {"num_hidden_layers": 1}],
    ids=str,
)  # fmt: skip


@MODELS
def test_it_says_what_the_others_say(other: dict[str, Any]) -> None:
    model = llama(**other)
    end = common_end(model)
    words = model.get_input_embeddings()(torch.tensor(PROMPT)).expand(ROWS, -1, -1)
    with torch.inference_mode():
        told = model.generate(
            inputs_embeds=torch.cat([prefix(), words], 1),
            do_sample=False,
            max_new_tokens=16,
            eos_token_id=end,
        )
    expected = [row[: row.index(end)] if end in row else row for row in told.tolist()]
    decoder = DeviceDecoder(model, torch.float32)
    rows_of_step: list[int] = []
    advance = decoder._advance
    decoder._advance = lambda x, *more: rows_of_step.append(len(x)) or advance(x, *more)  # type: ignore[method-assign,func-returns-value]
    assert decoder.decode(prefix(), PROMPT, end, 16) == expected
    assert GreedyDecoder(model).decode(prefix(), PROMPT, end, 16) == expected
    assert len({len(line) for line in expected}) > 2
    assert rows_of_step[0] == ROWS > rows_of_step[-1], "rows that ended were not dropped"


def test_all_rows_ending_ends_the_loop() -> None:
    model = llama()
    decoder = DeviceDecoder(model, torch.float32)
    first = GreedyDecoder(model).decode(prefix()[:1], PROMPT, -1, 1)[0][0]
    steps: list[int] = []
    advance = decoder._advance
    decoder._advance = lambda *given: steps.append(1) or advance(*given)  # type: ignore[method-assign,func-returns-value]
    assert decoder.decode(prefix()[:1], PROMPT, first, 40) == [[]]
    assert len(steps) <= 4  # it looks after every fourth token


@pytest.mark.parametrize("prompt", [[], [1], [1, 9, 5]], ids=len)
@pytest.mark.parametrize("queries", [1, 5])
def test_prompts_of_any_length(prompt: list[int], queries: int) -> None:
    """One of no tokens too, and a picture that is a single query."""
    model = llama()
    expected = GreedyDecoder(model).decode(prefix(queries), prompt, 2, 6)
    assert DeviceDecoder(model, torch.float32).decode(prefix(queries), prompt, 2, 6) == expected


def test_it_stops_at_the_last_position() -> None:
    """64 positions, 7 of them taken by queries and prompt."""
    model = llama()
    lines = DeviceDecoder(model, torch.float32).decode(prefix(), PROMPT, -1, 1000)
    assert {len(line) for line in lines} == {57}
    assert lines == GreedyDecoder(model).decode(prefix(), PROMPT, -1, 1000)


def test_draws_are_those_of_the_generator() -> None:
    model = llama()
    drawn = [
        kind(model, torch.float32).decode(
            prefix(), PROMPT, -1, 8, temperature=1.0, generator=torch.Generator().manual_seed(5)
        )
        for kind in (DeviceDecoder, GreedyDecoder)
    ]
    assert drawn[0] == drawn[1] != GreedyDecoder(model).decode(prefix(), PROMPT, -1, 8)


def test_bfloat16_parts_from_the_cpus_at_ties_only() -> None:
    """Logits of the first token, of which both round alike: apart by little beside what they range over."""
    model = llama()
    device = DeviceDecoder(model, torch.bfloat16)
    x = prefix().repeat(1, 2, 1)
    cache = torch.zeros(3, 2, ROWS, 4, 12, 8, dtype=torch.bfloat16)
    with torch.inference_mode():
        told = device._advance(x.clone(), cache, 0).float()
        expected = GreedyDecoder(model, torch.bfloat16)._advance(x.clone(), cache.clone(), 0).float()
    assert float((told - expected).abs().mean()) < 0.02 * float(expected.std())


def test_no_tensor_of_the_cpu_is_mixed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama(num_key_value_heads=2)
    end = common_end(model)
    expected = GreedyDecoder(model).decode(prefix(), PROMPT, end, 16)
    with pretended(monkeypatch) as device:
        decoder = DeviceDecoder(model, torch.float32, device)
        assert all(isinstance(tensor, Pretended) for layer in decoder.layers for tensor in layer)
        assert decoder.embedding.device == decoder.head.device == decoder.cosine.device == CUDA
        assert decoder.decode(prefix().to(device), PROMPT, end, 16) == expected
        with pytest.raises(RuntimeError, match="a tensor of the CPU meets one of cuda:0"):
            decoder.decode(prefix(), PROMPT, end, 16)


@pytest.mark.parametrize(
    "other", [{"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"}], ids=str
)
def test_what_it_would_leave_out_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(CaptionaryError, match=next(iter(other))):
        DeviceDecoder(llama(**other))
