"""What `qadv report` prints."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from qadv.benchmark.report.build import build_report


def run_report(folder: Path, out: Path | None, study: str | None, console: Console | None = None) -> None:
    """Writes a report and says where it is, and what the results lack.

    Raises:
        QadvError: there are no results, no such study, or the report can't be written.
    """
    console = console or Console()
    report = build_report(folder, out, study)
    lines = [f"page: {report.page}", *(f"tables: {path}" for path in report.tables)]
    lines.append(f"networks: {len(report.models)} files in {report.page.parent / 'models'}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    for name, count in report.not_there.items():
        if count:
            text = f"{name}: {count} cells are missing, damaged or failed; the report lists them"
            console.print(Text(text, "yellow"), soft_wrap=True)
    for name, why in report.left_out.items():
        console.print(Text(f"left out: {name}: {why}", "yellow"), soft_wrap=True)
