"""What the tables of `lmeval likelihood` show, from numbers made by hand."""

import io
from typing import Any

import numpy as np
from rich.console import Console

from lmeval.likelihood.summary import comparison_report
from lmeval.likelihood.tables import FLAG, BoundResult, SandwichResult
from lmeval.report.terminal import draw
from lmeval.report.views import view
from lmeval.results import Report

RNG = np.random.default_rng(0)
EASY = RNG.normal(-100, 10, 40)
LEDGER: dict[str, Any] = {
    "data": "digits test",
    "n": 40,
    "n_in_set": 360,
    "n_dims": 64,
    "shape": [8, 8],
    "space": "17 levels",
}
LEDGER |= {"seed": 3}
PROVENANCE: dict[str, Any] = {"inputs": {"spec": {"name": "by [hand]"}}, "device": "cpu", "n_processes": 1, "seconds": 1.25}
KDE = {"held_out": "held-out data", "n_held_out": 500, "n_samples": 2000, "bandwidth": 2.345, "at_edge": False}
VAE = BoundResult(
    "V[A]E", "latent", "SMC 16 x 30", "lower", EASY - 1, np.full(40, 7.5), np.full(40, 0.9), 5088.0, 3.1, -101.25, {}
)
MADE = BoundResult("MADE", "made", "log p", "exact", EASY, None, None, 1.0, 0.1, None, {})
FLOW = BoundResult("flow", "flow", "dequantised", "lower", EASY - 5, None, None, 1.0, 0.1, None, {})
SAMPLER = BoundResult("sampler", "implicit", "KDE", "estimate", EASY - 50, None, None, None, 2.0, None, KDE)
GAP = SandwichResult("V[A]E", "SMC 16 x 30", EASY - 20, EASY - 19.9 + RNG.normal(0, 0.01, 40), 999.0, 4.0, {})


def compared(*found: BoundResult, sandwiches: tuple[SandwichResult, ...] = (), **changes: Any) -> Report:
    return comparison_report(found, sandwiches, None, LEDGER | changes, PROVENANCE | changes)


def shown(found: Report, width: int = 300) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(draw(view(found)))
    return out.getvalue()


def line(text: str, *words: str) -> str:
    [found] = [line for line in text.splitlines() if all(word in line for word in words)]
    return found


def test_every_number_is_shown_with_interval_and_side():
    found = compared(VAE, MADE, FLOW, SAMPLER)
    text = shown(found)
    for row in found.tables["bounds"]:
        cells = line(text, row["model"], row["kind"], row["side"], f"{row['seconds']:.1f}").split("  ")
        cells = [cell.strip() for cell in cells if cell.strip()]
        assert cells[:4] == [row["model"], row["kind"], row["bound"], row["side"]]
        assert f"{row['nats']:.3f}" in cells and f"{row['bits_per_dim']:.4f}" in cells
        assert "{:.3f} to {:.3f}".format(*row["nats_ci95"]) in cells
        assert "{:.4f} to {:.4f}".format(*row["bits_per_dim_ci95"]) in cells
    vae = line(text, "V[A]E", "latent")
    assert "-101.250" in vae and " 7.5 " in vae and "100%" in vae and "5,088" in vae and vae.rstrip().endswith(FLAG)
    assert FLAG not in line(text, "MADE", "made")


def test_what_was_scored_is_said():
    text = shown(compared(VAE, MADE))
    assert "by [hand]" in text
    assert "digits test: the first 40 of 360 images of 8 x 8, 17 levels" in text
    assert "cpu, seed 3, 1.2 s" in text
    assert "cpu, 4 processes, seed 3" in shown(compared(VAE, MADE, n_processes=4))
    assert "digits test: 40 images of 8 x 8" in shown(compared(VAE, n_in_set=40))


def test_notes_are_those_that_the_table_needs():
    everything, exact = shown(compared(VAE, MADE, FLOW, SAMPLER)), shown(compared(MADE))
    for start in ("lower: ", "certificate: ", "ESS: ", "dequantised: ", "KDE of sampler: "):
        assert sum(line.startswith(start) for line in everything.splitlines()) == 1, start
        assert start not in exact
    assert "certificate: their mean log p is at least this in 99 runs of 100" in everything
    assert "intervals: 95%" in exact and "evaluations: " in exact


def test_the_estimate_states_its_failure():
    note = line(shown(compared(SAMPLER)), "KDE of sampler: ")
    assert "2,000 samples, bandwidth 2.35 levels, by 500 held-out images" in note
    assert "not the model's likelihood" in note and "order models wrongly (Wu et al. 2017)" in note
    edge = SAMPLER._replace(details=KDE | {"at_edge": True, "held_out": "samples"})
    note = line(shown(compared(edge)), "KDE of sampler: ")
    assert "by cross-validation over the samples, at the edge of those tried" in note


def test_sandwiches_are_shown_with_their_caveat():
    found = compared(VAE, sandwiches=(GAP,))
    [row], text = found.tables["sandwiches"], shown(found)
    cells = line(text, "V[A]E", f"{row['gap_nats']:.3f}")
    assert (
        f"{row['lower_nats']:.3f}" in cells and f"{row['upper_nats']:.3f}" in cells and f"{row['gap_stderr']:.3f}" in cells
    )
    assert "simulated data are another population" in text and "a proxy, not a bound" in text
    assert "simulated" not in shown(compared(VAE))


def test_differences_say_what_may_be_concluded():
    text = shown(compared(VAE, MADE, SAMPLER))
    vae = line(text, "V[A]E (SMC 16 x 30, lower) - MADE (exact)")
    assert "at least" in vae and "-1.000" in vae and vae.rstrip().endswith("does not order them")
    assert "about" in line(text, "sampler (KDE, estimate) - MADE (exact)")
    assert "paired over 40 data" in text and "only this direction can be concluded" in text
    better = VAE._replace(nats=EASY + 2 + RNG.normal(0, 0.1, 40))
    assert line(shown(compared(better, MADE)), "V[A]E (SMC").rstrip().endswith("V[A]E is better")
    assert "paired" not in shown(compared(VAE))


def test_one_datum_has_no_interval():
    one = MADE._replace(nats=EASY[:1])
    assert " to " not in line(shown(compared(one)), "MADE", "made")


def test_nothing_is_cut_off_in_a_narrow_terminal():
    text = shown(compared(VAE, MADE, sandwiches=(GAP,)), width=250)
    assert "…" not in text
