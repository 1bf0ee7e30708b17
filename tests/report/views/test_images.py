import pytest

from lmeval.report.views import view
from lmeval.report.views.images import density_facts
from lmeval.results import Measurement, Report, Table
from lmeval.results.table import count, words

DENSITY = {"name": "vae", "observation": "bernoulli", "levels": 2, "n_latent": 40, "step_bits": 4, "particle_bits": 0}
LEDGER = {
    "coder": "density",
    "n_bytes": 8000,
    "n_archive_bytes": 500,
    "n_images": 100,
    "n_coded": 60,
    "n_dims": 64,
    "initial_bits": 224,
    "verified": False,
    "encode_seconds": 2.0,
    "verify_seconds": 0.0,
    "density": DENSITY,
}


def compressed(n_images: int = 100, n_coded: int = 60) -> Report:
    ledger = LEDGER | {"n_images": n_images, "n_coded": n_coded}
    results = [Measurement("archive_bytes", 500, "bytes", "exact", of={"model": "vae", "file": "x.npy"})]
    if n_images:
        results.append(Measurement("bits_per_dim", 0.625, "bits/dim", "exact"))
    rows = [{"bound": "-IWAE, 16 samples", "bits_per_dim": 0.4, "nats": -17.7, "stderr_nats": None, "n": 80}]
    if n_coded:
        results.append(Measurement("net_bits_per_dim", 0.5, "bits/dim", "exact"))
        results.append(Measurement("excess", -0.0125, "1", "estimate", 0.002))
        rows.insert(0, {"bound": "-ELBO", "bits_per_dim": 0.5, "nats": -22.2, "stderr_nats": 0.5, "n": n_coded})
    blocks = Table((words("kind"), count("blocks")), ({"kind": "xz", "blocks": 1}, {"kind": "bits-back", "blocks": 2}))
    tables = {"blocks": blocks, "bounds": Table((words("bound"), count("n")), tuple(rows) if n_images else ())}
    return Report("compress", tuple(results), tables, ledger)


def test_net_length_stands_beside_its_bounds():
    shown = dict(density_facts(compressed()))
    assert shown == {
        "input": "x.npy  8,000 bytes, 100 images of 64 numbers",
        "archive": "500 bytes  0.62500 bits/dim",
        "blocks": "1 xz, 2 bits-back",
        "density": "vae, bernoulli, 2 levels, 40 latents on a grid of 1/16",
        "initial bits": "224, part of the archive",
        "net": "0.50000 bits/dim without them, header and frame, the 60 images that the density coded",
        "-ELBO": "0.50000 bits/dim  22.200 nats an image (standard error 0.500)",
        "excess": "-1.250% of net over -ELBO (standard error 0.200%)",
        "-IWAE, 16 samples": "0.40000 bits/dim  17.700 nats an image, first 80 images",
        "speed": "encoded 50 images/s, not verified",
    }
    [table] = view(compressed())
    assert isinstance(table, Table) and table.column("label") == list(shown)


@pytest.mark.parametrize(("n_images", "last"), [(100, "-IWAE, 16 samples"), (0, "density")])
def test_where_the_density_coded_nothing_there_is_no_net_length(n_images: int, last: str):
    facts = density_facts(compressed(n_images, 0))
    assert facts[-1][0] == last and "net" not in dict(facts)
    assert ("no images" in dict(facts)["archive"]) == (not n_images)
