import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.world.catalogue import FIRST_COMPOSITION, FIRST_PLACE, Catalogue, draw_catalogue
from captionary.world.settings import WorldConfig
from captionary.world.tastes import Tastes

CONFIG = WorldConfig(users=600, items=300, compositions=40, shared_taste=0.0)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return draw_catalogue(CONFIG)


def every_pair(catalogue: Catalogue, users: int) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(users), catalogue.size), np.tile(np.arange(catalogue.size), users)


def table(tastes: Tastes) -> np.ndarray:
    return tastes._table.copy()


def test_affinity_is_the_sum_of_what_a_user_feels_for_the_parts(catalogue: Catalogue) -> None:
    tastes = Tastes(CONFIG, catalogue)
    user, item = np.array([5, 17]), np.array([3, 250])
    felt = table(tastes)
    expected = []
    for u, i in zip(user, item, strict=True):
        subject, other, extra, place, composition = catalogue.concepts[i]
        objects = 1.0 * felt[u, subject] + 0.7 * felt[u, other] + 0.3 * felt[u, extra]
        expected.append([objects, felt[u, place], felt[u, composition]])
    np.testing.assert_allclose(tastes.affinity(user, item, 0), expected, rtol=1e-5)


def test_tastes_are_sparse_and_of_three_kinds(catalogue: Catalogue) -> None:
    felt = table(Tastes(CONFIG, catalogue)) != 0
    objects = felt[:, :FIRST_PLACE].sum(1)
    places = felt[:, FIRST_PLACE:FIRST_COMPOSITION].sum(1)
    compositions = felt[:, FIRST_COMPOSITION:-1].sum(1)
    assert (objects.min(), objects.max()) == (1, 3 + 1)
    assert (places.min(), places.max()) == (1, 2 + 1)
    assert (compositions.min(), compositions.max()) == (1, 4 + 1)
    assert not felt[:, -1].any()  # nobody feels anything for what is not there


def test_who_likes_a_composition_need_not_like_its_subject(catalogue: Catalogue) -> None:
    felt = table(Tastes(CONFIG, catalogue))
    user, composition = np.nonzero(felt[:, FIRST_COMPOSITION:-1] > 0)
    subject = catalogue.mix.compositions[composition, 0]
    assert (felt[user, subject] == 0).mean() > 0.5


def test_communities_like_things_together(catalogue: Catalogue) -> None:
    likes = (table(Tastes(CONFIG, catalogue)) > 0).astype(int)
    pairs = np.triu_indices(CONFIG.users, 1)
    things = (likes[:, :FIRST_PLACE] @ likes[:, :FIRST_PLACE].T)[pairs]
    scenes = (likes[:, FIRST_COMPOSITION:] @ likes[:, FIRST_COMPOSITION:].T)[pairs]
    # Who shares objects shares compositions too, though one pair in 16 only is of one community.
    assert np.corrcoef(things, scenes)[0, 1] > 8 / np.sqrt(len(things))


def test_drift_is_first_order_autoregressive_and_stationary(catalogue: Catalogue) -> None:
    config = WorldConfig(users=600, items=300, compositions=40, taste_drift=0.5, taste_memory=0.9)
    tastes = Tastes(config, catalogue)
    wander = []
    for day in range(6):
        tastes.affinity(np.array([0]), np.array([0]), day)
        wander.append(tastes._wander.copy().ravel())
    for day in range(6):
        assert abs(wander[day].std() - 1) < 0.03
    assert abs(np.corrcoef(wander[0], wander[1])[0, 1] - 0.9) < 0.01
    assert abs(np.corrcoef(wander[0], wander[5])[0, 1] - 0.9**5) < 0.04


def test_no_drift_leaves_tastes_as_they_are(catalogue: Catalogue) -> None:
    tastes = Tastes(WorldConfig(users=50, items=300, compositions=40, taste_drift=0.0), catalogue)
    user, item = every_pair(catalogue, 50)
    assert (tastes.affinity(user, item, 0) == tastes.affinity(user, item, 20)).all()


def test_the_day_counts_and_not_the_order_in_which_days_are_asked_for(catalogue: Catalogue) -> None:
    user, item = every_pair(catalogue, 100)
    forward = [Tastes(CONFIG, catalogue).affinity(user, item, day) for day in (0, 4, 9)]
    tastes = Tastes(CONFIG, catalogue)
    for day, expected in ((9, forward[2]), (0, forward[0]), (4, forward[1]), (9, forward[2])):
        assert (tastes.affinity(user, item, day) == expected).all()
    assert (forward[0] != forward[1]).any()
    with pytest.raises(CaptionaryError, match="day == -1, must be >= 0"):
        tastes.affinity(user, item, -1)


def test_more_users_leave_the_first_ones_as_they_were(catalogue: Catalogue) -> None:
    few, many = (WorldConfig(users=n, items=300, compositions=40) for n in (100, 700))
    user, item = every_pair(catalogue, 100)
    for day in (0, 3):
        a = Tastes(few, catalogue).affinity(user, item, day)
        assert (a == Tastes(many, catalogue).affinity(user, item, day)).all()


def test_shared_taste_is_the_same_for_everybody(catalogue: Catalogue) -> None:
    alone, shared = (
        Tastes(CONFIG, catalogue),
        Tastes(WorldConfig(**(vars(CONFIG) | {"shared_taste": 1.0})), catalogue),
    )
    user, item = every_pair(catalogue, 3)
    extra = (shared.affinity(user, item, 0) - alone.affinity(user, item, 0)).reshape(3, catalogue.size, 3)
    np.testing.assert_allclose(extra[0], extra[2], atol=1e-5)
    assert extra[0].std() > 0.5
