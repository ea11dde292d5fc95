"""A CUDA device that is none: tensors that say they are on one, refuse to meet those of the CPU, and compute there.

What is learnt on it can be compared with what is learnt on the CPU, number by number: of our code every line for
devices other than the CPU is run, and of torch everything but the kernels of CUDA.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


class Pretended(Tensor):
    """A tensor of the device; `held` is where its numbers are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        if held.layout != torch.strided:
            layout = {"layout": held.layout}
        made = Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device="cpu", **layout)
        made.held = held
        return made

    @property
    def device(self):
        return CUDA

    def __repr__(self, **_):
        return f"{self.held!r} on {CUDA}"

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for each in tree_iter((args, kwargs)):
            if not isinstance(each, Tensor) or isinstance(each, cls) or func in COPIES:
                continue
            if not (each.ndim == 0 and torch.Tag.pointwise in func.tags):  # those CUDA takes as numbers
                raise RuntimeError(f"{func}: a tensor of the CPU meets one of {CUDA}")
        held = tree_map(lambda each: each.held if isinstance(each, cls) else each, (args, kwargs))
        found = func(*held[0], **held[1])
        if func._schema.is_mutable:
            return args[0]
        return tree_map(lambda each: cls(each) if isinstance(each, Tensor) else each, found)


class _Words(TorchFunctionMode):
    """Understands ``device="cuda"``, which a torch without CUDA would refuse."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (Tensor.to, Tensor.cpu):
            return _to(func, *args, **kwargs)
        if func is Tensor.backward:
            with self:  # our own backward passes make tensors, too
                ones = (torch.ones_like(args[0]),)
                more = {"allow_unreachable": True, "accumulate_grad": True}
                return _engine_run_backward((args[0],), ones, False, False, (), **more)
        if func is Tensor.pin_memory:
            return args[0]
        if func is Tensor.new_tensor and isinstance(args[0], Pretended):
            return Pretended(args[0].held.new_tensor(*args[1:], **kwargs))
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            return Pretended(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


def _to(func, here, *words, **more):
    """`Tensor.to` and `Tensor.cpu`, by way of a copy where the device changes."""
    said = [each for word in (*words, *more.values()) for each in _meant(word)]
    devices = [each for each in said if isinstance(each, torch.device)]
    dtypes = [each for each in said if isinstance(each, torch.dtype)]
    device = CPU if func is Tensor.cpu else devices[0] if devices else here.device
    with torch._C.DisableTorchFunctionSubclass():
        same = Tensor.to(here, dtypes[0]) if dtypes else here
        if isinstance(same, Pretended) == (device.type == "cuda"):
            return same
        copied = same.held.clone() if isinstance(same, Pretended) else same.detach().clone()
        return Pretended(copied) if device.type == "cuda" else copied


def _meant(word):
    if isinstance(word, Tensor):
        return [word.device, word.dtype]
    return [torch.device(word)] if isinstance(word, str) else [word]


@contextmanager
def pretended(monkeypatch):
    """The device is there inside; batches are made in this thread, since others would not know of it."""
    from captionary.rank import course

    with monkeypatch.context() as patch, _Words():
        patch.setattr(course, "prefetched", lambda source, ahead: source)
        patch.setattr(course, "forked", lambda device: torch.random.fork_rng(devices=[]))
        # a parameter of the CPU cannot become one of this device in place
        patch.setattr(torch, "inference_mode", torch.no_grad)  # of which wrapped tensors know nothing
        patch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
        yield CUDA
