import numpy as np
import pytest

from captionary.world.catalogue import Catalogue, draw_catalogue
from captionary.world.policy import Policy
from captionary.world.settings import WorldConfig
from captionary.world.tastes import Tastes

CONFIG = WorldConfig(users=400, items=500, compositions=40, days=32)
DAY = 16
N = 20_000


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return draw_catalogue(CONFIG)


def shown(
    catalogue: Catalogue, surface: int = 0, day: int = DAY, policy: Policy | None = None, **changes: float
):
    config = WorldConfig(**(vars(CONFIG) | changes))
    tastes = Tastes(config, catalogue)
    user = np.random.default_rng(0).integers(0, config.users, N)
    policy = policy or Policy(config, catalogue)
    items = policy.choose(np.random.default_rng(1), tastes, day, user, np.full(N, surface, np.int8))
    return user, items, tastes


def test_only_what_has_come_in_is_shown(catalogue: Catalogue) -> None:
    _, items, _ = shown(catalogue)
    assert catalogue.created[items].max() < DAY
    assert len(np.unique(items)) > 0.9 * len(catalogue.live(DAY))


def test_new_items_are_shown_more(catalogue: Catalogue) -> None:
    _, items, _ = shown(catalogue, semantic_strength=0.0)
    count = np.bincount(items, minlength=catalogue.size)
    age = DAY - catalogue.created
    new, old = count[(age > 0) & (age < 2)].mean(), count[age > 20].mean()
    # 0.15 + 0.85 · 0.5^(1/4) against 0.15 + 0.85 · 0.5^(>5)
    assert 3 < new / old < 8


def test_exposure_follows_the_tastes_it_sees_by_page(catalogue: Catalogue) -> None:
    random = np.random.default_rng(2).permutation(N)
    lift = []
    for surface in (0, 1, 2):
        user, items, tastes = shown(catalogue, surface)
        gain = tastes.affinity(user, items, DAY).mean(0) - tastes.affinity(user[random], items, DAY).mean(0)
        lift.append(gain)
    feed, explore, friends = np.array(lift)
    assert feed[:2].sum() > explore[:2].sum() + 0.1
    assert explore[:2].sum() > friends[:2].sum() + 0.1
    assert abs(friends.sum()) < 0.05
    assert feed[2] < 0.3 * feed[:2].sum()  # compositions are not seen, whatever they have to do with objects


def test_without_semantics_exposure_does_not_know_tastes(catalogue: Catalogue) -> None:
    _, one, _ = shown(catalogue, semantic_strength=0.0)
    _, other, _ = shown(catalogue, semantic_strength=0.0, shared_taste=3.0, taste_drift=2.0)
    assert (one == other).all()
    assert (one != shown(catalogue)[1]).any()


def test_hardly_anything_is_shown_to_a_user_twice_in_a_call(catalogue: Catalogue) -> None:
    user, items, _ = shown(catalogue)
    # 50 draws for each user out of some 340 live items: without care a tenth and more would be repeats.
    repeats = 1 - len(np.unique(user * catalogue.size + items)) / N
    assert repeats < 0.005


def test_what_pleased_is_shown_more_and_it_wears_off(catalogue: Catalogue) -> None:
    live = catalogue.live(DAY)
    policy = Policy(CONFIG, catalogue)
    favourite = live[:50]
    policy.observe(np.repeat(live, 20), np.repeat(np.isin(live, favourite), 20))
    before = np.isin(shown(catalogue)[1], favourite).mean()
    after = np.isin(shown(catalogue, policy=policy)[1], favourite).mean()
    for _ in range(60):
        policy.end_day()
    late = np.isin(shown(catalogue, policy=policy)[1], favourite).mean()
    assert after > 1.5 * before
    assert abs(late - before) < 0.15 * before
