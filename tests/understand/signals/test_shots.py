from __future__ import annotations

import numpy as np
from PIL import Image

from captionary.understand.signals.shots import is_blank, key_moments, thumbnail

RNG = np.random.default_rng(3)
A, B, C, D = (RNG.integers(0, 256, (32, 32, 3)).astype(np.float32) for _ in range(4))
BLACK = np.zeros((32, 32, 3), np.float32)


def test_one_of_each_shot():
    assert key_moments([A, A, A, B, B, C, C, C], 8) == [0, 3, 5]


def test_a_shot_that_comes_back_is_kept_once():
    assert key_moments([A, A, B, B, A, A, B, B], 8) == [0, 2]


def test_the_first_good_moment_is_always_there():
    assert key_moments([BLACK, BLACK, A, A, B, B], 1) == [2]
    assert key_moments([A], 4) == [0]
    assert key_moments([BLACK, BLACK], 4) == [0]
    assert key_moments([], 4) == []


def test_blank_moments_are_passed_over():
    assert key_moments([A, A, BLACK, BLACK, B, B, BLACK + 255], 8) == [0, 4]
    assert is_blank(BLACK)
    assert is_blank(BLACK + 255)
    assert not is_blank(A)


def test_of_too_many_those_most_unlike_are_kept():
    nearly_a = A + 0.25 * (B - A)
    assert key_moments([A, A, nearly_a, nearly_a, C, C, D, D], 3) == [0, 4, 6]


def test_the_middle_of_a_transition_is_not_kept():
    # A dissolve from A to B: the moments in between belong to neither.
    between = [A + share * (B - A) for share in (0.25, 0.5, 0.75)]
    kept = key_moments([A, A, *between, B, B, B], 2)
    assert kept[0] == 0
    assert kept[1] >= 5


def test_a_moving_camera_is_not_many_shots():
    # A picture that changes by the same amount each moment, 8 of 255 a step: no cut stands out.
    steps = [A + k * 8 * np.sign(B - A) * (np.abs(B - A) > 8 * k) for k in range(6)]
    assert key_moments(steps, 8) == [0]


def test_thumbnail_averages():
    picture = Image.fromarray(np.kron([[0, 200], [200, 0]], np.ones((64, 64))).astype(np.uint8)).convert(
        "RGB"
    )
    small = thumbnail(picture)
    assert small.shape == (32, 32, 3)
    assert small[0, 0].tolist() == [0, 0, 0]
    assert small.mean() == (0 + 200 + 200 + 0) / 4


def test_a_small_change_between_two_large_ones_is_a_shot():
    changed = A.copy()
    changed[8:14, 8:14] = 255 - changed[8:14, 8:14]
    assert key_moments([B, B, B, A, A, A, changed, changed, changed, C, C, C], 8) == [0, 3, 6, 9]
