"""Makes the page of claims from a results' folder: what `qadv claims` does."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qadv.benchmark.claims.claims_file import ClaimsFile, Selection, read_claims
from qadv.benchmark.claims.evidence import Evidence
from qadv.benchmark.claims.judging import NOT_RUN, SEEDS, VERDICTS, Found, Judged, judge
from qadv.benchmark.report.content import About, Note, Row, Section, StudyPage, Table
from qadv.benchmark.report.rendering import markdown_page
from qadv.benchmark.report.results import StudyResults, gather
from qadv.benchmark.store import Store
from qadv.errors import FileFormatError, closest
from qadv.files import write_atomically

_HOW = f"""\
Confirmed: at least {SEEDS} seeds, and in every comparison of the claim a 95 % interval of the difference above 0, or \
above the margin that is given. Refuted: likewise, and one of them below. Seeds of the same networks, where nothing \
is drawn or trained, count as one. Not run: a comparison has no cells. \
Accuracies are in %, differences in points, paired by seed and image. The interval adds the variance between seeds to \
that between images, both few of many that might have been taken, with Student's t at Satterthwaite's degrees of \
freedom (as for several readers and cases: Obuchowski, Rockette 1995; simulated, it holds the truth 93 to 99 times in \
100); numbers that are not by image have the first part alone. It is not widened for the number of comparisons: of \
twenty without an effect one may show one. Smaller or larger than published: in every comparison the interval leaves \
out the paper's own difference, which is of its networks and images."""


@dataclass(frozen=True)
class ClaimsReport:
    """What was written, the verdicts in the order of the file, and why studies can't be read, by name."""

    page: Path
    verdicts: tuple[str, ...]
    not_there: dict[str, str]


def build_claims(
    folder: str | os.PathLike[str],
    claims: str | os.PathLike[str] = "docs/claims/claims.toml",
    out: str | os.PathLike[str] = "docs/claims.md",
    records: str | os.PathLike[str] | None = None,
) -> ClaimsReport:
    """Judges claims by results, and writes a table for each paper; the same for the same results.

    Args:
        folder: of `qadv bench`, or the `records` of one.
        claims: a TOML file, see `qadv.benchmark.claims.claims_file`.
        out: the page to write.
        records: folder for a copy of the studies that the claims are about, without images and most networks;
            `qadv bench` goes on in it.
    """
    file, store = read_claims(claims), Store(folder)
    studies: dict[str, StudyResults] = {}
    not_there: dict[str, str] = {}
    names = store.plan_names()
    for name in file.studies:
        try:
            if name in names:
                studies[name] = gather(store, name, store.plan(name), read=False)
            else:
                not_there[name] = f"there is no such study in {store.folder}{closest(name, names)}"
        except FileFormatError as error:
            not_there[name] = str(error)
    evidence = Evidence(store, studies)
    judged = judge(file, evidence)
    if records is not None:
        store.copy_records(Store(records), list(studies))
    page = Path(out)
    write_atomically(page, markdown_page(claims_page(file, judged, evidence)).encode())
    return ClaimsReport(page, tuple(each.verdict for each in judged), not_there)


def claims_page(file: ClaimsFile, judged: Sequence[Judged], evidence: Evidence) -> StudyPage:
    """Returns the page: how many claims of each paper came to which verdict, and a table for each."""
    by_paper = {paper: [each for each in judged if each.claim.paper == paper] for paper in file.claims.papers}
    counts: list[Row] = []
    for paper, some in by_paper.items():
        count = Counter(each.verdict for each in some)
        counts.append([paper, *(str(count[verdict]) for verdict in VERDICTS)])
    sections = [Section("Verdicts", (Table.of("Claims by paper", ["paper", *VERDICTS], counts), Note(_HOW)))]
    for paper, some in by_paper.items():
        rows: list[Row] = [_row(each, file, evidence) for each in some]
        columns = ["claim", "published", "ours", "data", "verdict", "command"]
        sections.append(Section(paper, (Table.of(file.claims.papers[paper], columns, rows),)))
    cells, seconds = evidence.cost()
    facts = (("cells behind the figures", f"{cells:,}, computed in {seconds / 3600:.1f} hours"),)
    return StudyPage("claims", About("Claims of the papers", file.claims.about), False, facts, tuple(sections))


def _row(judged: Judged, file: ClaimsFile, evidence: Evidence) -> Row:
    claim = judged.claim
    names = list(dict.fromkeys(str(s.study) for each in judged.found for s in _selections(each)))
    data = list(dict.fromkeys(_data(each, evidence) for each in judged.found if each.seeds))
    files = (f"{file.claims.studies}/{name.removesuffix('-small')}.toml" for name in names)
    runs = (f"qadv bench {path}{' --small' * name.endswith('-small')}" for path, name in zip(files, names, strict=True))
    return [
        f"{claim.claim} ({claim.note})" if claim.note else claim.claim,
        claim.published or "–",
        claim.out_of_reach or ("; ".join(map(_ours, judged.found)) if data else NOT_RUN),
        "; ".join(data) or "–",
        f"{judged.verdict}, {size} than published" if (size := judged.beside_published) else judged.verdict,
        "; ".join(runs) or "–",
    ]


def _ours(found: Found) -> str:
    case, comparison = f"{found.comparison.case}: " if found.comparison.case else "", found.comparison
    if not found.seeds:
        return f"{case}{NOT_RUN}"
    text, compares = _number(found.more - found.than, found), comparison.more and comparison.than
    if compares and not text.startswith("-"):
        text = f"+{text}"
    if np.isfinite(found.low):
        text += f" [{_number(found.low, found)}, {_number(found.high, found)}]"
    if comparison.margin:
        text += f", claimed above {comparison.margin:g}"
    if comparison.effect is not None:
        text += f", published {comparison.effect:{'+' if compares else ''}g}"
    sides = f" ({_number(found.more, found)} against {_number(found.than, found)})" if compares else ""
    return case + text + sides


def _number(value: float, found: Found) -> str:
    return f"{value:.1f}" if found.images else f"{value:.3g}"


def _data(found: Found, evidence: Evidence) -> str:
    """Returns data set, size of the images, how many, and seeds."""
    first = _selections(found)[0]
    results = evidence.studies[str(first.study)]
    data = first.dataset or results.study.datasets[0]
    name = data if isinstance(data, str) else ", ".join(data)
    networks = (cell for cell in results.cells if cell.kind == "network" and cell.place["dataset"] == name)
    made = (record for cell in networks if (record := evidence.record(cell)) is not None)
    shape = next((record["spec"].get("input_shape") for record in made), None)
    size = f" ({'×'.join(map(str, shape))})" if shape else ""
    images = f", {found.images:,} images" if found.images else ""
    return f"{name}{size}{images}, {len(found.seeds)} seed{'s' * (len(found.seeds) > 1)}"


def _selections(found: Found) -> list[Selection]:
    return [*found.comparison.more, *found.comparison.than]
