"""Two replicas on one volume, a user who asks one of them to be forgotten, and comes back."""

import polars as pl
from tests.online.service.small_service import EXPERIMENTS

from captionary.online.experiments.exposure import read_exposures
from captionary.online.forgotten import Forgotten
from captionary.online.request_log import read_requests
from captionary.online.service.arms import load_trials
from captionary.online.service.erasures import Erasures
from captionary.online.service.ranking import Ranking
from captionary.online.service.recording import Recorder
from captionary.online.service.types import RankRequest


def lines(folder):
    """(user → whole requests, times, exposures)."""
    names = [record.user_id for record in read_requests(folder / "requests")]
    times = [pl.read_parquet(path)["user_id"] for path in (folder / "requests" / "times").glob("*.parquet")]
    seen = read_exposures(folder / "exposures")["user_id"].to_list()
    timed = [name for series in times for name in series]
    return {user: (names.count(user), timed.count(user), seen.count(user)) for user in ("u3", "u4")}


class Replica:
    """What ranks in another process: with files of its own, on the same store and folders."""

    def __init__(self, services):
        trials = load_trials(services.config)
        self.recorder = Recorder(services.recorder.folder, share=1.0)
        parts = services.rankers, services.store, trials, services.words, services.telemetry, services.breaker
        self.ranking = Ranking(*parts, {}, self.recorder)
        self.erasures = Erasures(services.store, services.log, self.recorder, trials.exposures)


def rank(one, *users):
    for user in users:
        one.ranking.rank(RankRequest(user=user, items=[1001]))
        one.recorder.timed(user, 0.001, error=False)
    one.recorder._flush()
    one.recorder.log._file.flush()


def test_what_another_replica_has_open_is_left_to_it_and_done_at_its_next_look(start, tmp_path):
    one = start(experiments=EXPERIMENTS, recorder=Recorder(tmp_path / "requests", share=1.0))
    other = Replica(one.services)
    rank(one.services, "u3", "u4")
    rank(other, "u3", "u4")
    assert lines(tmp_path) == {"u3": (2, 2, 2), "u4": (2, 2, 2)}
    said = one.client.delete("/users/u3", headers=one.admin).json()
    assert said == {"found": True, "log_entries": 0, "requests": 3, "exposures": 1}
    assert lines(tmp_path) == {"u3": (1, 0, 1), "u4": (2, 2, 2)}  # those that the other still writes into
    assert other.erasures.look() == 2
    assert lines(tmp_path) == {"u3": (0, 0, 0), "u4": (2, 2, 2)}
    assert other.erasures.look() == 0
    rank(other, "u3")  # is back, and exposed anew
    assert lines(tmp_path)["u3"] == (1, 1, 1)
    begun = Replica(one.services)
    assert (
        begun.erasures.look() == 0
    )  # it begins with all that were ever forgotten, and keeps what came later
    assert one.services.erasures.look() == 0
    assert lines(tmp_path)["u3"] == (1, 1, 1)


def test_what_a_killed_replica_left_open_is_deleted_too(start, tmp_path):
    one = start(experiments=EXPERIMENTS, recorder=Recorder(tmp_path / "requests", share=1.0))
    dead = tmp_path / "exposures" / "20260101T000000-0123456789ab.jsonl.open"
    line = '{"user_id": "u3", "experiment": "captions", "arm": "control", "at": "2026-01-01T00:00:00+00:00", '
    dead.write_text(line + '"trigger": "rank", "forced": false}\n')
    assert one.client.delete("/users/u3", headers=one.admin).json()["exposures"] == 1
    assert dead.read_text() == ""


def test_it_is_done_in_the_background_and_the_store_may_be_away(start, tmp_path):
    one = start(recorder=Recorder(tmp_path / "requests", share=1.0))
    rank(one.services, "u3")

    class Away:
        asked = 0

        def view(self, function):
            self.asked += 1
            if self.asked == 1:
                raise OSError("gone")
            return one.services.store.engine.view(function)

    class Store:
        engine = Away()

    one.client.delete("/users/u4", headers=one.admin)
    looks = Erasures(Store(), None, one.services.recorder, None, seconds=0.001)
    looks.start()
    while Store.engine.asked < 3:
        looks._stop.wait(0.001)
    looks.close()
    assert [record.user_id for record in read_requests(tmp_path / "requests")] == ["u3"]


def test_numbers_and_their_digits_are_told_apart_by_the_store_and_not_by_files_of_text(start):
    one = start()
    one.services.erasures.forget(17)
    gone = Forgotten.of(one.services.store.engine)
    assert gone.of_names(["17", "017", "x", "18", "-17", "9" * 30]).keys() == {"17"}
    assert gone.alone("17").partings == {}
    (first,) = gone.alone(17).partings.values()
    one.services.erasures.forget(17)
    (again,) = Forgotten.of(one.services.store.engine).alone(17).partings.values()
    assert again.sequence > first.sequence  # of two partings the last one counts
    assert again.moment > first.moment
