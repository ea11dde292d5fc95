"""The engines that `benchmarks/serving.py` compares: each takes the item rows and the request's state, gives logits.

eager   torch, as `ServingRanker` runs where numba's cannot: the ranker's own layers behind the folded first one
aoti    the same module by torch.export and AOTInductor, compiled for this machine (needs a C++ compiler)
onnx    the same module by torch.onnx.export(dynamo=True), run by ONNX Runtime
numpy   written out in numpy: one shared bottom only
numba   what `ServingRanker` runs where it can: `captionary.rank.folded_scorer`
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from captionary.rank.folded_scorer import FoldedScorer
from captionary.rank.folding import RequestState, Served

__all__ = ["ENGINES", "Engine"]

Floats = npt.NDArray[np.float32]
Engine = Callable[[Tensor, RequestState], object]


class Core(nn.Module):
    """`Served.forward` as a function of plain tensors, for exporters."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served, self.vectors, self.hidden = served.behind, served.vectors, served.hidden

    def forward(self, rows: Tensor, matrix: Tensor, start: Tensor, bias: Tensor) -> Tensor:
        """[C, R], [I D, H], [H], [T] → [C, T]."""
        first = rows[:, : self.vectors] @ matrix + rows[:, self.vectors : self.vectors + self.hidden] + start
        logits: Tensor = self.served(first)
        return logits + rows[:, self.vectors + self.hidden :] + bias


def eager(served: Served, _rows: Tensor, _state: RequestState) -> Engine:
    """`Served` itself."""
    return torch.inference_mode()(lambda rows, state: served(rows, state))


def aoti(served: Served, rows: Tensor, state: RequestState) -> Engine:
    """torch.export, then AOTInductor."""
    package = torch._inductor.aoti_compile_and_package(
        _exported(served, rows, state), package_path=str(Path(tempfile.mkdtemp()) / "core.pt2")
    )
    run = torch._inductor.aoti_load_package(package)
    return lambda rows, state: run(rows, state.matrix, state.start, state.bias)


def onnx(served: Served, rows: Tensor, state: RequestState) -> Engine:
    """torch.onnx.export(dynamo=True), then ONNX Runtime on one thread."""
    import onnxruntime

    path = Path(tempfile.mkdtemp()) / "core.onnx"
    torch.onnx.export(_exported(served, rows, state), dynamo=True, verbose=False).save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(rows: Tensor, state: RequestState) -> object:
        given = (rows, state.matrix, state.start, state.bias)
        return session.run(None, {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)})[0]

    return run


def numpy_(served: Served, _rows: Tensor, _state: RequestState) -> Engine:
    """Matrix products of numpy's BLAS."""
    ranker, vectors, hidden = served.ranker, served.vectors, served.hidden
    deeper = [(layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy()) for layer in ranker.top]
    deeper.append((ranker.tower_in.detach().numpy(), ranker.tower_in_bias.detach().numpy()))
    out, out_bias = _outs(served)

    def run(rows: Tensor, state: RequestState) -> object:
        given = rows.numpy()
        found = given[:, :vectors] @ state.matrix.numpy()
        found += given[:, vectors : vectors + hidden]
        found += state.start.numpy()
        for weight, bias in deeper:
            np.maximum(found, 0, out=found)
            found = found @ weight
            found += bias
        np.maximum(found, 0, out=found)
        found = found @ out
        found += given[:, vectors + hidden :]
        found += out_bias + state.bias.numpy()
        return found

    return run


def numba_(served: Served, rows: Tensor, _state: RequestState) -> Engine:
    """`captionary.rank.folded_scorer`: one pass in blocks."""
    if not FoldedScorer.takes(served):
        raise ValueError("a ranker of another kind")
    scorer, index = FoldedScorer(served), np.arange(len(rows))
    return lambda rows, state: scorer(rows.numpy(), index, state)


def _exported(served: Served, rows: Tensor, state: RequestState) -> torch.export.ExportedProgram:
    count = torch.export.Dim("candidates", min=2, max=65_536)
    given = (rows.clone(), state.matrix, state.start, state.bias)
    with torch.no_grad():
        return torch.export.export(
            Core(served), given, dynamic_shapes=({0: count}, None, None, None), strict=True
        )


def _outs(served: Served) -> tuple[Floats, Floats]:
    """The towers' last layers as one [T tower, T], and their biases [T]."""
    ranker, tasks = served.ranker, served.tasks
    out = ranker.tower_out.detach().numpy()
    whole = np.zeros((out.size, tasks), np.float32)
    for task in range(tasks):
        whole[task * out.shape[1] : (task + 1) * out.shape[1], task] = out[task]
    return whole, ranker.tower_out_bias.detach().numpy()


ENGINES: dict[str, Callable[[Served, Tensor, RequestState], Engine]] = {
    "eager": eager,
    "aoti": aoti,
    "onnx": onnx,
    "numpy": numpy_,
    "numba": numba_,
}
