import numpy as np
import pytest
from scipy.special import expit

from captionary.errors import CaptionaryError
from captionary.world.market import World
from captionary.world.responses import Context
from captionary.world.settings import WorldConfig
from captionary.world.tasks import CONSUMPTION, LONG_SECONDS, TASKS, TIME_SPENT

CONFIG = WorldConfig(users=500, items=300, compositions=40)
N = 40_000


@pytest.fixture(scope="module")
def world() -> World:
    return World(CONFIG)


def pairs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 500, N), rng.integers(0, 300, N)


def test_logits_add_up(world: World) -> None:
    user, item = np.array([7, 8]), np.array([9, 10])
    same = world.truth.logits(user, item, 2)
    affinity = world.tastes.affinity(user, item, 2)
    device = world.truth._device[world.users.device[user]]
    expected = world.truth._base + world.users.bias[user] + world.catalogue.quality[item] + device
    expected = expected + affinity @ np.array([task.taste for task in TASKS]).T
    np.testing.assert_allclose(same, expected, rtol=1e-5)
    context = Context(np.array([2, 1], np.int8), np.array([5, 23], np.int8))
    extra = world.truth._surface[[2, 1]] + world.truth._hour[[5, 23]]
    np.testing.assert_allclose(world.truth.logits(user, item, 2, context), expected + extra, rtol=1e-5)


def test_labels_are_drawn_with_the_true_probabilities(world: World) -> None:
    user, item = pairs()
    given = world.respond(user, item, 0, np.random.default_rng(1))
    np.testing.assert_allclose(given.probabilities, expit(world.truth.logits(user, item, 0)))
    for task in range(len(TASKS)):
        p, y = given.probabilities[:, task], given.labels[:, task]
        for part in np.array_split(np.argsort(p), 8):  # calibrated at every level, not on average alone
            sigma = np.sqrt((p[part] * (1 - p[part])).sum())
            assert abs(y[part].sum() - p[part].sum()) < 4 * sigma


def test_tasks_respond_each_on_its_own_given_the_truth(world: World) -> None:
    user, item = np.full(N, 3), np.full(N, 4)
    labels = world.respond(user, item, 0, np.random.default_rng(2)).labels
    correlation = np.corrcoef(labels.T.astype(float)) - np.eye(len(TASKS))
    assert np.abs(correlation).max() < 5 / np.sqrt(N)


def test_durations_and_shares_agree_with_the_labels(world: World) -> None:
    user, item = pairs()
    given = world.respond(user, item, 0, np.random.default_rng(3))
    assert (given.labels[:, TIME_SPENT] == (given.seconds >= np.float32(LONG_SECONDS))).all()
    assert ((given.seconds >= np.float32(0.1)) & (given.seconds <= 600)).all()
    assert (given.watched[given.labels[:, CONSUMPTION]] == 1).all()
    assert (given.watched[~given.labels[:, CONSUMPTION]] < 1).mean() > 0.999
    assert given.watched.min() > 0


def test_at_strength_0_no_response_knows_the_picture() -> None:
    world = World(WorldConfig(**(vars(CONFIG) | {"semantic_strength": 0.0})))
    user, item = pairs()
    before = world.truth.logits(user, item, 0)
    shuffled = np.random.default_rng(4).permutation(world.catalogue.concepts)
    world.tastes._concepts = shuffled
    assert (world.truth.logits(user, item, 5) == before).all()  # nor drift
    strong = World(CONFIG)
    before = strong.truth.logits(user, item, 0)
    strong.tastes._concepts = shuffled
    assert (strong.truth.logits(user, item, 0) != before).any()


def test_the_same_generator_gives_the_same_responses(world: World) -> None:
    user, item = pairs()
    one, same, other = (world.respond(user, item, 0, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert (one.labels != other.labels).any()


def test_showing_what_users_like_raises_the_rates(world: World) -> None:
    user, item = pairs()
    day = CONFIG.days + 3  # a live simulation goes on after the log
    liked = world.tastes.affinity(user, item, day).sum(1)
    best = np.argsort(liked)[-N // 10 :]
    rng = np.random.default_rng(7)
    better = world.respond(user[best], item[best], day, rng).labels.mean(0)
    usual = world.respond(user, item, day, rng).labels.mean(0)
    assert (better > 1.5 * usual).all()


def test_strangers_are_refused(world: World) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(CaptionaryError, match="user == 0 to 500, must be 0 to 499"):
        world.respond(np.array([0, 500]), np.array([0, 0]), 0, rng)
    with pytest.raises(CaptionaryError, match="item == -1 to -1, must be 0 to 305"):
        world.respond(np.array([0]), np.array([-1]), 0, rng)
    with pytest.raises(CaptionaryError, match="items == 1, must be as many as users, 2"):
        world.respond(np.array([0, 1]), np.array([0]), 0, rng)
    assert world.respond(np.array([], int), np.array([], int), 0, rng).labels.shape == (0, len(TASKS))
