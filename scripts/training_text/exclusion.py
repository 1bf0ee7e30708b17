"""What no training text may hold: texts that models are tested on, found by their bytes, their names and their sentences."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHINGLE = 64


def window_hashes(data: bytes) -> NDArray[np.uint64]:
    """Return the hash of every window of SHINGLE bytes of `data`, at every offset."""
    symbols = np.frombuffer(data, np.uint8).astype(np.uint64)
    n = len(symbols) - SHINGLE + 1
    hashes = np.zeros(max(n, 0), np.uint64)
    for offset in range(SHINGLE if n > 0 else 0):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + symbols[offset : offset + n] + np.uint64(1)
    return hashes


def hashes_of_folder(folder: Path) -> NDArray[np.uint64]:
    """Return the sorted hashes of all windows of all files under `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return np.unique(np.concatenate([window_hashes(path.read_bytes()) for path in files]))


def shared_blocks(data: bytes, excluded: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Return the indices of the SHINGLE-aligned blocks of `data` whose hash is in `excluded` (sorted).

    Any stretch of at least 2 * SHINGLE - 1 bytes common with an excluded file holds such a block. Blocks of fewer than
    12 different bytes (rules, blanks) do not count.
    """
    n = len(data) // SHINGLE
    if not n or not len(excluded):
        return np.zeros(0, np.intp)
    blocks = np.frombuffer(data, np.uint8)[: n * SHINGLE].reshape(n, SHINGLE)
    hashes = np.zeros(n, np.uint64)
    for offset in range(SHINGLE):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + blocks[:, offset].astype(np.uint64) + np.uint64(1)
    at = np.minimum(np.searchsorted(excluded, hashes), len(excluded) - 1)
    hits = np.flatnonzero(excluded[at] == hashes)
    return np.array([hit for hit in hits if len(set(blocks[hit].tolist())) >= 12], np.intp)


def shares_text(data: bytes, excluded: NDArray[np.uint64]) -> bool:
    return len(shared_blocks(data, excluded)) > 0


EXCLUDED_PATHS = re.compile(
    r"(?i)pydoc_data|alice29|asyoulik|lcet10|plrabn12|kennedy\.xls|fields\.c$|grammar\.lsp|xargs\.1|/ptt5|/book[12]$|/paper[1-6]$"
    r"|shakespeare|udhr|enwik|text8|wikitext|tinystor|silesia|calgary|canterbury|E\.coli|world192|webster|LICENSE|COPYING"
)
EXCLUDED_TEXT = (
    "universal declaration of human rights",
    "universal de derechos humanos",
    "universal de los derechos humanos",
    "universelle des droits de l",
    "erklärung der menschenrechte",
    "всеобщая декларация прав человека",
    "世界人权宣言",
    "世界人權宣言",
    "世界人権宣言",
    "all human beings are born free",
    "exeunt",
    "enter hamlet",
    "down the rabbit-hole",
    "of man's first disobedience",
    "bathsheba everdene",
    "in the beginning god created the heaven and the earth.",
)


def names_excluded_text(text: str) -> bool:
    lower = text.lower()
    return any(sentence in lower for sentence in EXCLUDED_TEXT)
