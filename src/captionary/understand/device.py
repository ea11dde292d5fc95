"""Where a captioner computes: a device's name in a config, and what torch makes of it."""

from __future__ import annotations

import torch

from captionary.errors import bad_value

__all__ = ["CPU", "choose_device"]

CPU = torch.device("cpu")
_INSTALL = "see https://pytorch.org/get-started, or device: cpu"


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name.

    Args:
        name: `auto`, the first CUDA device where there is one and else the CPU; or a name of torch's.

    Raises:
        CaptionaryError: torch knows no such name, or has no such device here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else CPU
    try:
        device = torch.device(name)
    except RuntimeError:
        raise bad_value("device", name, "auto, or a name of torch's such as cpu, cuda, cuda:1") from None
    if device.type == "cuda":
        if not count:
            built = torch.version.cuda
            where = (
                f"torch {torch.__version__} sees no CUDA device" if built else "torch is built without CUDA"
            )
            raise bad_value("device", name, "auto or cpu", where=where, todo=_INSTALL)
        if (device.index or 0) >= count:
            known = ", ".join(f"cuda:{number}" for number in range(count))
            raise bad_value("device", name, f"one of auto, cpu, {known}", where=f"torch sees {count}")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise bad_value("device", name, "auto or cpu", where="torch sees no GPU of Apple's", todo=_INSTALL)
    return device
