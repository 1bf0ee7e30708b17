import pytest

from lmeval.progress import SILENT, counting


class Counted:
    def __init__(self) -> None:
        self.numbers: list[int] = []

    def stage(self, name: str, total: int | None, unit: str) -> None:
        raise AssertionError("no stage begins")

    def advance(self, n: int, note: str = "") -> None:
        self.numbers.append(n)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 1.0, 3.7])
def test_whole_numbers_add_up(rate: float):
    counted = Counted()
    advance = counting(counted, rate)
    for n in range(50):
        advance(n)
    assert abs(sum(counted.numbers) - rate * 1225) <= 1
    assert all(isinstance(n, int) for n in counted.numbers)


def test_nobody_needs_to_listen():
    SILENT.stage("nothing", None, "bytes")
    counting(SILENT, 0.5)(3)
