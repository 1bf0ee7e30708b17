"""The online models of section 8 of compression/FORMAT.md, written from the page in plain Python: slow, and easy to read."""

import decimal
import functools
from collections.abc import Callable, Sequence
from operator import mul

ONE = 1 << 22
SIXTY_FOUR = (1 << 64) - 1
C = 0x517CC1B727220A95
ORDERS = {True: (1, 2, 3, 4, 6, 7), False: (1, 2, 3, 4)}
LONGER = {0: 1, 1: 2, 2: 3, 3: 4, 9: 10}


def clip(x: int, a: int, b: int) -> int:
    return min(b, max(a, x))


@functools.cache
def _table(function: str, i: int, scale: int) -> int:
    with decimal.localcontext() as context:
        context.prec = 50
        x = decimal.Decimal(i)
        value = 1 / (1 + (-x / 64).exp()) if function == "logistic" else (1 + x / 1024).ln()
        return int((value * scale).to_integral_value(decimal.ROUND_HALF_EVEN))


def _log(p: int) -> int:
    e = p.bit_length() - 1
    y = (p << (24 - e)) - (1 << 24)
    i, r = y >> 14, y % (1 << 14)
    below, above = (_table("log", j, 1 << 20) for j in (i, i + 1))
    return e * _table("log", 1024, 1 << 20) + ((below * ((1 << 14) - r) + above * r) >> 14)


def _s(x: int) -> int:
    if x < 0:
        return (1 << 38) - _s(-x)
    i, r = min(x, 27 << 16) >> 10, min(x, 27 << 16) % 1024
    below, above = (_table("logistic", min(j, 1728), 1 << 38) for j in (i, i + 1))
    return (below * (1024 - r) + above * r) >> 10


@functools.cache
def logit(p: int) -> int:
    if p < 1 << 16:
        return (_log(max(p, 1)) - _log(ONE - max(p, 1))) >> 8
    if p > ONE - (1 << 16):
        return -logit(ONE - p)
    return (_log(p >> 6) - _log((1 << 16) - (p >> 6))) >> 8


@functools.cache
def squash(x: int) -> int:
    return clip(_s(16 * (16 * ((x + 49152) >> 4) - 49152)) >> 16, 1, ONE - 1)


def limit(x: int) -> int:
    return clip(x, -49151, 49151)


def rate(k: int) -> int:
    return (1 << 18) // (4 * k + 5)


def target(bit: int) -> int:
    return ONE - 1 if bit else 0


def move(v: int, r: int, bit: int) -> int:
    return v + (((target(bit) - v) * r) >> 16)


def sure(v: int) -> int:
    return clip(v, 64, ONE - 64)


def fold(h: int, *values: int) -> int:
    for v in values:
        h = (h + v) * 0x9E3779B97F4A7C15 & SIXTY_FOUR
        h ^= h >> 29
    return h


class CountedMap:
    """Probabilities by row that go slower with every use."""

    def __init__(self, begin: Callable[[int], int], ahead: int, rate_at_most: int, count_at_most: int) -> None:
        self.begin, self.ahead, self.rate_at_most, self.count_at_most = begin, ahead, rate_at_most, count_at_most
        self.rows: dict[int, tuple[int, int]] = {}

    def __getitem__(self, row: int) -> int:
        return self.rows[row][0] if row in self.rows else self.begin(row)

    def learn(self, row: int, bit: int) -> None:
        p, j = self.rows.get(row, (self.begin(row), 0))
        p = sure(move(p, rate(min(j + self.ahead, self.rate_at_most)), bit))
        self.rows[row] = p, min(j + 1, self.count_at_most)


class History:
    """What the lane has seen, and all that a step's contexts need of it."""

    def __init__(self, bytes_: bool) -> None:
        self.bytes, self.ids = bytes_, []
        self.word = self.last_word = self.last_but_one = self.letters = self.indentation = 0
        self.line, self.line_before = 0, -1
        self.followers: dict[int, int] = {}

    def s(self, t: int) -> int:
        return 1 + self.ids[t] if t >= 0 else 0

    def back(self, k: int) -> int:
        return self.s(len(self.ids) - k)

    def add(self, x: int) -> None:
        if self.bytes:
            self._add_byte(x)
        self.ids.append(x)

    def _add_byte(self, x: int) -> None:
        if self.ids:
            self.followers[self.ids[-1]] = (self.followers.get(self.ids[-1], 0) << 8 | x) % (1 << 24)
        if x >= 128 or chr(x).isalpha():
            small = x + 32 if x < 91 else x
            self.word, self.letters = fold(self.word, small + 1), self.letters + 1
        else:
            if self.letters:
                self.last_word, self.last_but_one = self.word, self.last_word
            self.word = self.letters = 0
        if x == 10:
            self.line, self.line_before, self.indentation = len(self.ids) + 1, self.line, 0
        elif x in (32, 9) and self.indentation == len(self.ids) - self.line:
            self.indentation += 1

    def unfinished(self) -> int:
        """The number of bytes of an unfinished character at the end."""
        if not self.bytes:
            return 0
        for k in (1, 2, 3):
            if not 129 <= self.back(k) <= 192:
                first = self.back(k) - 1
                return k if first >= 192 and (2 if first < 224 else 3 if first < 240 else 4) > k else 0
        return 0

    def contexts(self) -> dict[int, int]:
        return self._of_bytes() if self.bytes else self._of_tokens()

    def _of_tokens(self) -> dict[int, int]:
        c = {0: 0, 5: self.back(2)}
        for m in (1, 2, 3, 4):
            c[m] = fold(c[m - 1], self.back(m))
        return c

    def _of_bytes(self) -> dict[int, int]:
        q, t, c = self.unfinished(), len(self.ids), {}
        h, g, k = fold(q, *(self.back(k) for k in range(1, q + 1))), 0, q
        c[0] = h
        for m in range(1, 11):
            for _ in range(4):
                k += 1
                h = fold(h, self.back(k))
                g = fold(g, self.back(k)) if m == 2 else g
                if not 129 <= self.back(k) <= 192:
                    break
            if m <= 6 or m == 10:
                c[min(m, 7)] = h
        u = 0 if self.letters else self.back(1)
        at = self.line_before + t - self.line
        above = self.s(at) if self.line_before >= 0 and at < self.line else 0
        c[8] = fold(c[0] + g, 8)
        c[9] = fold(self.word, 4 * u + q)
        c[10] = fold(self.word, u, self.last_word >> 8)
        c[11] = fold(above, min(255, t - self.line))
        c[12] = fold(self.word, self.indentation, self.back(1))
        c[13] = fold(self.back(1), self.followers.get(self.ids[-1], 0) if self.ids else 0)
        c[14] = fold(self.word, u, self.last_but_one >> 8)
        c[15] = fold(c[10], self.last_but_one >> 8)
        return c


class Cell:
    def __init__(self, check: int = 0) -> None:
        self.check, self.p, self.k, self.history, self.second, self.k_second = check, ONE // 2, 0, 0, ONE // 2, 0


def base_of(c: dict[int, int], m: int) -> int:
    return fold(c[m] ^ C, m)


class Counters:
    """One lane's contexts at one step are `bases`; what a decision finds there is a list of `Found`."""

    def __init__(self, full: bool, bytes_: bool, n_lanes: int, decisions: int) -> None:
        usual = {
            (True, True): (*range(5), 6, 7, *range(8, 16)),
            (True, False): (*range(5), 6, 9),
            (False, True): range(6),
            (False, False): range(4),
        }[bytes_, full]
        own = (2, 4) if bytes_ else (1, 2)
        self.contexts = [(m, False) for m in usual] + [(m, True) for m in own if full and n_lanes >= 8]
        mapped = {(m, False) for m in ((2, 3, *range(8, 16)) if bytes_ else (2, 3, 5))}
        mapped |= {(6, False)} if not full else set()
        mapped |= {(m, True) for m in own} if not bytes_ else set()
        longer = {(m, False): (above, False) for m, above in LONGER.items() if full}
        self.maps = [CountedMap(_history_row, 8, 900, 900) if c in mapped else None for c in self.contexts]
        self.longer = [self.contexts.index(longer[c]) if c in longer else None for c in self.contexts]
        self.back = [250 if m <= 2 and not own else 120 for m, own in self.contexts]
        self.orders = [i for i, (m, own) in enumerate(self.contexts) if m in ORDERS[bytes_] and not own]
        self.size = 1 << clip((decisions * len(self.contexts)).bit_length(), 12, 24 if full else 22)
        self.cells: dict[int, Cell] = {}

    def bases(self, c: dict[int, int], lane: int) -> list[int]:
        return [fold(base_of(c, m), *([lane + 1] if own else [])) for m, own in self.contexts]

    def cell(self, at: int) -> Cell:
        return self.cells[at] if at in self.cells else Cell()

    def find(self, bases: list[int], node: int) -> list["Found"]:
        found = []
        for base, table in zip(bases, self.maps, strict=True):
            h = (base + node * 0xD6E8FEB86659FD93) * 0xC2B2AE3D27D4EB4F & SIXTY_FOUR
            check, at = (h >> 8) % (1 << 16), (h >> 32) % self.size
            if self.cell(at).check != check:
                other = self.cell(at ^ 1)
                if other.check == check or other.k < self.cell(at).k:
                    at ^= 1
            found.append(Found(at, check, self.cell(at), table))
        return found

    def inputs(self, found: list["Found"]) -> list[int]:
        more = []
        for one, table, longer in zip(found, self.maps, self.longer, strict=True):
            more += [logit(table[one.row]) if one.row else 0] if table else []
            more += [logit(one.second) if one.history else 0] if longer is not None else []
        return [logit(one.p) if one.history else 0 for one in found] + more

    def learn(self, found: list["Found"], bit: int) -> None:
        for i, one in enumerate(found):
            table, longer = self.maps[i], self.longer[i]
            if table and one.row:
                table.learn(one.row, bit)
            cell = self.cells.setdefault(one.at, Cell())
            if cell.check != one.check:
                cell = self.cells[one.at] = Cell(one.check)
            if longer is not None and str(bit) not in f"{found[longer].history:b}"[1:]:
                cell.second = sure(move(cell.second, rate(cell.k_second), bit))
                cell.k_second = min(cell.k_second + 1, 250)
            cell.p = sure(move(cell.p, rate(cell.k), bit))
            cell.k = min(cell.k + 1, self.back[i])
            cell.history = 2 * cell.history + bit if cell.history else 2 + bit
            if cell.history > 255:
                cell.history = 128 + cell.history % 128


class Found:
    """A cell as it stood when the decision was predicted, and the row of the map that was asked."""

    def __init__(self, at: int, check: int, cell: Cell, table: CountedMap | None) -> None:
        self.at, self.check, self.p, self.second = at, check, cell.p, cell.second
        self.history = cell.history if cell.check == check else 0
        self.row = 0
        if self.history and table:
            late = 128 + 16 * (self.history % 8) + clip((logit(cell.p) + (1 << 15)) >> 12, 0, 15)
            self.row = self.history if cell.k < 7 else late

    def equal(self) -> bool:
        return len(set(f"{self.history:b}"[1:])) == 1


def _history_row(row: int) -> int:
    if row >= 128:
        return sure(squash((2 * (row % 16) - 15) << 11))
    a, total, w = 1 << 21, 1 << 22, 5 << 20
    for bit in reversed(f"{row:b}"[1:]):
        a, total, w = a + w * int(bit), total + w, 4 * w // 5
    return sure(ONE * a // total)


def _by_parity(row: int, distance: int) -> int:
    return ONE - ONE // distance if row % 2 else ONE // distance


class Runs:
    def __init__(self, full: bool, bytes_: bool, n: int) -> None:
        self.models = ((0, 1, 2, 3, 4, 6, 7, 9) if bytes_ else (1, 2, 3)) if full else ()
        self.size = 1 << clip((n * len(self.models)).bit_length(), 10, 22)
        self.maps = [CountedMap(lambda row: _by_parity(row, (row >> 4) % 32 + 3), 4, 60, 60) for _ in self.models]
        self.cells: dict[int, tuple[int, int, int, int]] = {}  # check, flag, length, symbol

    def places(self, c: dict[int, int]) -> list[tuple[int, int]]:
        bases = [base_of(c, m) for m in self.models]
        return [((b >> 32) % self.size, (b >> 8) % (1 << 16)) for b in bases]

    def rows(self, places: list[tuple[int, int]], node: int, d: int, depth: int) -> list[int | None]:
        found = []
        for at, check in places:
            held, flag, length, symbol = self.cells.get(at, (-1, 0, 0, 0))
            agrees = held == check and (symbol | 1 << depth) >> (depth - d) == node
            found.append(16 * (32 * flag + length - 1) + 2 * min(d, 7) + (symbol >> (depth - 1 - d) & 1) if agrees else None)
        return found

    def learn(self, rows: list[int | None], bit: int) -> None:
        for row, table in zip(rows, self.maps, strict=True):
            if row is not None:
                table.learn(row, bit)

    def enter(self, places: list[tuple[int, int]], symbol: int) -> None:
        for at, check in places:
            held, flag, length, before = self.cells.get(at, (-1, 0, 0, 0))
            if held != check:
                self.cells[at] = check, 0, 1, symbol
            elif before != symbol:
                self.cells[at] = check, 1, 1, symbol
            else:
                self.cells[at] = check, flag, min(32, length + 1), symbol


class Match:
    """One match model: in each lane the place of a symbol that may come again."""

    def __init__(self, length: int, n: int, n_lanes: int) -> None:
        self.length, self.n, self.lanes = length, n, n_lanes
        self.size = 1 << clip((2 * n).bit_length(), 10, 20)
        self.table: dict[int, int] = {}
        self.place: list[int | None] = [None] * n_lanes
        self.agreed, self.missed = [0] * n_lanes, [0] * n_lanes
        self.map = CountedMap(self._begin, 4, 254, 250)

    @staticmethod
    def _begin(row: int) -> int:
        v = row % 64 >> 1
        return _by_parity(row, (v if row < 64 else v >> 1) + 3)

    def find(self, lane: int, histories: list[History]) -> int | None:
        """Moves the lane's place on, or finds one. The hash under which the step is to be entered."""
        history, lanes = histories[lane], self.lanes
        t, place = len(history.ids), self.place[lane]
        if t > 0 and place is not None:
            if histories[place % lanes].s(place // lanes) == history.back(1):
                self.agreed[lane] += 1
            else:
                self.agreed[lane], self.missed[lane] = 0, self.missed[lane] + 1
            if self.agreed[lane] > 16:
                self.missed[lane] = 0
            if place + lanes < self.n:
                place += lanes
            else:
                place = place % lanes + 1 if place % lanes + 1 < lanes else None
            self.place[lane] = None if place is None or place >= t * lanes or self.missed[lane] > 8 else place
        if t < self.length:
            return None
        h = fold(0, *(history.back(k) for k in range(1, self.length + 1)))
        y = self.table.get((h >> 32) % self.size)
        if y is not None and (self.place[lane] is None or self.agreed[lane] < self.length):
            there, at, v = histories[y % lanes], y // lanes, 0
            while v < min(32, at, t) and there.s(at - 1 - v) == history.back(1 + v):
                v += 1
            if v >= self.length and (self.place[lane] is None or v > self.agreed[lane]):
                self.place[lane], self.agreed[lane], self.missed[lane] = y, v, 0
        return h

    def row(self, lane: int, histories: list[History], node: int, d: int, depth: int) -> int | None:
        place, a = self.place[lane], self.agreed[lane]
        if place is None:
            return None
        symbol = histories[place % self.lanes].ids[place // self.lanes]
        if (symbol | 1 << depth) >> (depth - d) != node:
            return None
        v = a if a <= 15 else min(31, 15 + ((a - 15) >> 2))
        return 64 * min(self.missed[lane], 3) + 2 * v + (symbol >> (depth - 1 - d) & 1)


class Refined:
    def __init__(self) -> None:
        self.stages: dict[int, list[int]] = {}

    def at(self, context: int) -> list[int]:
        return self.stages.setdefault(context, [squash((j - 16) << 11) for j in range(33)])

    def get(self, x: int, context: int) -> int:
        y = clip(x, -(1 << 15), (1 << 15) - 1) + (1 << 15)
        j, r, m = y >> 11, y % (1 << 11), self.at(context)
        return (m[j] * ((1 << 11) - r) + m[j + 1] * r) >> 11

    def learn(self, x: int, context: int, bit: int) -> None:
        y = clip(x, -(1 << 15), (1 << 15) - 1) + (1 << 15)
        j, m = (y >> 11) + (y % (1 << 11) >> 10), self.at(context)
        m[j] = move(m[j], 1300, bit)


def _stepped(weights: list[int], inputs: Sequence[int], g: int) -> list[int]:
    return [clip(w + ((x * g + (1 << 17)) >> 18), -(1 << 23), 1 << 23) for w, x in zip(weights, inputs, strict=True)]


class Mixer:
    def __init__(self, first: list[int], n_sets: int, final_sets: tuple[int, ...]) -> None:
        self.first, self.n_sets, self.final_sets = first, n_sets, final_sets
        self.sets: list[dict[int, tuple[list[int], int]]] = [{} for _ in range(n_sets)]
        self.finals: list[dict[int, list[int]]] = [{} for _ in final_sets]

    def mix(self, inputs: list[int], rows: list[int]) -> tuple[int, list[int], list[int]]:
        """The log-odds of all, of each row of final weights, and of each set."""
        xs = [self._dot(of.get(at, (self.first, 0))[0], inputs) for of, at in zip(self.sets, rows, strict=True)]
        finals = [self._dot(self._final(of, rows[s]), xs) for of, s in zip(self.finals, self.final_sets, strict=True)]
        return sum(finals) // len(finals), finals, xs

    def _final(self, of: dict[int, list[int]], row: int) -> list[int]:
        return of.get(row, [(1 << 16) // self.n_sets] * self.n_sets)

    @staticmethod
    def _dot(weights: list[int], inputs: list[int]) -> int:
        return limit((sum(map(mul, weights, inputs)) + (1 << 15)) >> 16)

    def learn(self, inputs: list[int], rows: list[int], finals: list[int], xs: list[int], bit: int) -> None:
        for of, s, x in zip(self.finals, self.final_sets, finals, strict=True):
            at = rows[s]
            of[at] = _stepped(self._final(of, at), xs, (16 * (target(bit) - squash(x))) >> 14)
        for of, at, x_s in zip(self.sets, rows, xs, strict=True):
            weights, j = of.get(at, (self.first, 0))
            g = ((20 + 160000 // (400 + j)) * (target(bit) - squash(x_s))) >> 14
            of[at] = _stepped(weights, inputs, g), min(j + 1, 65535)


class Online:
    """The state of a block. `kind` 5 takes frequencies of a language model, 6 takes none."""

    def __init__(self, level: str, depth: int, n: int, n_lanes: int, kind: int = 5) -> None:
        full, bytes_ = level == "full", depth == 8
        self.depth, self.n, self.n_lanes, self.kind, self.bytes = depth, n, n_lanes, kind, bytes_
        self.histories = [History(bytes_) for _ in range(n_lanes)]
        self.counters = Counters(full, bytes_, n_lanes, n * depth)
        self.runs = Runs(full, bytes_, n)
        lengths = ((8, 20) if bytes_ else (3, 8)) if full else (6,)
        self.matches = [Match(length, n, n_lanes) for length in lengths]
        fresh = self.counters.find(self.counters.bases(dict.fromkeys(range(16), 0), 0), 1)
        before = len(self.counters.inputs(fresh))
        n_inputs = before + 2 + len(lengths) + len(self.runs.models) + 1
        first = [2184] * n_inputs
        first[before], first[-1] = 20000 if kind == 5 else 0, 0
        self.mixer = Mixer(first, 9, (0, 1, 2, 3)) if full else Mixer(first, 4, (2,))
        self.refining = ((2, 3, 9) if bytes_ else (2, 3, 4)) if full else ()
        self.given, self.refined = Refined(), [Refined() for _ in range(3 + len(self.refining))]

    def code(
        self, frequencies: Callable[[int, int], list[int]], decide: Callable[[int, int, list[int]], list[int]]
    ) -> list[list[int]]:
        """The lanes' symbols. `frequencies(t, d)` and `decide(t, d, f')` go over the lanes that have a symbol at step t."""
        for t in range(-(-self.n // self.n_lanes)):
            lanes = range(min(self.n_lanes, self.n - t * self.n_lanes))
            steps = [Step(self, lane) for lane in lanes]
            self._enter_matches(steps, t)
            for d in range(self.depth):
                given = frequencies(t, d) if self.kind == 5 else [0 for _ in lanes]
                found = [step.predict(f, d) for step, f in zip(steps, given, strict=True)]
                for step, bit in zip(steps, decide(t, d, found), strict=True):
                    step.learn(bit)
            for step in steps:
                self.histories[step.lane].add(step.node - (1 << self.depth))
        return [history.ids for history in self.histories]

    def _enter_matches(self, steps: list["Step"], t: int) -> None:
        for i, match in enumerate(self.matches):
            for step in steps:
                h = step.hashes[i]
                if h is not None:
                    match.table[(h >> 32) % match.size] = t * self.n_lanes + step.lane


class Step:
    """One symbol of one lane."""

    def __init__(self, state: Online, lane: int) -> None:
        self.state, self.lane, self.node, self.history = state, lane, 1, state.histories[lane]
        c = self.history.contexts()
        self.refining = [base_of(c, m) for m in state.refining]
        self.bases, self.places = state.counters.bases(c, lane), state.runs.places(c)
        self.hashes = [match.find(lane, state.histories) for match in state.matches]
        self.e1, self.e2 = self.history.back(1) % 256, self.history.back(2) % 256
        self.q, self.w = self.history.unfinished(), self.history.letters

    def predict(self, f: int, d: int) -> int:
        state, node, depth = self.state, self.node, self.state.depth
        self.z = z = logit(f) if state.kind == 5 else 0
        e1, e2 = self.e1, self.e2
        y1 = (256 * node + e1) % (1 << 16) if state.bytes else fold(C, node, e1) >> 48
        self.found = state.counters.find(self.bases, node)
        self.of_matches = [match.row(self.lane, state.histories, node, d, depth) for match in state.matches]
        self.of_runs = state.runs.rows(self.places, node, d, depth)
        matched = [
            0 if row is None else logit(match.map[row]) for row, match in zip(self.of_matches, state.matches, strict=True)
        ]
        runs = [0 if row is None else logit(table[row]) for row, table in zip(self.of_runs, state.runs.maps, strict=True)]
        self.given = z, y1
        refined = logit(state.given.get(z, y1)) if state.kind == 5 else 0
        self.inputs = [*state.counters.inputs(self.found), z, refined, *matched, *runs, 2048]
        best = next(((row, x) for row, x in zip(self.of_matches, matched, strict=True) if row is not None), None)
        kind = 1 + 2 * min(7, abs(best[1]) >> 12) + best[0] % 2 if best else 0
        self._rows(kind, d)
        self.x, self.finals, self.xs = state.mixer.mix(self.inputs, self.rows)
        in_stages = 256 * clip((z + (1 << 15)) >> 10, 0, 63) + node % 256
        y3 = in_stages if state.refining else fold(C, node, e1, e2) >> 48
        self.contexts = y1, 256 * kind + node % 256, y3, *(fold(base, node) >> 48 for base in self.refining)
        refinements = sum(map(lambda table, context: table.get(self.x, context), state.refined, self.contexts))
        share = 2 if state.refining else 1
        return clip((share * squash(self.x) + refinements) >> (1 + share), 1, ONE - 1)

    def _rows(self, kind: int, d: int) -> None:
        orders = [self.found[i] for i in self.state.counters.orders]
        o, same = sum(one.history > 0 for one in orders), sum(one.equal() for one in orders)
        z, v, d7 = self.z, min(abs(self.z) >> 11, 15), min(d, 7)
        rows = [
            self.node if self.state.bytes or self.node < 224 else 224 + d,
            8 * kind + d7,
            16 * o + v,
            self.e1,
            16 * (8 * self.q + d7) + o,
            self.e2,
            8 * (2 * v + (z > 0)) + d7,
            8 * min(self.w, 15) + d7,
            16 * o + same,
        ]
        self.rows = rows[: self.state.mixer.n_sets]

    def learn(self, bit: int) -> None:
        state = self.state
        state.counters.learn(self.found, bit)
        for row, match in zip(self.of_matches, state.matches, strict=True):
            if row is not None:
                match.map.learn(row, bit)
        state.runs.learn(self.of_runs, bit)
        state.given.learn(*self.given, bit)
        for table, context in zip(state.refined, self.contexts, strict=True):
            table.learn(self.x, context, bit)
        state.mixer.learn(self.inputs, self.rows, self.finals, self.xs, bit)
        self.node = 2 * self.node + bit
        if self.node >> state.depth:
            state.runs.enter(self.places, self.node - (1 << state.depth))


def adapt(
    level: str, depth: int, n_lanes: int, ids: Sequence[int], frequencies: Sequence[Sequence[int]] | None
) -> list[list[int]]:
    """f' of every decision of known symbols, in coding order; without `frequencies`, of kind 6."""
    n, found = len(ids), []

    def given(t: int, d: int) -> list[int]:
        assert frequencies is not None
        return [frequencies[i][d] for i in range(t * n_lanes, min(n, (t + 1) * n_lanes))]

    def decide(t: int, d: int, adapted: list[int]) -> list[int]:
        numbers = range(t * n_lanes, min(n, (t + 1) * n_lanes))
        if d == 0:
            found.extend([] for _ in numbers)
        for i, f in zip(numbers, adapted, strict=True):
            found[i].append(f)
        return [int(ids[i]) >> (depth - 1 - d) & 1 for i in numbers]

    Online(level, depth, n, n_lanes, 6 if frequencies is None else 5).code(given, decide)
    return found
