"""The checks for reports."""

import copy
import tempfile
from pathlib import Path
from typing import Any

from qadv.testing.case import Arrays, Case
from qadv.testing.check import check, expect, refused
from qadv.testing.compare import difference

RESULTS = [
    {
        "model": "resnet20 <int:4>",
        "attack": "PGD",
        "eps": 8 / 255,
        "accuracy": 0.25,
        "clean": 0.91,
        "note": "a | b & c",
    },
    {"model": "resnet20 float", "attack": "FGSM", "eps": 8 / 255, "accuracy": 0.0, "clean": 0.92, "note": "ε, über"},
]


class ReportCase(Case):
    kind = "report"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.results = self.options.pop("results", RESULTS)

    def inputs(self) -> Arrays:
        return {}

    def make(self, **changes: Any) -> Any:
        return self.run(**changes)

    def run(self, inputs: Arrays | None = None, **changes: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            self.write(Path(folder) / "report", **changes)
            return contents(Path(folder))

    def write(self, path: Path, results: Any = None, **changes: Any) -> None:
        given = copy.deepcopy(self.results) if results is None else results
        self.target(given, path, **{**self.options, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    """Returns what is in a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@check("report")
def contract(case: ReportCase) -> None:
    """`(results, path)` writes `path`, a file or a folder with files, and nothing beside it."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "inner" / "report"
        path.parent.mkdir()
        case.write(path)
        written = contents(Path(name))
        outside = [file for file in written if not file.startswith(str(Path("inner") / "report"))]
        do = "write to `path` as it is given"
        expect(path.exists() and any(written.values()), f"{path.name}, not empty", list(written), do)
        expect(not outside, "nothing beside it", outside, do)


@check("report")
def paths(case: ReportCase) -> None:
    """A path may be a string, and what was there before is replaced."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "report"
        case.write(path)
        first = contents(Path(name))
        case.write(str(path))  # type: ignore[arg-type]
        changed = difference(first, contents(Path(name)), "the file")
    expect(
        changed is None, "the same when it is written again", changed, "open with 'w', not 'a'; write no times or paths"
    )


@check("report")
def results_untouched(case: ReportCase) -> None:
    """The results are not changed."""
    given = copy.deepcopy(case.results)
    with tempfile.TemporaryDirectory() as name:
        case.write(Path(name) / "report", given)
    changed = difference(case.results, given, "results")
    expect(changed is None, "the results as they were", changed, "work on copies")


@check("report")
def content(case: ReportCase) -> None:
    """Other results give another file."""
    with tempfile.TemporaryDirectory() as name:
        one, other = Path(name) / "one", Path(name) / "other"
        for folder, results in ((one, case.results), (other, case.results[:1])):
            folder.mkdir()
            case.write(folder / "report", copy.deepcopy(results))
        expect(contents(one) != contents(other), "another file", "the same", "write the results that are given")


@check("report")
def bad_input(case: ReportCase) -> None:
    """A folder that does not exist and can't be made is refused."""
    with tempfile.TemporaryDirectory() as name:
        blocked = Path(name) / "file"
        blocked.write_text("")
        refused(
            lambda: case.write(blocked / "report"),
            "a path below a file",
            "let the OSError through, or raise StorageError",
        )
