import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from captionary.errors import CaptionaryError
from captionary.understand.gate import FREE, REASONS, Budget, GateContext, GateDecision, gate, worth
from captionary.understand.gate_forecast import Exposure
from captionary.understand.gate_lookalike import Neighbours
from captionary.understand.gate_settings import POLICIES, GateConfig


def items(size: int) -> pa.Table:
    return pa.table({"item_id": pa.array(range(size))})


def likes(size: int, pairs: dict[int, dict[int, float]]) -> Neighbours:
    """row -> lender -> similarity."""
    lists = [sorted(pairs.get(row, {}).items(), key=lambda pair: -pair[1]) for row in range(size)]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in lists])]).astype(np.int64)
    flat = [pair for each in lists for pair in each]
    return Neighbours(
        offsets, np.array([a for a, _ in flat], np.int64), np.array([b for _, b in flat], np.float32)
    )


def context(size: int = 6, **changes: object) -> GateContext:
    """Items 0, 1, … with 10, 20, … impressions to come and as many in the past; nobody looks like anybody."""
    future = 10.0 * np.arange(1, size + 1)
    made = GateContext(
        cutoff=0,
        exposure=Exposure(future.copy(), future.copy(), future, np.zeros(size, bool)),
        media=np.arange(size),
        captioned=np.zeros(size, bool),
        seconds=np.ones(size),
        money=np.zeros(size),
        said=np.zeros(size),
        age=np.arange(size, dtype=float),
        likeness=likes(size, {}),
    )
    return made._replace(**changes)  # type: ignore[arg-type]


def chosen(made: GateContext, budget: Budget = Budget(), **config: object) -> list[int]:  # noqa: B008
    found = gate(items(len(made.media)), made, budget, GateConfig(**({"policy": "budget"} | config)))  # type: ignore[arg-type]
    return found.chosen.tolist()


@pytest.mark.parametrize("policy", POLICIES)
def test_every_item_is_chosen_or_has_a_reason_and_decisions_repeat(policy: str) -> None:
    made = context(20, media=np.array([-1, *range(19)]), gain=np.ones(20))
    config = GateConfig(policy=policy, min_traffic=5.0)  # type: ignore[arg-type]
    one, two = (gate(items(20), made, Budget(items=4), config) for _ in range(2))
    assert one.chosen.tolist() == two.chosen.tolist()
    assert one.reason == two.reason
    assert len(one.chosen) == 4
    for row in range(20):
        assert (one.reason[row] == "") == (row in one.chosen)
        assert one.reason[row] in {"", *REASONS}
    assert one.reason[0] == "gate_no_media"


@pytest.mark.parametrize("policy", POLICIES)
def test_the_order_of_rows_does_not_matter(policy: str) -> None:
    made = context(6, exposure=Exposure(*[np.ones(6)] * 3, np.zeros(6, bool)), gain=np.ones(6))
    config = GateConfig(policy=policy)  # type: ignore[arg-type]
    straight = gate(items(6), made, Budget(items=3), config).chosen
    turned = gate(pa.table({"item_id": pa.array(range(6))[::-1]}), made, Budget(items=3), config).chosen
    assert straight.tolist() == [5 - row for row in turned]


def test_the_most_exposed_come_first_where_nobody_looks_like_anybody() -> None:
    assert chosen(context()) == [5, 4, 3, 2, 1, 0]
    assert chosen(context(), Budget(items=2)) == [5, 4]
    assert chosen(context(), Budget(items=0)) == []


def test_a_look_alike_of_what_is_captioned_can_wait() -> None:
    twins = likes(6, {5: {4: 1.0}, 4: {5: 1.0}})
    # Worth is the square root of exposure: 5 tells 4's caption but for 40 %, which is less than 3's whole.
    assert 0.4 * 50**0.5 < 40**0.5
    assert chosen(context(likeness=twins), Budget(items=2)) == [5, 3]
    assert chosen(context(likeness=twins), Budget(items=2), lend=False) == [5, 4]
    assert chosen(context(likeness=twins), Budget(items=2), trust=0.0) == [5, 4]
    before = context(likeness=twins, captioned=np.arange(6) == 5)
    assert chosen(before, Budget(items=1)) == [3]


def test_gain_per_cost_decides_under_a_budget_in_seconds_or_money() -> None:
    dear = np.array([1, 1, 1, 1, 1, 10.0])
    assert chosen(context(seconds=dear), Budget(seconds=3)) == [4, 3, 2]
    assert chosen(context(money=dear), Budget(money=3)) == [4, 3, 2]
    found = gate(items(6), context(seconds=dear), Budget(seconds=6), GateConfig(policy="popular"))
    assert found.chosen.tolist() == [4, 3, 2, 1, 0]  # the first does not fit, others do
    assert found.reason[5] == "gate_over_budget"


def test_what_the_text_says_is_taken_off_and_the_cold_gain() -> None:
    told = np.array([0, 0, 0, 0, 0, 0.9])
    assert chosen(context(said=told), Budget(items=1)) == [4]
    even = Exposure(*[np.ones(6)] * 3, np.arange(6) == 2)
    assert chosen(context(exposure=even), Budget(items=1)) == [2]
    assert chosen(context(exposure=even), Budget(items=1), cold=0.0) == [0]
    np.testing.assert_allclose(worth(context(), GateConfig(policy="budget")).sum(), 1)


def test_events_of_profiles_count_for_a_quarter() -> None:
    even = Exposure(*[np.ones(6)] * 3, np.zeros(6, bool))
    made = context(exposure=even, events=np.array([0, 3.0, 0, 0, 0, 0]))
    value = worth(made, GateConfig(policy="budget")) ** 2
    # 1/2 · 1/6 + 1/4 · 1/6 + 1/4 · 1 beside 1/2 · 1/6 + 1/4 · 1/6
    assert value[1] / value[0] == pytest.approx((3 / 24 + 1 / 4) / (3 / 24))


def test_the_same_media_are_paid_once() -> None:
    same = np.array([0, 1, 2, 3, 4, 0])
    found = gate(items(6), context(media=same), Budget(), GateConfig(policy="budget"))
    assert 5 not in found.chosen
    assert found.reason[5] == "gate_same_media"
    assert found.described(context(media=same)).all()
    short = gate(items(6), context(media=same), Budget(items=0), GateConfig(policy="budget"))
    assert short.reason[0] == short.reason[5] == "gate_over_budget"


def test_rules_name_the_first_rule_that_an_item_fails() -> None:
    made = context(said=np.array([0, 0, 0.8, 0, 0, 0]), exposure=context().exposure)
    config = GateConfig(policy="rules", new_days=4.5, min_traffic=20 / 7, horizon_days=7)
    found = gate(items(6), made, Budget(), config)
    assert found.reason == ("gate_low_traffic", "", "gate_text_enough", "", "", "gate_old_media")
    assert found.chosen.tolist() == [4, 3, 1]


def test_what_has_a_caption_is_not_paid_again() -> None:
    found = gate(items(6), context(captioned=np.ones(6, bool)), Budget(), GateConfig(policy="always"))
    assert set(found.reason) == {"gate_captioned"}


@pytest.mark.parametrize("policy", POLICIES)
def test_what_nobody_could_read_is_held_back_where_there_is_a_limit(policy: str) -> None:
    made = context(
        media=np.array([-1, -1, 2, 3, 4, 5]), unread=np.array([1, 0, 1, 0, 0, 0], bool), gain=np.ones(6)
    )
    config = GateConfig(policy=policy)  # type: ignore[arg-type]
    limited = gate(items(6), made, Budget(seconds=2), config)
    assert limited.reason[:2] == ("gate_unread", "gate_no_media")
    assert len(limited.chosen) == 2
    free = gate(items(6), made, Budget(), config)
    assert free.reason[:3] == ("gate_no_media", "gate_no_media", "")
    assert "gate_no_media" in FREE
    assert "gate_unread" not in FREE


@pytest.mark.parametrize(
    "limit", [{"share": 0.5}, {"items": 0}, {"seconds": 0.0}, {"money": 1.0, "price_per_item": 1.0}]
)
def test_always_decides_too_where_it_has_a_limit(limit: dict[str, float]) -> None:
    assert not GateConfig().decides
    assert not GateConfig().lends
    found = GateConfig(**limit)  # type: ignore[arg-type]
    assert found.decides
    assert found.lends
    assert GateConfig(policy="rules").decides


def test_learned_follows_its_model_and_needs_one() -> None:
    gain = np.array([100.0, 0, 0, 0, 0, 1])
    made = context(gain=gain)
    assert chosen(made, policy="learned") == [0, 5]
    found = gate(items(6), made, Budget(), GateConfig(policy="learned"))
    assert found.reason[3] == "gate_no_gain"
    with pytest.raises(CaptionaryError, match="captionary gate fit"):
        chosen(context(), policy="learned")


def test_random_and_popular_are_what_they_say() -> None:
    made = context(50)
    assert chosen(made, Budget(items=3), policy="popular") == [49, 48, 47]
    draws = {tuple(chosen(made, Budget(items=5), policy="random", seed=seed)) for seed in range(4)}
    assert len(draws) == 4


def test_lazy_greedy_equals_plain_greedy() -> None:
    rng = np.random.default_rng(3)
    pairs = {
        row: {int(j): float(rng.random()) for j in rng.choice(30, 6, False) if j != row} for row in range(30)
    }
    made = context(30, likeness=likes(30, pairs), seconds=rng.uniform(0.5, 2, 30))
    config = GateConfig(policy="budget")
    value, reached, order = worth(made, config), np.zeros(30), []
    told = np.eye(30)
    for row, lenders in pairs.items():
        for lender, similarity in lenders.items():
            told[lender, row] = 0.6 * np.float64(np.float32(similarity))
    while len(order) < 10:
        ratio = (np.maximum(told - reached, 0) @ value) / made.seconds
        ratio[order] = -1
        best = int(np.argmax(ratio))
        order.append(best)
        reached = np.maximum(reached, told[best])
    assert chosen(made, Budget(seconds=1e6))[:10] == order


def test_budget_of_a_config_takes_the_tightest_count() -> None:
    made = context(10, captioned=np.arange(10) < 4)
    assert Budget.of(GateConfig(share=0.5), made).items == 3  # half of the six without a caption
    assert Budget.of(GateConfig(share=0.5, items=2, seconds=9.0), made) == Budget(2, 9.0, None)


def test_a_decision_survives_its_table() -> None:
    made = context(8, media=np.array([0, 1, 2, -1, 4, 5, 6, 7]))
    found = gate(items(8), made, Budget(items=3), GateConfig(policy="budget"))
    back = GateDecision.from_table(found.to_table(items(8)["item_id"]), "budget")
    assert back.chosen.tolist() == found.chosen.tolist()
    assert back.reason == found.reason
    np.testing.assert_array_equal(back.gain, found.gain)


def test_seconds_must_have_been_measured_and_sizes_must_fit() -> None:
    with pytest.raises(CaptionaryError, match="no latency was measured"):
        chosen(context(seconds=np.full(6, np.nan)), Budget(seconds=1))
    with pytest.raises(CaptionaryError, match="budget in money"):  # else nothing would seem to cost anything
        chosen(context(seconds=np.full(6, np.nan)), Budget(money=1), price_per_second=0.1)
    assert chosen(context(seconds=np.full(6, np.nan), money=np.ones(6)), Budget(money=2), price_per_item=1.0)
    with pytest.raises(CaptionaryError, match="one an item"):
        gate(items(5), context(6), Budget())
    with pytest.raises(CaptionaryError, match="budget in items"):
        chosen(context(), Budget(items=-1))


@pytest.mark.parametrize(
    ("field", "value"),
    [("share", 0.0), ("share", 1.5), ("items", -1), ("trust", 1.1), ("horizon_days", 0.0), ("cold", -1.0),
     ("policy", "best"), ("money", 1.0), ("half_life_days", float("inf"))],
)  # fmt: skip
def test_settings_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(CaptionaryError, match=field):
        GateConfig(**{field: value})  # type: ignore[arg-type]
    assert dataclasses.is_dataclass(GateConfig)
