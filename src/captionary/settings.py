"""What a run is: one YAML file, typed, with every default visible."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from captionary.config import from_mapping, load_yaml
from captionary.errors import bad_value
from captionary.evidence.arms import PLACEBOS, RIVALS, PlaceboKind, RivalKind
from captionary.rank.settings import RankerConfig
from captionary.represent.normalize import NORMALIZER_STEPS
from captionary.represent.profiles import ProfileConfig
from captionary.represent.tokenizers import TokenizerConfig
from captionary.rivals import VectorsConfig
from captionary.understand.captioner import CaptionerConfig
from captionary.understand.gate_settings import GateConfig
from captionary.understand.media_settings import MediaConfig
from captionary.understand.signals.settings import SignalsConfig
from captionary.world.settings import WorldConfig

__all__ = ["DataConfig", "EngineConfig", "EvidenceConfig", "RunConfig", "load_run"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data set comes from: exactly one of the two."""

    path: Path | None = None
    """A directory in the data contract; relative to the config file."""
    world: WorldConfig | None = None
    """A simulated marketplace, made by the run."""

    def __post_init__(self) -> None:
        if (self.path is None) == (self.world is None):
            given = "both" if self.path is not None else "neither"
            raise bad_value("data", given, "one of path and world")


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig:
    """How arms are compared."""

    seeds: int = 3
    """Trainings an arm, >= 1; seeds beyond the first measure the luck of training."""
    subsets: int = 20
    """User-disjoint parts of the evaluation rows for the paired t-test, >= 2."""
    on_visual: bool = True
    """Captions on top of the visual vector, as in the paper; false: on ids alone, beside it, as its rivals."""
    placebos: tuple[PlaceboKind, ...] = PLACEBOS
    """Placebo arms to run beside the real ones."""
    rivals: tuple[RivalKind, ...] = ()
    """Other ways to use the same media and captions to run beside them, see docs/vectors.md."""
    deals: int = 199
    """With a split that holds items out: how often captions are dealt anew among them, >= 0; 0 leaves the test out."""
    seed: int = 0
    """Deals users into subsets and draws the placebos."""
    cards: int = 12
    """Items shown in the report, >= 0."""
    importance: int = 3
    """How often each feature is shuffled for its importance, >= 0; 0 leaves it out."""
    requests: int = 50
    """Requests an arm is timed on, >= 0; 0 leaves serving out."""

    def __post_init__(self) -> None:
        for name, least in (
            ("seeds", 1),
            ("subsets", 2),
            ("deals", 0),
            ("cards", 0),
            ("importance", 0),
            ("requests", 0),
        ):
            if getattr(self, name) < least:
                raise bad_value(name, getattr(self, name), f">= {least}")
        if self.requests == 1:
            raise bad_value("requests", self.requests, "0, or >= 2 to have a spread")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where captions and profiles are made; what comes out is the same."""

    kind: Literal["local", "ray"] = "local"
    """`local`, or `ray` for the actors of a Ray cluster (extra `ray`)."""
    actors: int = 2
    """Captioners on Ray at once, >= 1."""
    gpus_per_actor: float = 0.0
    """0 for captioners that run on the CPU."""
    address: str | None = None
    """Of the Ray cluster; empty: one on this machine."""

    def __post_init__(self) -> None:
        if self.actors < 1:
            raise bad_value("actors", self.actors, ">= 1")
        if self.gpus_per_actor < 0:
            raise bad_value("gpus_per_actor", self.gpus_per_actor, ">= 0")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run, from media and events to the report."""

    name: str
    """Names the folder of the run."""
    data: DataConfig
    split: str | None = None
    """A split of the data set; default: the one that its dataset.yaml names."""
    runs: Path = Path("runs")
    """Folder of all runs and of the caption store that they share; relative to where the command is run."""
    captioner: CaptionerConfig = field(default_factory=CaptionerConfig)
    media: MediaConfig = field(default_factory=MediaConfig)
    signals: SignalsConfig = field(default_factory=SignalsConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    """Which items the captioner is invoked for."""
    normalize: tuple[str, ...] = tuple(NORMALIZER_STEPS)
    """Steps of normalisation to run, by name; they run in their own order whatever the order given."""
    visual_dimensions: int = 64
    """Principal components of the visual vector that the ranker sees, >= 1."""
    tokenizers: Mapping[str, TokenizerConfig] = field(
        default_factory=lambda: {
            "A": TokenizerConfig(kind="concepts"),
            "B": TokenizerConfig(kind="wordpiece"),
        }
    )
    """Letter → tokenizer; the first carries profiles and placebos."""
    vectors: VectorsConfig = field(default_factory=VectorsConfig)
    profiles: ProfileConfig = field(default_factory=ProfileConfig)
    ranker: RankerConfig = field(default_factory=RankerConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    workers: int = 2
    """Processes that train rankers side by side, one thread each, >= 1."""

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise bad_value("name", self.name, "a plain folder name")
        for name in ("visual_dimensions", "workers"):
            if getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), ">= 1")
        if not self.tokenizers:
            raise bad_value("tokenizers", "(empty)", "at least one, as `A: {kind: concepts}`")
        if self.data.world is not None and self.split not in (None, "time"):
            raise bad_value("split", self.split, "time, the only split of a simulated world")
        for letter in self.tokenizers:
            if not letter.isalnum() or letter in RIVALS:
                raise bad_value("tokenizer", letter, "named by letters and digits, such as A")

    @property
    def folder(self) -> Path:
        """Where everything of this run goes."""
        return self.runs / self.name


def load_run(path: Path) -> RunConfig:
    """Read a run's YAML file; a relative data.path counts from the file's own folder.

    Raises:
        CaptionaryError: see `captionary.config`.
    """
    config = from_mapping(RunConfig, load_yaml(path), where=str(path))
    if config.data.path is not None and not config.data.path.is_absolute():
        data = dataclasses.replace(config.data, path=path.parent / config.data.path)
        config = dataclasses.replace(config, data=data)
    return config
