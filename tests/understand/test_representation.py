"""BLIP-2's first stage: who sees whom, which negatives are drawn, and that it learns."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.understand.tiny_mmllm import CONFIG, WORDS, tiny_tokenizer
from torch import Tensor

from captionary.understand.representation import RepresentationModel, attention_mask, hard_negatives


@pytest.fixture(scope="module")
def model() -> RepresentationModel:
    torch.manual_seed(0)
    built = RepresentationModel(CONFIG, tiny_tokenizer()).eval()
    with torch.no_grad():
        for parameter in built.parameters():  # at the usual small weights nobody would hear anybody
            if parameter.ndim == 2:
                parameter.mul_(5)
    return built


@pytest.fixture(scope="module")
def grid() -> Tensor:
    return torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


def ids(model: RepresentationModel, *lines: str) -> Tensor:
    return model.read([model.tokenizer.encode(line).ids for line in lines], 12)


def differ(a: Tensor, b: Tensor) -> bool:
    return not torch.allclose(a, b, atol=1e-4)


def test_the_three_masks() -> None:
    """Two queries and two words, the second of which is filling."""
    real = torch.tensor([[True, False]])
    seen = {
        kind: attention_mask(kind, real, 2)[0, 0].int().tolist() for kind in ("unimodal", "bidirectional")
    }  # type: ignore[arg-type]
    assert seen["unimodal"] == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    assert seen["bidirectional"] == [[1, 1, 1, 0]] * 4
    causal = attention_mask("causal", torch.tensor([[True, True]]), 2)[0, 0].int().tolist()
    assert causal == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@torch.inference_mode()
def test_unimodal_queries_and_text_do_not_see_each_other(model: RepresentationModel, grid: Tensor) -> None:
    first, other = ids(model, WORDS[0], WORDS[1]), ids(model, WORDS[2], WORDS[3])
    queries, words = model.joint(grid, first, "unimodal")
    torch.testing.assert_close(model.joint(grid, other, "unimodal")[0], queries)
    torch.testing.assert_close(model.joint(grid.flip(0), first, "unimodal")[1], words)
    assert differ(model.joint(grid.flip(0), first, "unimodal")[0], queries)
    assert differ(model.joint(grid, other, "unimodal")[1], words)
    # So pictures and texts may be encoded apart.
    torch.testing.assert_close(model.answers(grid), queries, atol=1e-5, rtol=1e-4)
    apart = torch.nn.functional.normalize(model.text_projection(words[:, 0]), dim=-1)
    torch.testing.assert_close(model.text_features(first), apart, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_bidirectional_queries_and_text_see_each_other(model: RepresentationModel, grid: Tensor) -> None:
    first, other = ids(model, WORDS[0], WORDS[1]), ids(model, WORDS[2], WORDS[3])
    queries, words = model.joint(grid, first, "bidirectional")
    assert differ(model.joint(grid, other, "bidirectional")[0], queries)
    assert differ(model.joint(grid.flip(0), first, "bidirectional")[1], words)


@torch.inference_mode()
def test_telling_sees_pictures_and_the_past_alone(model: RepresentationModel, grid: Tensor) -> None:
    first = ids(model, WORDS[0], WORDS[1])
    changed = first.clone()
    changed[:, 4] = 9
    told, again = model.tell(grid, first), model.tell(grid, changed)
    torch.testing.assert_close(again[:, :4], told[:, :4])
    assert differ(again[:, 4], told[:, 4])
    queries = model.joint(grid, first, "causal")[0]
    torch.testing.assert_close(model.joint(grid, changed, "causal")[0], queries)  # queries do not see text
    assert differ(model.tell(grid.flip(0), first)[:, 0], told[:, 0])


@torch.inference_mode()
def test_filling_changes_nothing(model: RepresentationModel, grid: Tensor) -> None:
    lines = [model.tokenizer.encode(line).ids for line in WORDS[:2]]
    for kind in ("unimodal", "bidirectional", "causal"):
        short, long = (model.joint(grid, model.read(lines, n), kind) for n in (10, 20))  # type: ignore[arg-type]
        torch.testing.assert_close(short[0], long[0])
        torch.testing.assert_close(short[1][:, :3], long[1][:, :3])


def test_hard_negatives_are_hard_and_never_the_positive() -> None:
    torch.manual_seed(0)
    same = torch.eye(5, dtype=torch.bool)
    same[0, 3] = True  # the same words
    logits = torch.zeros(5, 5).masked_fill(same, 50.0)  # the positives are by far the nearest
    logits[1, 4] = 4.0
    drawn = torch.stack([hard_negatives(logits, same) for _ in range(300)])
    assert not same[torch.arange(5).expand(300, 5), drawn].any()
    assert set(drawn[:, 0].tolist()) == {1, 2, 4}
    logits.fill_diagonal_(0)
    often = torch.stack([hard_negatives(logits, same)[1] for _ in range(300)])
    # weights e⁴ : 1 : 1 : 1
    assert (often == 4).float().mean() > 0.9


def test_a_batch_of_the_same_words_has_no_negatives(model: RepresentationModel, grid: Tensor) -> None:
    words = model.tokenizer.encode(WORDS[0]).ids
    losses = model.losses(grid, [words, words])
    assert all(torch.isfinite(value) for value in losses)


def test_a_few_pairs_are_learnt_by_heart() -> None:
    """All three losses fall, and each picture finds its caption and each caption its picture."""
    torch.manual_seed(2)
    model = RepresentationModel(replace(CONFIG, qformer_cross_every=1, qformer_width=64), tiny_tokenizer())
    inner: Any
    for inner in model.modules():
        if isinstance(inner, torch.nn.Dropout):
            inner.p = 0.0
        if hasattr(inner, "attention_dropout"):
            inner.attention_dropout = 0.0
    grid = torch.randn(len(WORDS), 5, 16)
    captions = [model.tokenizer.encode(line).ids for line in WORDS]
    model.encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=3e-3)
    seen: list[list[float]] = []
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 20)
        losses = model.losses(grid, captions)
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        model.clamp()
        seen.append([float(value.detach()) for value in losses])
        if max(each[1] for each in seen[-5:]) < 0.1:
            break
    first, last = seen[0], seen[-1]
    # At first nothing is known: ln 8 of eight pictures, the entropy of (1/3, 2/3) or more, ln 143 of the words.
    assert first[0] > 2.0
    assert first[1] > 0.6
    assert first[2] > 4.5
    assert last[0] < 0.9
    assert last[1] < 0.1
    assert last[2] < 1.5
    model.eval()
    with torch.inference_mode():
        image, text = model.image_features(grid), model.text_features(model.read(captions))
    nearest = torch.einsum("bqf,nf->bnq", image, text).amax(-1)
    assert nearest.argmax(1).tolist() == nearest.argmax(0).tolist() == list(range(len(WORDS)))
