import pytest
from samples import PROSE, babble, talker

from lmeval.compression.benchmark.baselines import BASELINES
from lmeval.compression.benchmark.run import benchmark
from lmeval.errors import EmptyInput, InputError
from lmeval.results import Report, find

TEXTS = [("babble", babble(4000)), ("prose", PROSE.encode())]
MODEL = "talker-0"


class Heard:
    """Counts what is done in every stage."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.totals: dict[str, int | None] = {}

    def stage(self, name: str, total: int | None, unit: str) -> None:
        assert unit == "bytes"
        self.now = name
        self.done.setdefault(name, 0)
        self.totals[name] = total

    def advance(self, n: int, note: str = "") -> None:
        self.done[self.now] += n


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def report(heard: Heard) -> Report:
    return benchmark(TEXTS, [talker()], levels=("none",), place="cpu", progress=heard)


def test_every_corpus_and_compressor_has_a_row_an_item_and_measurements(report: Report):
    pairs = [(name, compressor) for name, _ in TEXTS for compressor in (MODEL, *BASELINES)]
    table = report.tables["benchmark"]
    assert [(row["corpus"], row["compressor"]) for row in table] == pairs
    assert report.items is not None
    assert [(record.item, record.of["compressor"]) for record in report.items.records] == pairs
    for row, record in zip(table, report.items.records, strict=True):
        assert row["bits_per_byte"] == 8 * record.values["archive_bytes"] / record.values["n_bytes"]
        of = {"corpus": row["corpus"], "compressor": row["compressor"]}
        for name in ("bits_per_byte", "encode_speed", "decode_speed"):
            assert find(report, name, **of).value == row[name]
        assert row["encode_speed"] == pytest.approx(record.values["n_bytes"] / record.values["encode_seconds"])
    assert report.ledger["verified"]


def test_the_ideal_is_of_models_alone(report: Report):
    ideal = [m for m in report.results if m.name == "ideal_bits_per_byte"]
    assert [(m.of["corpus"], m.of["compressor"]) for m in ideal] == [("babble", MODEL)]  # it codes no prose
    [first, *_] = report.tables["benchmark"]
    assert first["overhead"] > 0 and ideal[0].value == first["ideal_bits_per_byte"] < first["bits_per_byte"]
    for row in report.tables["benchmark"]:
        assert (row["total_bytes"] is None) == (row["compressor"] in BASELINES)


def test_provenance_says_what_was_compressed_with_what(report: Report):
    assert [corpus["n_bytes"] for corpus in report.provenance["inputs"]["corpora"]] == [len(data) for _, data in TEXTS]
    [model] = report.provenance["models"]
    assert model["name"] == MODEL and model["model_bytes"] == 4 * model["n_parameters"]
    assert report.provenance["settings"]["levels"] == ["none"]


def test_every_stage_is_done_to_its_end(report: Report, heard: Heard):
    assert report.ledger["verified"]
    for name, data in TEXTS:
        stages = [f"{name}: {MODEL}: encoding", f"{name}: {MODEL}: decoding", *(f"{name}: {b}" for b in BASELINES)]
        assert [heard.totals[stage] for stage in stages] == [len(data)] * len(stages)
        assert [heard.done[stage] for stage in stages] == [len(data)] * len(stages)


def test_scorers_stand_between_models_and_baselines():
    def even(past: bytes) -> list[float]:
        return [1 / 256] * 256

    def rising(past: bytes) -> list[float]:
        return [(1 + len(past)) / 256] * 256

    heard = Heard()
    report = benchmark(TEXTS[:1], [], scorers=[even, rising], place="cpu", progress=heard)
    [of_even, of_rising, *of_others] = report.tables["benchmark"]
    assert of_even["verified"] and of_even["ideal_bits_per_byte"] == 8 and of_even["overhead"] < 0.01
    assert of_rising["refused"] == "sums to 2 at byte 1" and [row["compressor"] for row in of_others] == list(BASELINES)
    assert [heard.done[f"babble: {of_even['compressor']}: {stage}"] for stage in ("encoding", "decoding")] == [4000, 4000]
    assert report.ledger["verified"]


def test_corpora_need_bytes_and_names_of_their_own():
    with pytest.raises(EmptyInput, match="nothing is empty"):
        benchmark([("nothing", b"")], [talker()], place="cpu")
    with pytest.raises(InputError, match="2 corpora are called a"):
        benchmark([("a", b"x"), ("a", b"y")], [talker()], place="cpu")
