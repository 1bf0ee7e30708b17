import pytest

from lmeval.progress import paced


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 1.0, 3.7])
def test_whole_numbers_add_up(rate: float):
    seen: list[int] = []
    count = paced(seen.append, rate)
    for n in range(50):
        count(n)
    assert abs(sum(seen) - rate * 1225) <= 1
    assert all(isinstance(n, int) for n in seen)


def test_nobody_needs_to_listen():
    paced(None, 0.5)(3)
