import pytest
import torch

from captionary.errors import CaptionaryError
from captionary.understand.device import CPU, choose_device


@pytest.fixture
def cards(monkeypatch):
    """Says how many CUDA devices torch sees."""

    def see(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return see


def test_auto_is_the_first_card_where_there_is_one(cards):
    cards(0)
    assert choose_device() == CPU
    cards(2)
    assert choose_device() == choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize(
    ("count", "name", "message"),
    [
        (0, "cuda", "device == cuda, must be auto or cpu; torch .*; see https"),
        (2, "cuda:2", "device == cuda:2, must be one of auto, cpu, cuda:0, cuda:1; torch sees 2"),
        (2, "gpu", "device == gpu, must be auto, or a name of torch's"),
    ],
)
def test_what_torch_lacks_is_refused(cards, count, name, message):
    cards(count)
    with pytest.raises(CaptionaryError, match=message):
        choose_device(name)


def test_every_captioner_that_computes_here_asks(cards, tmp_path):
    from captionary.understand.builtin import BuiltinCaptioner
    from captionary.understand.hf import _load_model

    cards(0)
    with pytest.raises(CaptionaryError, match="device == cuda"):
        BuiltinCaptioner(device="cuda")
    with pytest.raises(CaptionaryError, match="device == cuda:1"):
        _load_model(tmp_path, "cuda:1", "auto")
