"""What `qadv report` prints."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

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
        console.print(escape(line), highlight=False, soft_wrap=True)
    for name, count in report.not_there.items():
        if count:
            text = f"{name}: {count} cells are missing or failed; the report lists them"
            console.print(f"[yellow]{escape(text)}[/yellow]", highlight=False, soft_wrap=True)
