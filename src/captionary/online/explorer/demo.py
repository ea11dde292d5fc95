"""A service to look at, made of a finished run: two of its rankers, its items and events, and an experiment.

Nothing is written into the run's folder.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from captionary.errors import bad_value
from captionary.online.site import Site, seed
from captionary.publish import atomic_file

__all__ = ["make_demo"]

_EXPERIMENTS = """salt: demo
layers:
  - name: rankers
    experiments:
      - name: captions
        arms: [{name: control, share: 0.5}, {name: captions, share: 0.5}]
        metrics:
          - {name: likes, of: like, role: primary}
          - {name: shares, of: share}
          - {name: slow requests, of: slow_requests, per: requests, role: guardrail, better: less, margin: 0.05}
"""


class _Recent(Site):
    """The live side of a run whose data end today: what nobody did for a year has decayed to nothing."""

    def history(self) -> pa.Table:
        """See `Site.history`; every moment is moved by as much."""
        events = super().history()
        times = events["timestamp"].cast(pa.timestamp("us", "UTC"))
        behind = datetime.now(UTC) - pc.max(times).as_py()
        moved = pc.add(times, pa.scalar(behind, pa.duration("us")))
        return events.set_column(events.column_names.index("timestamp"), "timestamp", moved)


def make_demo(config: Path, out: Path, *, port: int = 8750) -> Path:
    """Fill a folder from a run and say how to serve it; the path of its `serve.yaml`, for `captionary serve`.

    The two rankers are the run's baseline and the arm that its verdict is about. Events are moved so that the last is
    of now. No keys are asked for, so only this machine reaches the service. What is there already is kept; a demo that
    was cut short is filled anew.

    Args:
        config: of a run that is finished.
        out: folder for rankers, store, log, spool.
        port: to listen on.

    Raises:
        CaptionaryError: the run is not finished, or has no ranker with captions.
    """
    import yaml

    from captionary.config import to_mapping
    from captionary.evidence.result import Evidence
    from captionary.exporting import export_run
    from captionary.rank.served import ServingRanker
    from captionary.settings import load_run

    run = load_run(config)
    report = run.folder / "report" / "evidence.json"
    if not report.is_file():
        raise bad_value("run", run.name, "one with a report", todo=f"captionary run {config}")
    evidence = Evidence.from_json(report.read_text(encoding="utf-8"), where=str(report))
    if evidence.headline is None:
        raise bad_value("run", run.name, "one with an arm that has captions", where=str(report))
    arms = {"control": evidence.baseline, "captions": evidence.headline}
    out = out.resolve()
    for name, arm in arms.items():
        if not (out / "rankers" / name / "artefact.json").is_file():
            export_run(run, out / "rankers" / name, arm=arm)
    site = _Recent(run, store=str(out / "store"), log=str(out / "log.sqlite"), spool=out / "spool")
    rankers = [ServingRanker.load(out / "rankers" / name) for name in arms]
    experiments, serve = out / "experiments.yaml", out / "serve.yaml"
    if not serve.is_file():  # it is written last: without it a store is half filled
        shutil.rmtree(out / "store", ignore_errors=True)
        # A copy: a run that is made anew may have another, and the store's tokens are of this one.
        shutil.copytree(run.folder / "tokens" / site.letter, out / "tokenizer", dirs_exist_ok=True)
        with site.open_store() as store:
            seed(site, store, rankers)
    # Everything by its whole path: a run's folder is relative to where a command is run.
    said = {
        "rankers": {name: f"rankers/{name}" for name in arms},
        "default": "captions",
        "tokenizer": "tokenizer",
        "profiles": to_mapping(site.profiles),
        "experiments": "experiments.yaml",
        "arms": {"captions": {name: name for name in arms}},
        "store": "store",
        "log": "log.sqlite",
        "spool": "spool",
        "exposures": "exposures",
        "decisions": "decisions.jsonl",
        "requests": "requests",
        "captions": str((run.runs / "captions.sqlite").resolve()),
        "media": str(site.dataset.root.resolve()),
        "secret": "secret",
        "keys": None,
        "port": port,
    }
    text = yaml.safe_dump(said, sort_keys=False, allow_unicode=True)
    for path, content in ((experiments, _EXPERIMENTS), (serve, text)):
        with atomic_file(path) as file:
            file.write(content.encode())
    return serve
