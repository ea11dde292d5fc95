"""The evidence of a run: what `evidence.json` holds. Every field is documented here and in docs/evidence.md.

Gains are fractions (0.0035 is the paper's 0.35 %). What cannot be known (the AUC of a task with one class,
a test with one seed) is None, ``null`` in JSON; `warnings` says why.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

from captionary.config import from_mapping
from captionary.errors import bad_value

__all__ = [
    "SCHEMA_VERSION",
    "Ablation",
    "ArmResult",
    "CaptionCounts",
    "Contrast",
    "Evidence",
    "OracleResult",
    "Outcome",
    "RivalContrast",
    "RunInfo",
    "TaskInfo",
]

SCHEMA_VERSION = 1

Outcome = Literal["gain", "loss", "no gain", "cannot tell"]
PerTask = dict[str, float | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What was run, on what, with what: enough to run it again."""

    name: str
    """Name of the run."""
    dataset: str
    """Name of the data set."""
    split: str = ""
    """Name of the split of the data set into training and evaluation rows."""
    source: str = ""
    """Where the data set comes from, in its maker's words."""
    license: str = ""
    """Terms of the data set."""
    created_at: str
    """When the evidence was complete, ISO 8601 in UTC."""
    train_rows: int
    """Impressions that the rankers learnt from."""
    eval_rows: int
    """Impressions that every figure here is measured on."""
    subsets_of: Literal["user", "item"] = "user"
    """What the subsets of the paired test do not share: users; or items, where the evaluated items are new."""
    users: int
    """Users in the data set."""
    items: int
    """Items in the data set."""
    captioner: str = ""
    """Name and fingerprint of the captioner; empty without captions."""
    tokenizers: dict[str, str] = dataclasses.field(default_factory=dict)
    """Letter → kind, vocabulary and fingerprint of the tokenizer."""
    hardware: str = ""
    """Processor, cores and memory; accelerator where there is one."""
    command: str = ""
    """The command line."""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The whole config of the run, defaults included."""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    """Package → version: Captionary, Python and what computes."""
    fingerprints: dict[str, str] = dataclasses.field(default_factory=dict)
    """Input or stage → digest of its content."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """One task as the evaluation rows show it."""

    name: str
    """Name of the task."""
    kind: Literal["binary", "weighted_logistic", "huber_log"] = "binary"
    """binary; of the others labels are amounts, AUC is concordance, NE the normalised squared error."""
    rows: int | None = None
    """Evaluation rows that have a label of the task; null: not said."""
    positives: int
    """Evaluation rows with label 1 (with an amount above 0)."""
    base_rate: float
    """Share of the rows with a label that are positive."""
    mean: float | None = None
    """Mean label of these rows; null without any."""
    subsets: int
    """Subsets that hold both classes (different amounts): where the task is not left out of the paired test."""
    gauc_users: int | None = None
    """Users that hold both classes (different amounts), whom GAUC is the mean of; null where users are not known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One row of Table 1, and what stands behind it."""

    name: str
    """Unique: ids, +visual, …; a placebo has the name of its kind."""
    feature: str
    """Table 1, Feature Name."""
    description: str
    """Table 1, Feature Description."""
    tokenizer: str
    """Table 1, Tokenizer Type: a letter, or empty."""
    placebo: Literal["shuffled", "random", "constant", "pictures"] | None
    """How tokens were made meaningless; null for a real arm."""
    rival: str | None = None
    """Which other way to use the same media, events or captions the arm is; null for the product's own."""
    ablation: bool = False
    """Whether the arm is there for the ablation table alone."""
    captions: bool
    """Whether the arm has caption features, real, placebo or of a rival in their place."""
    auc: PerTask
    """AUC (concordance of a continuous task) by task on all evaluation rows, mean over seeds."""
    ne: PerTask
    """Normalized entropy (normalised squared error of a continuous task) by task, in the same way."""
    calibration: PerTask
    """Predicted ÷ observed positives (amounts) by task, in the same way."""
    gauc: PerTask = dataclasses.field(default_factory=dict)
    """AUC within users, weighted by their rows, by task, in the same way; empty where users are not known, and
    of placebos and ablations."""
    ece: PerTask = dataclasses.field(default_factory=dict)
    """Expected calibration error by task, in the same way; null of a continuous task."""
    recalibrated_ne: PerTask = dataclasses.field(default_factory=dict)
    """NE by task after recalibration on the other half of the users, in the same way; null of a continuous task."""
    auc_gain: float | None = 0.0
    """Relative decrease of 1 − AUC against the baseline, mean over seeds and tasks; 0 for itself."""
    ne_gain: float | None = 0.0
    """Relative decrease of NE against the baseline, mean over tasks; 0 for itself."""
    task_auc_gain: PerTask
    """AUC gain by task."""
    task_ne_gain: PerTask
    """NE gain by task; Table 2 shows it as a change, so with the other sign."""
    task_ne_interval: dict[str, tuple[float, ...] | None]
    """95 % interval of the NE gain by task over subsets, [low, high]."""
    task_p_value: PerTask = dataclasses.field(default_factory=dict)
    """Two-sided p of the AUC gain by task, with the spread over seeds added; empty for the baseline."""
    task_p_adjusted: PerTask = dataclasses.field(default_factory=dict)
    """The same, corrected for the number of tasks (Holm)."""
    task_verdict: dict[str, Literal["gain", "loss", "no gain", "cannot tell"]] = dataclasses.field(
        default_factory=dict
    )
    """Verdict of each task alone, by the corrected p."""
    p_value: float | None = None
    """Two-sided paired t-test of the AUC gain over subsets; null for the baseline."""
    direction: Literal["up", "down", "none"] = "none"
    """Sign of the mean AUC gain over subsets."""
    subsets: int = 0
    """Subsets in the paired test."""
    subset_gain: float | None = None
    """Mean AUC gain over subsets, the middle of the interval."""
    interval: tuple[float, ...] | None = None
    """95 % interval of the AUC gain over subsets, [low, high]: which users were evaluated."""
    combined_interval: tuple[float, ...] | None = None
    """The same with the spread over seeds added: which users, and how training went."""
    combined_p_value: float | None = None
    """Two-sided p with the spread over seeds added; equals p_value with one seed."""
    p_adjusted: float | None = None
    """combined_p_value corrected for the number of real arms with captions (Holm); null for others."""
    seeds: int
    """Trainings of the arm, each with another seed."""
    seed_auc_gains: tuple[float, ...] = ()
    """AUC gain of each seed against the same seed of the baseline."""
    seed_sd: float | None = None
    """Standard deviation of these; null with one seed."""
    seed_p_value: float | None = None
    """Two-sided t-test of these against 0; null with one seed."""
    seeds_agree: int = 0
    """Seeds whose gain has the sign of the mean over subsets."""
    detectable: float | None = None
    """The AUC gain that this many subsets and seeds would find, 80 % of the time."""
    target: float | None = None
    """The AUC gain that needs_rows and needs_seeds are for: the gain seen, or that of the paper where it is less."""
    needs: str = ""
    """What would find it, in words; empty where nothing can be tested."""
    needs_rows: int | None = None
    """Evaluation rows that would find it; null where no number would, or nothing can be tested."""
    needs_seeds: int | None = None
    """Seeds that would, together with these rows."""
    variance: PerTask = dataclasses.field(default_factory=dict)
    """Variance of the gain by source: training (null with one seed), users and rest; see docs/metrics.md."""
    dealt_gain: float | None = None
    """AUC gain of the true captions over random deals of them among the evaluated items, ranker unchanged; null where
    items are not new."""
    dealt_p_value: float | None = None
    """Share of random deals that score at least as high as the true captions: one-sided, over items; null as above."""
    samples_per_second: float | None
    """Training speed, rows per second; mean over seeds."""
    verdict: Literal["baseline", "gain", "loss", "no gain", "cannot tell"] = "baseline"
    """What the tests say together, see captionary.evidence.compare."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OracleResult:
    """What the true probabilities would score: the ceiling. Known for simulated data only."""

    auc: PerTask
    """AUC by task of the true probabilities."""
    ne: PerTask
    """Normalized entropy by task of the true probabilities."""
    auc_gain: float | None
    """Their AUC gain against the baseline, mean over tasks: all there is to gain."""
    ne_gain: float | None
    """Their NE gain against the baseline, mean over tasks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast:
    """The headline arm measured against a placebo instead of the baseline."""

    placebo: str
    """Name of the placebo arm."""
    auc_gain: float | None
    """AUC gain of the headline arm against the placebo."""
    p_value: float | None
    """Two-sided paired t-test over subsets."""
    interval: tuple[float, ...] | None
    """95 % interval over subsets, [low, high]."""
    verdict: Outcome
    """By the same rule as for arms."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RivalContrast:
    """The headline arm measured against a rival instead of the baseline: is the product's own way the better one?"""

    rival: str
    """Name of the rival arm."""
    auc_gain: float | None
    """AUC gain of the headline arm against the rival; below 0 where the rival is ahead."""
    p_value: float | None
    """Two-sided, over subsets and seeds."""
    p_adjusted: float | None
    """The same, corrected for the number of rivals (Holm)."""
    interval: tuple[float, ...] | None
    """95 % interval over subsets and seeds, [low, high]."""
    verdict: Outcome
    """By the same rule as for arms."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablation:
    """What one feature adds to the baseline on its own, and what the headline arm has of it."""

    feature: str
    """tokens, profiles, visual vector, or captions: tokens and profiles together."""
    added: str | None
    """Arm of the baseline with this feature alone; null where it was not trained."""
    added_gain: float | None
    """AUC gain of that arm against the arm without the feature."""
    added_interval: tuple[float, ...] | None
    """95 % interval over subsets and seeds, [low, high]."""
    added_p_value: float | None
    """Two-sided, over subsets and seeds."""
    removed: str | None
    """Arm that is the headline arm without this feature; null where it was not trained."""
    removed_gain: float | None
    """AUC gain of the headline arm against that arm: what would be missing."""
    removed_interval: tuple[float, ...] | None
    """95 % interval over subsets and seeds, [low, high]."""
    removed_p_value: float | None
    """Two-sided, over subsets and seeds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionCounts:
    """What became of the items on their way through the captioner."""

    ok: int
    """Items with a caption."""
    failed: int = 0
    """Items whose media could not be read or captioned."""
    skipped: int = 0
    """Items without media, or left out by the gate."""
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    """Reason of failing or skipping → number of items."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a report shows, and nothing else: `captionary.evidence.report` renders it."""

    schema_version: int = SCHEMA_VERSION
    """Raised when a field changes its meaning or goes; new fields do not raise it."""
    outcome: Outcome
    """The verdict in a word."""
    verdict: str
    """The verdict in a sentence, with the figures behind it."""
    remarks: tuple[str, ...] = ()
    """Sentences that belong to the verdict: placebos, the ceiling, what the test could not have found."""
    baseline: str
    """Name of the arm that gains are measured against."""
    headline: str | None
    """Name of the arm that the verdict is about; null without captions."""
    run: RunInfo
    """Provenance."""
    tasks: tuple[TaskInfo, ...]
    """Tasks, in the order of the data set."""
    arms: tuple[ArmResult, ...]
    """Arms: references, single features, the joint arm, placebos."""
    against_placebos: tuple[Contrast, ...] = ()
    """The headline arm against each placebo."""
    against_rivals: tuple[RivalContrast, ...] = ()
    """The headline arm against each rival."""
    ablation: tuple[Ablation, ...] = ()
    """Features of the headline arm added alone, and removed alone."""
    oracle: OracleResult | None = None
    """The ceiling; null where the truth is not known."""
    captions: CaptionCounts | None = None
    """Counts of captions; null where the data set has no media."""
    left_out: tuple[str, ...] = ()
    """A sentence for each group of arms that could not be run."""
    warnings: tuple[str, ...] = ()
    """What a careful reader should know before believing the figures."""
    sections: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Section of the page → its figures, where measured: importance, cost, slices, budget, calibration, history,
    extremes."""

    def arm(self, name: str) -> ArmResult:
        """The arm of that name.

        Raises:
            CaptionaryError: there is none.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise bad_value("arm", name, f"one of {', '.join(arm.name for arm in self.arms)}")

    @property
    def statement(self) -> str:
        """Verdict and remarks as one text."""
        return " ".join([self.verdict, *self.remarks])

    @property
    def headline_arm(self) -> ArmResult | None:
        """The arm that the verdict is about."""
        return None if self.headline is None else self.arm(self.headline)

    def to_json(self) -> str:
        """The text of `evidence.json`."""
        mapping = dataclasses.asdict(self)
        # A config may hold paths and dates.
        text: str = json.dumps(mapping, ensure_ascii=False, allow_nan=False, indent=1, default=str)
        return text + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "evidence.json") -> Evidence:
        """Read what `to_json` wrote.

        Raises:
            CaptionaryError: not JSON, another schema version, or fields that do not fit.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise bad_value("evidence", f"line {error.lineno}: {error.msg}", "JSON", where=where) from None
        if not isinstance(data, dict):
            raise bad_value("evidence", type(data).__name__, "a mapping", where=where)
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise bad_value(
                "schema_version",
                version,
                str(SCHEMA_VERSION),
                where=where,
                todo="run `captionary evidence` again",
            )
        return from_mapping(cls, data, where=where)

    def to_markdown(self) -> str:
        """The text of `report.md`: verdict, Table 1, Table 2, absolute figures, warnings, provenance."""
        from captionary.evidence.tables import markdown

        return markdown(self)
