"""View of `lmeval compress`: size and speed of an archive, and where its bits went."""

from lmeval.report.blocks import Block
from lmeval.report.cells import speed
from lmeval.results import Report
from lmeval.results.table import facts


def view(report: Report) -> list[Block]:
    """A fact a line."""
    by_density = report.ledger["coder"] == "density"
    return [facts(*(_of_density(report) if by_density else (*_size(report), *_by_model(report), _speed(report))))]


def _of_density(report: Report) -> list[tuple[str, str]]:
    from lmeval.report.views.images import density_facts

    return density_facts(report)


def _size(report: Report) -> list[tuple[str, str]]:
    ledger = report.ledger
    source = report.results[0].of.get("file", "")
    rate = f"  {report['bits_per_byte']:.4f} bits/byte" if ledger["n_bytes"] else ""
    kinds = ", ".join(f"{row['blocks']:,} {row['kind']}" for row in report.tables["blocks"])
    return [
        ("input", f"{source}  {ledger['n_bytes']:,} bytes".strip()),
        ("archive", f"{ledger['n_archive_bytes']:,} bytes{rate}"),
        ("blocks", kinds or "none"),
    ]


def _by_model(report: Report) -> list[tuple[str, str]]:
    """What the models did; nothing where every block is plain."""
    ledger = report.ledger
    online = {"adapted", "online"} & set(report.tables["blocks"].column("kind"))
    rows = [("online models", ledger["adapt"])] if online else []
    if "overheads" not in report.tables:
        return rows
    model, length = ledger["model"], ledger["length_bits"]
    overheads = (f"{row['what']} {row['share']:.3%}" for row in report.tables["overheads"])
    return [
        *rows,
        ("model", f"{model['name']}, {model['dtype']}"),
        ("layout", f"{ledger['n_lanes']:,} lanes, context {model['window']:,}, overlap {model['overlap']:,}"),
        (
            "tolerance",
            f"{model['epsilon_nats']:.2g} nats beyond a drift of {model['drift_nats']:.2g} between passes here",
        ),
        ("ideal", f"{length['ideal'] / 8:,.0f} bytes  {report['ideal_bits_per_byte']:.4f} bits/byte"),
        ("on top", ", ".join(overheads)),
    ]


def _speed(report: Report) -> tuple[str, str]:
    speeds = {m.name: m.value for m in report.results}
    verified = f"verified {speed(speeds['verify_speed'])}" if "verify_speed" in speeds else "not verified"
    return ("speed", f"encoded {speed(speeds.get('encode_speed', 0.0))}, {verified}")
