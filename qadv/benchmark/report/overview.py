"""Settings of a study, its missing cells, its networks and attacks, and the sources of its figures."""

from qadv.benchmark.report.content import Block, Note, Row, Section, Table, Text, Value
from qadv.benchmark.report.numbers import ABSENT, mean_value, plain_options
from qadv.benchmark.report.results import CellResult, StudyResults
from qadv.benchmark.report.worst_case import ball_of


def facts(results: StudyResults) -> tuple[tuple[str, str], ...]:
    """Returns the settings of a study by name."""
    study = results.study
    made = [cell for network in results.networks for cell in results.made(network) if cell.there]
    images = sorted({cell.record["spec"]["nb_train"] for cell in made})
    training = ", ".join(f"{count:,}" for count in images) or (f"{study.nb_train:,}" if study.nb_train else "all")
    there = len({cell.key for cell in results.cells if cell.there})
    return (
        ("data", ", ".join(study.datasets)),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("training images", training),
        ("attacked images", f"{study.nb_test:,}"),
        ("setting", "small" if results.plan.get("small") else "full"),
        ("cells", f"{there} of {len({cell.key for cell in results.cells})} computed"),
    )


def missing_section(results: StudyResults) -> Section | None:
    """Returns which cells are not there, and why; `None` where all are."""
    cells: dict[str, CellResult] = {}
    for cell in results.not_there:
        cells.setdefault(cell.key, cell)
    if not cells:
        return None
    ranked = sorted(cells.values(), key=lambda cell: _RANK.index(cell.state))
    rows: list[Row] = [[cell.label, Value(cell.state, tone="bad"), cell.why, cell.key] for cell in ranked]
    note = Note(f"{len(rows)} cells are not there; the same bench tries them again and keeps the others.", "bad")
    table = Table.of("Missing and failed cells", ["cell", "state", "why", "key"], rows, folded=len(rows) > _MANY)
    return Section("Missing and failed", (note, table))


_RANK = ("failed", "damaged", "left out", "missing")
_MANY = 20


def networks_section(results: StudyResults) -> Section:
    """Returns the networks and the attacks as tables."""
    rows: list[Row] = []
    for network in results.networks:
        _, backbone, quantizer, defense = network.axes
        schemes, given = results.study.quantizers[quantizer], results.study.defenses[defense]
        made = [cell for cell in results.made(network) if cell.there]
        ensemble = f"ensemble of {', '.join(given.members)}" if given.members else "–"
        used = [*given.transformers, *given.preprocessors]
        beside = [f"{each.name} ({plain_options(each.options)})" if each.options else each.name for each in used]
        sizes = [cell.record["bytes"] for cell in made if "bytes" in cell.record]
        rows.append([
            network.label, results.study.backbones[backbone].backbone or backbone,
            _scheme(schemes.weights), _scheme(schemes.activations), given.trainer or ensemble,
            plain_options(given.options) if given.trainer else "–", ", ".join(beside) or "–",
            f"{sizes[0]['packed']:,}" if sizes else "–", f"{sizes[0]['float32']:,}" if sizes else "–",
            mean_value([cell.record["seconds"] for cell in made]) if made else ABSENT,
        ])  # fmt: skip
    columns = [
        "network", "backbone", "weights", "activations", "trainer", "options", "transformers, preprocessors",
        "packed bytes", "bytes in float32", "seconds to make",
    ]  # fmt: skip
    blocks: list[Block] = [Table.of("Networks", columns, rows)]
    if results.study.attacks:
        columns = ["attack", "class", "options", "ball", "images", "made on"]
        blocks.append(Table.of("Attacks", columns, _attacks(results)))
    return Section("Networks and attacks", tuple(blocks))


def _attacks(results: StudyResults) -> list[Row]:
    rows: list[Row] = []
    for name, attack in results.study.attacks.items():
        made_on = "itself"
        if attack.source == "each":
            made_on = "each network"
        elif attack.source is not None:
            chosen = attack.source.model_dump(exclude_none=True)
            made_on = "the network with " + ", ".join(f"{axis} {value}" for axis, value in chosen.items())
        ball = ball_of(results, name)
        images = min(attack.nb_test or results.study.nb_test, results.study.nb_test)
        rows.append([
            name, attack.attack, plain_options(attack.options), "–" if ball is None else str(ball),
            f"{images:,}", made_on,
        ])  # fmt: skip
    return rows


def source_section(results: StudyResults) -> Section:
    """Returns where the figures come from: machine, versions, the study's text, and the key of every cell."""
    environment = results.plan.get("environment", {})
    told = {name: value for name, value in environment.items() if name != "versions" and value is not None}
    plugins = [cell.record.get("spec", {}).get("plugins", {}) for cell in results.cells]
    used = {f"{name} (plugin)": version for each in plugins for name, version in each.items()}
    told |= environment.get("versions", {}) | dict(sorted(used.items()))
    keys: list[Row] = [
        [cell.label, cell.kind, cell.key, Value(cell.state, tone="" if cell.there else "bad")] for cell in results.cells
    ]
    machine: list[Row] = [[name, str(value)] for name, value in told.items()]
    blocks = (
        Table.of("Machine and versions of the last bench of this study", ["name", "value"], machine),
        Text(f"The study's file, {results.plan.get('file', '')}", str(results.plan.get("text", ""))),
        Table.of("Every cell: its results are in cells/KEY", ["cell", "kind", "key", "state"], keys, folded=True),
    )
    return Section("Where the figures come from", blocks)


def _scheme(scheme: str | dict[str, str]) -> str:
    return scheme if isinstance(scheme, str) else ", ".join(f"{layers}: {name}" for layers, name in scheme.items())
