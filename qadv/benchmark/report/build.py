"""Builds a report from a results' folder."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from qadv.benchmark.report.accuracy import accuracy_section, strength_section, worst_case_section
from qadv.benchmark.report.audits import audit_section
from qadv.benchmark.report.by_bits import by_bits_section
from qadv.benchmark.report.content import StudyPage
from qadv.benchmark.report.diagnostics import diagnostic_sections, measured_section
from qadv.benchmark.report.examples import example_section
from qadv.benchmark.report.model_file import model_files
from qadv.benchmark.report.opening import opening
from qadv.benchmark.report.overview import facts, missing_section, networks_section, source_section
from qadv.benchmark.report.rendering import html_page, markdown_page
from qadv.benchmark.report.results import StudyResults, gather
from qadv.benchmark.report.training import training_section
from qadv.benchmark.report.transfers import transfer_section
from qadv.benchmark.store import Store
from qadv.errors import FileFormatError, InvalidInputError, UnknownNameError, closest
from qadv.files import write_atomically


@dataclass(frozen=True)
class StudyReport:
    """What was written: the page with all studies, Markdown for each and JSON for each network; how many cells have no
    result, by study, and what is wrong with the studies whose plan is damaged."""

    page: Path
    tables: tuple[Path, ...]
    models: tuple[Path, ...]
    not_there: dict[str, int]
    left_out: dict[str, str]


def build_report(
    folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, study: str | None = None
) -> StudyReport:
    """Writes the page, the tables and the models' files; the same for the same results.

    Args:
        folder: of `qadv bench`.
        out: where to write; without it `folder/report`.
        study: name of the one study to report, as in `folder/studies`; without it, all.
    """
    store = Store(folder)
    names = store.plan_names()
    if not names:
        raise InvalidInputError(f"expected results of qadv bench in {store.folder}, and there is no study in it")
    if study is not None and study not in names:
        near = closest(study, names)
        raise UnknownNameError(f"no study {study!r} in {store.folder}{near} There are: {', '.join(names)}")
    chosen: list[StudyResults] = []
    left_out: dict[str, str] = {}
    for name in names if study is None else [study]:
        try:
            chosen.append(gather(store, name, store.plan(name)))
        except FileFormatError as error:
            left_out[name] = str(error)
    if not chosen:
        raise FileFormatError("; ".join(left_out.values()))
    target = store.folder / "report" if out is None else Path(out)
    pages, tables, models = [], [], []
    for results in chosen:
        pages.append(page := study_page(results, store))
        tables.append(_write(target / f"{results.name}.md", markdown_page(page)))
        for name, content in model_files(results):
            text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            models.append(_write(target / "models" / results.name / name, text))
    html = _write(target / "index.html", html_page(pages, left_out))
    not_there = {results.name: len({cell.key for cell in results.not_there}) for results in chosen}
    return StudyReport(html, tuple(tables), tuple(models), not_there, left_out)


def study_page(results: StudyResults, store: Store) -> StudyPage:
    """Returns what a report says about a study."""
    lead, glance = opening(results)
    sections = (
        glance,
        missing_section(results),
        worst_case_section(results),
        accuracy_section(results),
        by_bits_section(results),
        audit_section(results),
        transfer_section(results),
        measured_section(results),
        *diagnostic_sections(results),
        example_section(results, store),
        strength_section(results),
        networks_section(results),
        training_section(results),
        source_section(results),
    )
    there = tuple(section for section in sections if section is not None)
    return StudyPage(results.name, results.study, bool(results.plan.get("small")), facts(results), there, lead)


def _write(path: Path, text: str) -> Path:
    write_atomically(path, text.encode("utf-8", "backslashreplace"))
    return path
