import math
import re

from captionary.online.experiments.decisions import DecisionLog
from captionary.online.experiments.looks import Look, RailLook
from captionary.online.experiments.monitor import Monitor
from captionary.online.explorer.charts import LookPoint, effects, spark
from captionary.online.explorer.trials import trials

RAIL = (RailLook("slow", 0.0, 0.01),)


def look(day, effect, treatment=1000.0, error=0.05):
    return Look(float(day), int(1000 * day), int(treatment * day), effect, error / math.sqrt(day), RAIL)


def written(site, looks):
    """As `captionary ab monitor` does once a day."""
    path = site.services.config.decisions
    path.unlink(missing_ok=True)
    experiment = site.services.trials.experiments.find("captions")[1]
    for number in range(1, len(looks) + 1):
        DecisionLog(path).write(Monitor(experiment).decide("treatment", looks[:number]))


def test_looks_and_the_decision_with_its_reason(site):
    written(site, [look(day, 0.02) for day in range(1, 6)])
    (one,) = trials(site.services)
    assert (one.state, one.joined, one.layer) == ("running", 1.0, "rankers")
    assert [(arm.name, arm.ranker) for arm in one.arms] == [("control", "ids"), ("treatment", "captions")]
    (arm,) = one.treatments
    assert arm.action == "go on"
    assert [found.day for found in arm.looks] == [5, 4, 3, 2, 1]
    assert str(arm.plot).count("<circle") == 5
    assert {check.name: check.state for check in arm.checks} == {
        "Sample ratio": "fine",
        "Guardrails": "fine",
        "Harm": "fine",
    }
    page = site.get("/explore/experiments").text
    assert "nothing is decided" in page
    assert page.count('<svg class="effects"') == 1


def test_a_mismatch_stops_and_says_so(site, monkeypatch):
    written(site, [look(day, 0.02, treatment=1300) for day in range(1, 4)])
    (arm,) = trials(site.services)[0].treatments
    assert arm.action == "stop: broken"
    assert arm.checks[0].state == "stopped"
    assert "56.52 % of" in arm.checks[0].detail  # 1300 / 2300
    monkeypatch.setattr(type(site.services.trials), "stopped", frozenset({"captions"}))
    page = site.get("/explore/experiments").text
    assert "mismatch</span>" in page
    assert 'class="state stopped"' in page
    site.services.config.decisions.unlink()


def test_before_the_first_look(site):
    site.services.config.decisions.unlink(missing_ok=True)
    (arm,) = trials(site.services)[0].treatments
    assert (arm.action, arm.looks, arm.checks) == ("no look yet", (), ())
    assert "captionary ab monitor" in site.get("/explore/experiments").text


def test_without_experiments(start):
    site = start()
    assert trials(site.services) == []
    assert "everybody gets ranker" in site.get("/explore/experiments").text


def test_plots_hold_wide_intervals_and_say_what_they_show():
    points = [
        LookPoint(1, 0.5, -3.0, 9.0, False),
        LookPoint(2, 0.02, -0.01, 0.05, False),
        LookPoint(3, 0.02, 0.01, 0.03, True),
    ]
    svg = str(effects(points, 14, "<effects>"))
    assert "&lt;effects&gt;" in svg
    assert 'class="decides"' in svg
    heights = [float(y) for y in re.findall(r'y[12]="([\d.]+)"', svg)]
    assert min(heights) >= 12
    assert max(heights) <= 220 - 26
    assert str(effects([], 14, "")) == ""
    assert str(spark([0.1], 1, "")) == ""
    assert 'points="4.0,20.0 92.0,4.0"' in str(spark([0, 1], 1, "<b>"))
    assert "<b>" not in str(spark([0, 1], 1, "<b>"))
