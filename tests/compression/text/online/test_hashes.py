import numpy as np
import page_online

from lmeval.compression.text.online.hashes import fold


def test_hashes_wrap_around_as_the_page_says():
    hashed = 0
    for value in (0, 1, 255, 1 << 40, (1 << 63) - 1):
        found = int(fold(np.uint64(hashed), value))
        assert found == page_online.fold(hashed, value)
        hashed = found
