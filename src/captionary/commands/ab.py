"""`captionary ab`: plan an online experiment, deal users to its arms, watch it, and say what it came to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from captionary.errors import bad_value

if TYPE_CHECKING:
    from captionary.online.experiments.exposure import Exposed
    from captionary.online.experiments.measures import Log
    from captionary.online.experiments.plan import Traffic
    from captionary.online.experiments.settings import Experiment

__all__ = ["ab"]

_PATH = click.Path(path_type=Path)
_FORMAT = click.option(
    "--format", "form", type=click.Choice(["text", "markdown", "json"]), default="text", show_default=True
)


def _experiment_options(verb: Any) -> Any:
    for option in (
        click.argument("config", type=_PATH),
        click.argument("experiment"),
        click.option("--exposures", type=_PATH, required=True, help="Folder of exposure segments."),
        click.option(
            "--log", "log_", required=True, help="Data set's folder, or the service's log (file or URL)."
        ),
        click.option("--requests", type=_PATH, help="Request log of the service: a Parquet file or folder."),
        click.option("--until", help="Leave out what is later, such as 2026-03-16T00:00:00Z."),
        _FORMAT,
    )[::-1]:
        verb = option(verb)
    return verb


@click.group()
def ab() -> None:
    """Online experiments: plan, assign, watch, analyse."""


@ab.command("plan")
@click.option("--effect", type=float, help="Relative online effect that is to be found: 0.02 is 2 %.")
@click.option("--gain", type=float, help="Offline AUC gain (relative decrease of 1 − AUC) to expect it from.")
@click.option("--evidence", type=_PATH, help="A run's folder or evidence.json: the gain of its headline arm.")
@click.option(
    "--transfer", type=float, help="Online effect per offline gain; default: the paper's 0.02 % ÷ 0.35 %."
)
@click.option("--users-per-day", type=float, help="Different users of a day.")
@click.option(
    "--users-per-month", type=float, help="Different users of 28 days; default: 5 times those of a day."
)
@click.option("--cv", type=float, help="Standard deviation of the metric between users ÷ mean; default 1.")
@click.option("--rho", type=float, help="Correlation with the CUPED covariate; default 0.")
@click.option("--log", "log_", type=_PATH, help="Data set to take cv, rho and users a day from, with --of.")
@click.option("--of", "measure", help="The metric in that log: an event type or impressions.")
@click.option("--per", help="Its denominator, such as impressions; default: per user.")
@click.option(
    "--share", type=float, default=1.0, show_default=True, help="Part of all users in the experiment."
)
@click.option(
    "--treatment", type=float, default=0.5, show_default=True, help="Part of these in the treatment arm."
)
@click.option("--ramp", default="0:1", show_default=True, help="DAY:SHARE,…: 0:0.01,2:0.1,4:1")
@click.option("--alpha", type=float, default=0.05, show_default=True)
@click.option("--power", type=float, default=0.8, show_default=True)
@click.option(
    "--method",
    type=click.Choice(["fixed", "group-sequential", "always-valid"]),
    default="group-sequential",
    show_default=True,
    help="How it is watched.",
)
@_FORMAT
def ab_plan(form: str, **options: Any) -> None:
    """Say what an experiment can see with the traffic there is: users, days, and what is too small for it."""
    from captionary.online.experiments.plan import PAPER_TRANSFER, make_plan

    gain = options["gain"]
    if options["evidence"] is not None:
        if gain is not None:
            raise bad_value("--gain", gain, "absent where --evidence is given")
        gain = _gain(options["evidence"])
    traffic, cv, rho = _traffic(options)
    plan = make_plan(
        options["effect"],
        traffic,
        cv=cv,
        rho=rho,
        offline_gain=gain,
        transfer=PAPER_TRANSFER if options["transfer"] is None else options["transfer"],
        alpha=options["alpha"],
        power=options["power"],
        method=options["method"],
        treatment_share=options["treatment"],
    )
    _show(plan, form)


@ab.command("assign")
@click.argument("config", type=_PATH)
@click.argument("users", nargs=-1)
@click.option("--experiment", help="Only this one; default: all.")
@click.option("--at", "moment_", help="As of then, such as 2026-03-02T09:00:00Z; default: now.")
@click.option("--decisions", type=_PATH, help="Record of decisions: experiments stopped there have no arms.")
@click.option(
    "--table", type=_PATH, help="Users from the column user_id of a Parquet file instead: counts them."
)
def ab_assign(
    config: Path,
    users: tuple[str, ...],
    experiment: str | None,
    moment_: str | None,
    decisions: Path | None,
    table: Path | None,
) -> None:
    """Say which arms of CONFIG's experiments USERS have, and why."""
    from captionary.online.experiments.assignment import Assigner
    from captionary.online.experiments.decisions import DecisionLog
    from captionary.online.experiments.settings import load_experiments, moment

    loaded = load_experiments(config)
    stopped = DecisionLog(decisions).stopped() if decisions is not None else frozenset()
    assigner = Assigner(loaded, stopped)
    at = None if moment_ is None else moment(moment_, "--at")
    names = loaded.names if experiment is None else (loaded.find(experiment)[1].name,)
    if table is not None:
        ids = _user_ids(table)
        for name in names:
            counts = assigner.assign_many(ids, name, at).counts
            click.echo(f"{name}: {', '.join(f'{key} {number:,}' for key, number in counts.items())}")
    elif not users:
        raise bad_value("users", "none", "one at least, or --table")
    for user in users:
        for name in names:
            found = assigner.assign(user, name, at)
            click.echo(f"{user}  {name}  {found.arm or '-'}  ({found.reason})")


@ab.command("analyse")
@_experiment_options
def ab_analyse(
    config: Path,
    experiment: str,
    exposures: Path,
    log_: str,
    requests: Path | None,
    until: str | None,
    form: str,
) -> None:
    """Compare the arms of CONFIG's EXPERIMENT at its end: once. While it runs, use `monitor`."""
    from captionary.online.experiments.analysis import analyse

    found, exposed, log = _read(config, experiment, exposures, log_, requests)
    _show(analyse(exposed, log, found, until=_until(until)), form)


@ab.command("monitor")
@_experiment_options
@click.option(
    "--decisions", type=_PATH, help="Record of decisions to append to; a stop in it takes effect at once."
)
def ab_monitor(
    config: Path,
    experiment: str,
    exposures: Path,
    log_: str,
    requests: Path | None,
    until: str | None,
    form: str,
    decisions: Path | None,
) -> None:
    """Look at CONFIG's EXPERIMENT day by day and decide: go on, or stop, and why."""
    import json

    from captionary.online.experiments.decisions import DecisionLog
    from captionary.online.experiments.looks import looks_of
    from captionary.online.experiments.measures import Measures
    from captionary.online.experiments.monitor import Monitor

    found, exposed, log = _read(config, experiment, exposures, log_, requests)
    looks = looks_of(Measures(exposed, log, found), found, until=_until(until))
    monitor = Monitor(found)
    made = [monitor.decide(arm, seen) for arm, seen in looks.items()]
    if decisions is not None:
        record = DecisionLog(decisions)
        for decision in made:
            record.write(decision)
    if form == "json":
        click.echo(json.dumps([decision.to_dict() for decision in made], indent=1, ensure_ascii=False))
    else:
        texts = [decision.to_markdown() if form == "markdown" else decision.to_string() for decision in made]
        click.echo("\n\n".join(texts))


def _gain(path: Path) -> float:
    """The offline gain of a run's headline arm."""
    from captionary.evidence.result import Evidence

    options = [path / "report" / "evidence.json", path / "evidence.json"] if path.is_dir() else [path]
    file = next((option for option in options if option.is_file()), None)
    if file is None:
        raise bad_value("--evidence", str(path), "a run's folder or an evidence.json")
    evidence = Evidence.from_json(file.read_text(encoding="utf-8"), where=str(file))
    arm = evidence.headline_arm
    if arm is None or arm.auc_gain is None or not arm.auc_gain > 0:
        found = None if arm is None else arm.auc_gain
        raise bad_value("AUC gain", found, "> 0: there is nothing to look for online", where=str(file))
    if evidence.outcome != "gain":
        click.echo(f"The run's outcome is {evidence.outcome!r}, not 'gain': {evidence.verdict}", err=True)
    return arm.auc_gain


def _traffic(options: dict[str, Any]) -> tuple[Traffic, float, float]:
    """(traffic, CV, ρ) from the options, and from the log where one is given."""
    from captionary.online.experiments.plan import Traffic

    per_day, cv, rho = options["users_per_day"], options["cv"], options["rho"]
    if options["log_"] is not None:
        from captionary.online.experiments.history import look_back
        from captionary.online.experiments.settings import Metric
        from captionary.online.experiments.sources import dataset_log

        if options["measure"] is None:
            raise bad_value("--of", "(absent)", "given with --log: the metric")
        metric = Metric(name=options["measure"], of=options["measure"], per=options["per"])
        past = look_back(dataset_log(options["log_"]), metric)
        click.echo(
            f"{metric.of}: {past.users:,} users in 14 days, mean {past.mean:.4g}, CV {past.cv:.3f}, "
            f"rho {past.rho:.3f} with the 14 days before, {past.users_per_day:,.0f} users a day",
            err=True,
        )
        cv = past.cv if cv is None else cv
        rho = past.rho if rho is None else rho
        per_day = past.users_per_day if per_day is None else per_day
    if per_day is None:
        raise bad_value("--users-per-day", "(absent)", "given, or --log")
    month = options["users_per_month"]
    steps = []
    for step in options["ramp"].split(","):
        day, _, share = step.partition(":")
        try:
            steps.append((float(day), float(share)))
        except ValueError:
            raise bad_value("--ramp", step, "DAY:SHARE, such as 2:0.1") from None
    traffic = Traffic(per_day, 5 * per_day if month is None else month, options["share"], tuple(steps))
    return traffic, 1.0 if cv is None else cv, 0.0 if rho is None else rho


def _read(
    config: Path, name: str, exposures: Path, log: str, requests: Path | None
) -> tuple[Experiment, Exposed, Log]:
    from captionary.online.experiments.exposure import first_exposures, read_exposures
    from captionary.online.experiments.settings import load_experiments
    from captionary.online.experiments.sources import open_events

    experiment = load_experiments(config).find(name)[1]
    exposed = first_exposures(read_exposures(exposures, name), name, experiment.arm_names)
    return experiment, exposed, open_events(log, requests)


def _until(text: str | None) -> int | None:
    from captionary.online.experiments.settings import moment

    return None if text is None else int(moment(text, "--until").timestamp() * 1_000_000)


def _user_ids(path: Path) -> list[Any]:
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["user_id"])
    except (OSError, ValueError) as error:
        where = str(error).splitlines()[0]
        raise bad_value("--table", str(path), "a Parquet file with a column user_id", where=where) from None
    ids: list[Any] = table["user_id"].to_pylist()
    return ids


def _show(result: Any, form: str) -> None:
    texts = {"text": result.to_string, "markdown": result.to_markdown, "json": result.to_json}
    click.echo(texts[form]().rstrip("\n"))
