"""Several models on the same images: the numbers are those of each model alone, and every one says what it is."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_densities import weights_of, write_density, write_images, write_spec
from told import Told

from lmeval.compute.place import Place
from lmeval.densities.modelfile import load_density
from lmeval.errors import DensityError, NonFiniteScore
from lmeval.likelihood import BoundSettings, log_likelihood, sandwich
from lmeval.likelihood import compare as module
from lmeval.likelihood.compare import compare
from lmeval.likelihood.kde import KdeSettings, kde_log_likelihood
from lmeval.likelihood.prepare import prepare
from lmeval.likelihood.spec import read_spec
from lmeval.results import Report, as_json
from lmeval.results.items import groups

ALONE = Place(0, 1, torch.device("cpu"))
BOUNDS = ["elbo", {"iwae": 50}, {"smc": {"particles": 8, "temperatures": 4}}, {"ais": {"particles": 8, "temperatures": 4}}]
SAMPLER = {"name": "sampler", "model": "implicit", "kde": {"samples": 200, "bandwidths": [0.3, 0.5]}}
MODELS = [
    {"name": "VAE", "model": "latent", "bounds": BOUNDS, "sandwich": 6},
    {"name": "MADE", "model": "made"},
    SAMPLER,
]


def compared(folder: Path, models: list[dict[str, Any]], **changes: Any) -> Report:
    spec = read_spec(write_spec(folder / "spec.yaml", models, **changes))
    return compare(prepare(spec), place=ALONE)


def nats_of(report: Report) -> list[np.ndarray]:
    """The numbers of all data, of each model and bound in the order of the table."""
    assert report.items is not None
    return [
        np.array([r.values["log_likelihood_nats"] for r in records]) for records in groups(report.items.records).values()
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compare")
    for kind in ("latent", "made", "implicit"):
        write_density(path / kind, kind, 2)
    for kind in ("flow", "implicit"):
        write_density(path / f"grey-{kind}", kind, 256)
    write_images(path / "images.npy")
    return path


@pytest.fixture(scope="module")
def found(folder: Path) -> Report:
    return compared(folder, MODELS, seed=3)


def test_every_model_has_all_its_numbers(found: Report):
    rows = found.tables["bounds"].rows
    assert [(row["model"], row["kind"], row["bound"], row["side"]) for row in rows] == [
        ("VAE", "latent", "ELBO", "lower"),
        ("VAE", "latent", "IWAE-50", "lower"),
        ("VAE", "latent", "SMC 8 x 4", "lower"),
        ("VAE", "latent", "AIS 8 x 4", "lower"),
        ("MADE", "made", "log p", "exact"),
        ("sampler", "implicit", "KDE", "estimate"),
    ]
    assert {len(nats) for nats in nats_of(found)} == {12}
    assert [row["certificate_nats"] is not None for row in rows] == [True] * 4 + [False] * 2
    assert [row["median_ess"] is not None for row in rows] == [False, True, True, True, False, False]


def test_the_numbers_are_those_of_each_model_alone(folder: Path, found: Report):
    x = prepare(read_spec(write_spec(folder / "spec.yaml", MODELS))).x
    vae, made, sampler = (load_density(folder / name).model for name in ("latent", "made", "implicit"))
    settings: dict[str, Any] = {"particles": 8, "temperatures": 4, "seed": 3}
    elbo, iwae, smc, ais, exact, kde = nats_of(found)
    np.testing.assert_array_equal(elbo, log_likelihood(vae, x, "elbo", BoundSettings(seed=3)).nats)
    np.testing.assert_array_equal(iwae, log_likelihood(vae, x, "iwae", BoundSettings(particles=50, seed=3)).nats)
    np.testing.assert_array_equal(smc, log_likelihood(vae, x, "smc", BoundSettings(**settings)).nats)
    np.testing.assert_array_equal(ais, log_likelihood(vae, x, "ais", BoundSettings(**settings)).nats)
    with torch.no_grad():
        np.testing.assert_allclose(exact, made.log_prob(x).double().numpy(), rtol=1e-6)  # pyright: ignore
    alone = kde_log_likelihood(sampler, x, 2, KdeSettings(samples=200, bandwidths=[0.3, 0.5], seed=3))
    np.testing.assert_array_equal(kde, alone.nats)


def test_the_made_is_normalised_in_the_table_too(folder: Path):
    # All 512 binary images of nine pixels: their probabilities sum to 1, so the table's numbers are log p and nothing else.
    images = (np.arange(512)[:, None] >> np.arange(9) & 1).astype(np.uint8).reshape(512, 3, 3)
    np.save(folder / "all.npy", images)
    write_density(folder / "static", "made", 2, binarisation="static")
    [nats] = nats_of(compared(folder, [{"model": "static"}], data={"images": "all.npy"}))
    assert math.fsum(np.exp(nats)) == pytest.approx(1, abs=1e-5)


def test_the_certificate_is_the_one_of_the_bound(found: Report):
    for row, nats in list(zip(found.tables["bounds"], nats_of(found), strict=True))[:4]:
        assert row["certificate_nats"] == pytest.approx(nats.mean() - math.log(100) / 12)


def test_the_sandwich_has_the_settings_of_the_last_annealed_bound(folder: Path, found: Report):
    vae = load_density(folder / "latent").model
    alone = sandwich(vae, 6, BoundSettings(particles=8, temperatures=4, seed=3, resample_below=0.0))
    [row] = found.tables["sandwiches"]
    assert (row["model"], row["bound"], row["n"]) == ("VAE", "AIS 8 x 4", 6)
    assert row["gap_nats"] == pytest.approx((alone.upper.nats - alone.lower.nats).mean(), abs=1e-12)
    assert row["details"]["upper"]["method"] == "conditional smc"
    both = alone.lower.n_gradients + alone.upper.n_gradients - 2 * alone.lower.n_pilot  # the weighted runs
    assert row["n_evaluations"] == pytest.approx(both + alone.lower.n_pilot)  # and one pilot


def test_bounds_lie_on_their_sides(found: Report):
    elbo, iwae, smc = (nats.mean() for nats in nats_of(found)[:3])
    assert elbo < iwae + 0.05 and elbo < smc + 0.05
    assert abs(iwae - smc) < 0.3  # a small model: both have nearly converged


def test_a_flow_on_levels_is_a_lower_bound_and_says_so(folder: Path):
    models = [{"name": "flow", "model": "grey-flow"}, {"name": "sampler", "model": "grey-implicit", "kde": {"samples": 50}}]
    found = compared(folder, models, data={"images": "images.npy"})
    flow, kde = found.tables["bounds"].rows
    assert (flow["side"], flow["bound"], flow["certificate_nats"]) == ("lower", "dequantised", None)
    assert kde["side"] == "estimate" and kde["details"]["held_out"] == "samples"
    [row] = found.tables["differences"]
    assert (row["model"], row["reference"], row["side"]) == ("sampler", "flow", "estimate")
    assert [m.side for m in found.results][:2] == ["lower", "upper"]


def test_held_out_images_choose_the_bandwidth(folder: Path):
    write_images(folder / "others.npy", 9, seed=5)
    kde = {"samples": 200, "bandwidths": [0.3, 0.5, 0.8], "held_out": {"images": "others.npy", "limit": 8}}
    [row] = compared(folder, [SAMPLER | {"kde": kde}]).tables["bounds"].rows
    details = row["details"]
    assert details["held_out"] == "held-out data"
    assert details["n_held_out"] + details["n_shared"] == 8
    assert [width for width, _ in details["scores"]] == [0.3, 0.5, 0.8]


def test_where_it_came_from_is_written_down(folder: Path, found: Report):
    ledger, provenance = found.ledger, found.provenance
    assert ledger["data"] == "images.npy" and ledger["n"] == 12 and ledger["n_dims"] == 9 and ledger["seed"] == 3
    assert ledger["tags"] == {"levels": 2, "binarisation": "sampled", "seed": 0, "transform": None, "at": None}
    assert [m["weights_sha256"] for m in provenance["models"]] == [
        load_density(folder / name).weights_sha256 for name in ("latent", "made", "implicit")
    ]
    assert {"torch", "lmeval", "scikit-learn", "zuko"} <= provenance["versions"].keys()
    assert {name: len(read["sha256"]) for name, read in provenance["inputs"].items()} == {"spec": 64, "data": 64}
    smc = found.tables["bounds"][2]
    assert smc["details"]["settings"]["temperatures"] == 4 and smc["details"]["settings"]["seed"] == 3
    assert smc["n_evaluations"] > smc["details"]["n_pilot"] > 0
    assert str(folder) not in json.dumps(as_json(found))  # names as the spec has them
    assert found.items is not None and len(found.items.records) == 6 * 12
    assert {record.of["data"] for record in found.items.records} == {"images.npy, 2 levels, sampled (seed 0)"}


def test_a_limit_takes_the_first_data_and_changes_nothing_else(folder: Path, found: Report):
    data = {"images": "images.npy", "binarise": {"seed": 0}, "limit": 4}
    first = compared(folder, MODELS[:2], seed=3, data=data)
    for ours, whole in zip(nats_of(first), nats_of(found), strict=False):
        np.testing.assert_allclose(ours, whole[:4], atol=1e-3)
    assert first.tables["differences"][0]["n"] == 4


def test_another_seed_gives_other_draws(folder: Path, found: Report):
    other = compared(folder, MODELS, seed=4)
    models = other.tables["bounds"].column("model")
    for model, ours, before in zip(models, nats_of(other), nats_of(found), strict=True):
        assert np.array_equal(ours, before) == (model == "MADE")


def test_progress_names_what_is_done(folder: Path):
    told = Told()
    spec = read_spec(write_spec(folder / "spec.yaml", MODELS))
    compare(prepare(spec), place=ALONE, progress=told)
    assert [name for name, _, _ in told.stages] == [
        "VAE: ELBO",
        "VAE: IWAE-50",
        "VAE: SMC 8 x 4",
        "VAE: AIS 8 x 4",
        "VAE: sandwich",
        "MADE: log p",
        "sampler: bandwidth",
    ]
    assert {name: sum(told.counts[name]) for name, _, _ in told.stages} == {name: total for name, total, _ in told.stages}


def test_an_error_names_its_model(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(model: Any, *_: Any, **__: Any) -> None:
        raise NonFiniteScore("a chain failed")

    monkeypatch.setattr(module, "score_checked", fails)
    with pytest.raises(NonFiniteScore, match=r"^MADE: a chain failed$"):
        compared(folder, MODELS[1:])


def test_a_model_that_fails_on_some_data_gives_no_number(folder: Path):
    weights = weights_of("made", 2)
    weights["a.weight"][:, 0] = 1e38  # overflows where the first pixel is 1
    write_density(folder / "sometimes", "made", 2, weights)
    with pytest.raises((DensityError, NonFiniteScore)) as caught:
        compared(folder, [{"name": "MADE", "model": "sometimes"}])
    assert str(caught.value).startswith("MADE: ") and "\n" not in str(caught.value)


def test_the_callers_threads_are_given_back(folder: Path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        compared(folder, [MODELS[0]])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
