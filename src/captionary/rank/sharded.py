"""A ranker whose tables are spread over many processes by TorchRec; all else of it is `Ranker`, as it is.

    ids of a batch ──distinct──▶ EmbeddingCollection, sharded ──▶ the batch's rows ──▶ Ranker with tables of these rows

Every process asks for each row that its batch needs once (RecD, Zhao et al. 2023), wherever it is kept; its ranker then
takes what comes back for its whole table. So there is one model code, whatever its towers or pooling.

TorchRec's kernels want widths that are multiples of 4: tables have columns of zeros at their end, which no checkpoint
holds. A row-wise accumulator is a mean over all columns, so with w of W columns in use it is w / W of ours; learning
rate and epsilon times sqrt(w / W) then give the same update.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from captionary.errors import bad_value, nearest
from captionary.rank.bags import Lists
from captionary.rank.features import Schema
from captionary.rank.fit_settings import OptimizerConfig
from captionary.rank.initial import seed_of
from captionary.rank.model import Batch, Output, Ranker
from captionary.rank.optimizers import EPSILON
from captionary.rank.settings import RankerConfig
from captionary.rank.warm_start import warm_start
from captionary.represent.vectors import TokenVectors

__all__ = [
    "PLACEMENTS",
    "ShardedRanker",
    "TableSpec",
    "initial_rows",
    "plan_tables",
    "stand_in",
    "table_specs",
]

PLACEMENTS = ("table_wise", "row_wise")
"""How a table may be laid out: whole on one process, or cut into ranges of rows. Cut into columns, a row would have
several row-wise accumulators; a copy on every process has no fused optimizer."""

_CHUNK = 1 << 20  # numbers drawn at a time
_NEVER = 1 << 62  # rows from which gradients are sparse: those of a batch's rows are dense


class TableSpec(NamedTuple):
    """One table of a ranker."""

    parameter: str
    """Its name among the ranker's parameters."""
    rows: int
    width: int
    """Columns in use."""
    stream: str
    """Of its initial values, see `captionary.rank.initial`; "": those of the ranker, which is small enough."""
    drawn: int
    """Columns that are drawn; the others start at zero."""
    std: float

    @property
    def key(self) -> str:
        """Its name in TorchRec, which takes no dots."""
        return self.parameter.replace(".", "|")

    @property
    def padded(self) -> int:
        """Columns that are kept."""
        return -(-self.width // 4) * 4

    @property
    def share(self) -> float:
        """Of the columns that is in use."""
        return self.width / self.padded

    @property
    def of_ids(self) -> bool:
        """Whether its rows are ids or categories, row 0 being the unseen one."""
        return self.parameter.startswith("tables.")

    @property
    def grows(self) -> bool:
        """Whether a row keeps its number where the table has more of them."""
        return self.parameter != "token_hash.components"


def table_specs(config: RankerConfig, schema: Schema) -> tuple[TableSpec, ...]:
    """The tables of the ranker that `config` and `schema` make, in the order of `Ranker.embeddings`."""
    width, biases = config.embedding_dim, len(schema.tasks) if config.biases else 0
    sizes = {"user": schema.users, "item": schema.items}
    sizes |= {f"context.{name}": rows for name, rows in schema.context.items()}
    sizes |= {f"item.{name}": rows for name, rows in schema.item_categories.items()}
    found = [
        TableSpec(
            f"tables.{name.replace('.', '/')}", rows, width + biases, f"table.{name}", width, config.id_init
        )
        for name, rows in sizes.items()
    ]
    if not schema.vocabulary:
        return tuple(found)
    if config.token_table == "plain":
        return (
            *found,
            TableSpec("token_table", schema.vocabulary, width, "token", width, config.token_init),
        )
    importance = config.hash_importance or schema.vocabulary
    inner = width - config.hash_functions * config.hash_append
    for name, rows, columns in (
        ("importance", importance, config.hash_functions),
        ("components", config.hash_components, inner),
    ):
        found.append(TableSpec(f"token_hash.{name}", rows, columns, "", columns, 0.0))
    return tuple(found)


def initial_rows(spec: TableSpec, seed: int) -> Iterator[tuple[int, Tensor]]:
    """The initial values of a table in parts (first row, [n, width]): those of `Ranker`, never all in memory.

    torch's CPU generator fills 16 numbers at a time, so parts of 16 rows continue where the one before ended; fewer
    than 16 numbers would be drawn in another way, so the last part takes them in.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, spec.stream))
    step = 16 * max(1, _CHUNK // (16 * spec.width))
    start = 0
    while start < spec.rows:
        end = start + step
        if end + 16 > spec.rows:
            end = spec.rows
        rows = torch.zeros(end - start, spec.width)
        rows[:, : spec.drawn] = torch.randn((end - start, spec.drawn), generator=generator) * spec.std
        yield start, rows
        start = end


def stand_in(config: RankerConfig, schema: Schema, seed: int) -> Ranker:
    """The ranker of these sizes, but with tables of one row each; hashed ones, which are small enough, are whole."""
    few = dataclasses.replace(
        schema,
        users=1,
        items=1,
        context=dict.fromkeys(schema.context, 1),
        item_categories=dict.fromkeys(schema.item_categories, 1),
        vocabulary=schema.vocabulary if config.token_table == "hash" else min(1, schema.vocabulary),
    )
    return Ranker(dataclasses.replace(config, sparse_rows=_NEVER), few, seed)


class ShardedRanker(nn.Module):
    """What TorchRec's `DistributedModelParallel` shards; takes batches as `Ranker` does.

    Args:
        config: of the ranker.
        schema: its sizes.
        seed: of all initial values.
        optimizer: which optimizer of tables runs within the backward pass.
        begin: an earlier ranker's `stand_in`, whose layers this one's go on from.
    """

    factor: Tensor
    """What gradients of tables are multiplied with, set before each backward pass: it undoes the mean over rows."""
    learnt: TokenVectors | None = None
    """Where the token table starts from; None: from random numbers."""

    def __init__(
        self,
        config: RankerConfig,
        schema: Schema,
        seed: int,
        optimizer: OptimizerConfig,
        *,
        begin: Ranker | None = None,
    ) -> None:
        super().__init__()
        rec = _torchrec()
        if optimizer.table_decay:
            rule = "0 with the torchrec backend, whose fused kernels decay otherwise"
            raise bad_value("table_decay", optimizer.table_decay, rule)
        self.seed, self.schema, self.specs = seed, schema, table_specs(config, schema)
        self.collections = nn.ModuleDict()  # TorchRec's have tables of one width
        for width in sorted({spec.padded for spec in self.specs}):
            tables = [
                rec.EmbeddingConfig(
                    name=spec.key, embedding_dim=width, num_embeddings=spec.rows, feature_names=[spec.key]
                )
                for spec in self.specs
                if spec.padded == width
            ]
            collection = rec.EmbeddingCollection(tables=tables, device=torch.device("meta"))
            self.collections[str(width)] = collection
            for spec in self.specs:
                if spec.padded == width:
                    _fuse(collection.embeddings[spec.key].weight, spec, config, optimizer)
        self.ranker = stand_in(config, schema, seed)
        if begin is not None:
            self.ranker = warm_start(begin, self.ranker.schema, self.ranker.config, seed)[0]
        for table in self.ranker.embeddings():  # every pass brings the rows
            table.requires_grad_(False)
        self.register_buffer("factor", torch.ones(()), persistent=False)

    def forward(self, batch: Batch) -> Output:
        """Logits of B impressions for T tasks."""
        asked, replaced, batch = self._asked(batch)
        jagged = _torchrec().KeyedJaggedTensor
        found = {}
        for width, collection in self.collections.items():
            specs = [spec for spec in self.specs if str(spec.padded) == width]
            rows = [asked[spec.parameter] for spec in specs]
            lengths = torch.tensor([len(each) for each in rows], device=batch.dense.device)
            keyed = jagged(keys=[spec.key for spec in specs], values=torch.cat(rows), lengths=lengths)
            found[width] = collection(keyed)
        for spec in self.specs:  # only now: all that is asked for is under way
            values = found[str(spec.padded)][spec.key].values()[:, : spec.width]
            replaced[spec.parameter] = _Scaled.apply(values, self.factor)  # type: ignore[no-untyped-call]
        output: Output = functional_call(self.ranker, replaced, (batch,))
        return output

    def start(self, spec: TableSpec) -> Iterator[tuple[int, Tensor]]:
        """The initial values of a table, see `initial_rows`."""
        if spec.parameter.startswith("token_") and self.learnt is not None:
            few = dataclasses.replace(self.ranker.schema, vocabulary=self.schema.vocabulary)
            whole = Ranker(self.ranker.config, few, self.seed)
            whole.start_tokens(self.learnt)
            return iter([(0, whole.token_table.detach())])
        if spec.stream:
            return initial_rows(spec, self.seed)
        return iter([(0, self.ranker.get_parameter(spec.parameter).detach())])

    def _asked(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], Batch]:
        """(table → its distinct rows, the ranker's tensors that are others in this pass, the batch with its indices
        into those rows)."""
        asked, ids = {}, {}
        for name, index in batch.ids.items():
            asked[f"tables.{name.replace('.', '/')}"], ids[name] = torch.unique(index, return_inverse=True)
        batch = batch._replace(ids=ids)
        replaced: dict[str, Tensor] = {}
        if not self.schema.vocabulary:
            return asked, replaced, batch
        parts = [lists for lists in (batch.tokens, batch.profiles) if lists is not None]
        used, place = torch.unique(torch.cat([lists.values for lists in parts]), return_inverse=True)
        if not len(used):  # lists that are all empty: a table has a row, all the same
            used = used.new_zeros(1)
        split = place.split([len(lists.values) for lists in parts])
        moved: list[Lists] = [lists._replace(values=at) for lists, at in zip(parts, split, strict=True)]
        if batch.tokens is not None:
            batch = batch._replace(tokens=moved[0])
        if batch.profiles is not None:
            batch = batch._replace(profiles=moved[-1])
        if not hasattr(self.ranker, "token_hash"):
            return asked | {"token_table": used}, replaced, batch
        hashed = self.ranker.token_hash
        for parameter, buffer, rows in (
            ("importance", "bucket", hashed.bucket[used]),
            ("components", "chosen", hashed.chosen[used]),
        ):
            asked[f"token_hash.{parameter}"], at = torch.unique(rows, return_inverse=True)
            replaced[f"token_hash.{buffer}"] = at
        return asked, replaced, batch


class _Scaled(torch.autograd.Function):
    """Rows as they are; their gradient times a factor that is known by the time of the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, factor: Tensor) -> Tensor:
        ctx.factor = factor
        return rows.contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


def plan_tables(
    model: ShardedRanker, *, device: torch.device, local_world: int, rows: int, placement: Mapping[str, str]
) -> tuple[Any, list[Any]]:
    """(TorchRec's plan: which process keeps which rows of each table, its sharders).

    Args:
        model: with tables that are not in memory yet.
        device: of this process.
        local_world: processes of a machine.
        rows: impressions of a process's batch.
        placement: table (`user`, `item`, `context.NAME`, `item.NAME`, `token`) → one of `PLACEMENTS`; the planner
            chooses for the others.

    Raises:
        CaptionaryError: an unknown table or placement, or tables that do not fit.
    """
    import torch.distributed as dist
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.embedding_types import EmbeddingComputeKernel
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
    from torchrec.distributed.planner.types import PlannerError

    chosen = dict(placement)
    constraints = {}
    kernels = [EmbeddingComputeKernel.FUSED.value]
    if device.type == "cuda":  # tables larger than the device's memory may lie in the host's
        kernels += [
            EmbeddingComputeKernel.FUSED_UVM_CACHING.value,
            EmbeddingComputeKernel.FUSED_UVM.value,
        ]
    known = [_public(spec) for spec in model.specs]
    for name, kind in chosen.items():
        if name not in known:
            raise bad_value("place", name, nearest(name, known), where="tables of the ranker")
        if kind not in PLACEMENTS:
            raise bad_value(f"place of {name}", kind, " or ".join(PLACEMENTS))
    for spec in model.specs:
        kinds = [chosen[_public(spec)]] if _public(spec) in chosen else list(PLACEMENTS)
        constraints[spec.key] = ParameterConstraints(sharding_types=kinds, compute_kernels=kernels)
    memory = {}
    if device.type == "cuda":
        memory["hbm_cap"] = torch.cuda.get_device_properties(device).total_memory
    topology = Topology(
        world_size=dist.get_world_size(), compute_device=device.type, local_world_size=local_world, **memory
    )
    sharders = [EmbeddingCollectionSharder()]
    planner = EmbeddingShardingPlanner(topology=topology, batch_size=rows, constraints=constraints)
    try:
        return planner.collective_plan(model, sharders, dist.group.WORLD), sharders
    except PlannerError as error:
        todo = "more processes, a narrower embedding_dim, id_hash_rows or category_hash_rows"
        said = str(error).strip().splitlines()[0]
        raise bad_value("tables", "too large", "what the devices can keep", where=said, todo=todo) from None


def _public(spec: TableSpec) -> str:
    """A table's name as of `captionary.rank.layout.tables_of`."""
    if spec.parameter.startswith("tables."):
        return spec.parameter.removeprefix("tables.").replace("/", ".")
    return "token" if spec.parameter == "token_table" else spec.parameter


def _fuse(table: nn.Parameter, spec: TableSpec, config: RankerConfig, optimizer: OptimizerConfig) -> None:
    """Let the table's optimizer run within its backward pass, as fbgemm's EXACT kinds do."""
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
    from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

    if optimizer.table == "sgd":
        apply_optimizer_in_backward(torch.optim.SGD, [table], {"lr": config.embedding_lr})
        return
    share = math.sqrt(spec.share) if optimizer.table == "rowwise_adagrad" else 1.0
    kind = RowWiseAdagrad if optimizer.table == "rowwise_adagrad" else torch.optim.Adagrad
    apply_optimizer_in_backward(kind, [table], {"lr": config.embedding_lr * share, "eps": EPSILON * share})


def _torchrec() -> Any:
    try:
        import torchrec
    except ImportError as error:
        todo = "install torchrec, fbgemm-gpu and what docs/distributed.md names beside them"
        raise bad_value(
            "backend", "torchrec", "single where TorchRec is not installed", where=str(error), todo=todo
        ) from None
    return torchrec
