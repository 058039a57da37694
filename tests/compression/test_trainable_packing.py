"""Where tensors go, by hand, and what that comes to for a program."""

from __future__ import annotations

import pytest

from compression.trainable.packing import Life, packed_bytes


@pytest.mark.parametrize(
    ("lives", "wanted"),
    [
        ([], 0),
        ([Life(1, 0, 0)], 64),  # rounded up
        ([Life(128, 0, 1), Life(64, 2, 3)], 128),  # one after the other
        ([Life(128, 0, 1), Life(64, 1, 3)], 192),  # both at step 1
        ([Life(256, 0, 1), Life(192, 1, 2), Life(128, 2, 3)], 448),  # the third goes below the second
        # a gap of 128 under the large ones, and one of 64: the smaller one is taken
        ([Life(256, 0, 0), Life(192, 0, 4), Life(64, 1, 4), Life(192, 1, 1)], 448),
    ],
)
def test_tensors_share_memory_where_their_lives_do_not_meet(lives: list[Life], wanted: int) -> None:
    assert packed_bytes(lives) == wanted
    assert packed_bytes(lives[::-1]) == wanted
