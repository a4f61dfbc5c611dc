"""The results' folder: finished cells, failures, and what was planned; every file is written whole or not at all.

DIR/studies/NAME.json      a study as it was planned: its text, its cells, the environment
DIR/cells/KEY/             a finished cell: record.json and its files; the folder is renamed into place
DIR/cells/KEY/             with record.json.gz: a finished cell whose files were left out of this copy
DIR/failed/KEY.json        why a cell failed the last time
DIR/unfinished/            checkpoints of interrupted trainings
"""

import fcntl
import gzip
import io
import os
import shutil
import uuid
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qadv.benchmark.cells import FILES, Finished, digest
from qadv.digests import digest_of
from qadv.errors import FileFormatError, InvalidInputError, QadvError, StorageError
from qadv.files import check_is_whole, json_content, read_json, write_atomically, write_json

FORMAT = "qadv-cell/2"
_RECORD = "record.json"


class LeftOutError(FileFormatError):
    """A cell is whole, and its files, which are asked for, are not in this copy."""


class Store:
    """A results' folder, made where it does not exist."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.cells, self.failures = self.folder / "cells", self.folder / "failed"
        self.studies, self.scratch = self.folder / "studies", self.folder / "unfinished"
        self._whole: set[str] = set()  # keys of cells that were looked through
        self._warned = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, and keeps a second bench out of it while the block runs."""
        try:
            for folder in (self.cells, self.failures, self.studies, self.scratch):
                folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / ".lock", "w")  # noqa: SIM115  (held to the end of the block)
        except OSError as error:
            raise StorageError(f"can't write in {self.folder}: {error.strerror or error}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InvalidInputError(
                    f"another bench is writing in {self.folder}: wait for it, or choose another --out"
                ) from error
            for left in self.cells.glob(".*"):  # of a bench that was killed while it wrote
                _remove(left)
            yield

    def is_finished(self, key: str) -> bool:
        """Whether a cell is there, and whole: all its files are what was written, or were left out."""
        return self.damage(key) == ""

    def damage(self, key: str) -> str | None:
        """Returns what is wrong with a cell: `""` for a whole one, `None` where there is none."""
        if key in self._whole:
            return ""
        if not os.path.lexists(self.cells / key):
            return None
        try:
            self.read(key)
        except LeftOutError:
            return ""
        except FileFormatError as error:
            return str(error)
        return ""

    def read(self, key: str, files: bool = True) -> Finished:
        """Returns a finished cell, or with `files=False` its record alone; a damaged one is a `FileFormatError`.

        One whose files were left out is a `LeftOutError`.
        """
        folder = self.cells / key
        path = self._record(key)
        packed = path.name != _RECORD
        self._whole.discard(key)
        try:
            content = read_json(path)
            if not isinstance(content, dict):
                raise FileFormatError(f"{_RECORD} holds no record")
            if content.get("format") != FORMAT:
                record, digests = self._opened_old(content, key, packed)
            elif content["key"] == key:  # its digest has been compared
                record, digests = content["record"], content["files"]
            else:
                raise FileFormatError(f"it is cell {content['key']} in another one's place")
            found = {name: (folder / name).read_bytes() for name in digests} if files and not packed else {}
            for name, data in found.items():
                if digests[name] not in (None, digest_of(io.BytesIO(data))):
                    raise FileFormatError(f"{name} is not what was written")
        except (OSError, QadvError) as error:
            why = f"cell {key} is damaged: {_reason(error)}; the same bench computes it again"
            raise FileFormatError(why) from error
        if files and packed and digests:
            raise LeftOutError(f"of cell {key} there is the record, without {', '.join(digests)}")
        if files:
            self._whole.add(key)
        return Finished(record, found)

    def digests(self, key: str) -> list[str]:
        """Returns digests of a cell's files, those that were left out too; none where there is no whole record."""
        try:
            return [str(digest) for digest in read_json(self._record(key))["files"].values()]
        except (OSError, QadvError, AttributeError, KeyError, TypeError):  # of the first format, or damaged
            return []

    def write(self, key: str, finished: Finished) -> None:
        """Writes a cell, whole or not at all; a damaged one gives way."""
        target, part = self.cells / key, self.cells / f".{key}.{uuid.uuid4().hex}"
        digests = {name: digest_of(io.BytesIO(data)) for name, data in finished.files.items()}
        record = {"format": FORMAT, "key": key, "files": digests, "record": finished.record}
        try:
            part.mkdir()
            for name, data in {_RECORD: json_content(record), **finished.files}.items():
                with open(part / name, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            if os.path.lexists(target):
                target.rename(part.with_name(f"{part.name}.old"))
            part.rename(target)
        except OSError as error:
            raise StorageError(f"could not write {target}: {error.strerror or error}") from error
        finally:
            for left in self.cells.glob(f"{part.name}*"):
                _remove(left)
        (self.failures / f"{key}.json").unlink(missing_ok=True)

    def copy_records(self, target: "Store", names: Iterable[str]) -> None:
        """Copies studies without the files of their cells, networks and images, to another folder.

        What was measured is all there, and a bench goes on in it: a network is made again only where a cell that is
        missing needs it. Those that such cells start from, by way of other networks too, go along.
        """
        with target.locked():
            for name in names:
                plan = self.plan(name)
                lost = target.finished_of(name) - {cell["key"] for cell in plan["cells"]}
                if lost:
                    warnings.warn(
                        f"{target.folder} has {len(lost):,} cells of another plan of study {name}, as of a file "
                        "that was changed, or of other versions: they are not read any more",
                        stacklevel=2,
                    )
                target.write_plan(name, plan)
                finished = {cell["key"] for cell in plan["cells"] if self.is_finished(cell["key"])}
                for key in _starts(plan, finished):
                    if self._is_whole(key) and not target._is_whole(key):
                        target.write(key, self.read(key))
                for key in finished:
                    if not target.is_finished(key):
                        path = self._record(key)
                        content = path.read_bytes()
                        packed = content if path.suffix == ".gz" else gzip.compress(content, mtime=0)
                        write_atomically(target.cells / key / f"{_RECORD}.gz", packed)

    def _is_whole(self, key: str) -> bool:
        return (self.cells / key / _RECORD).exists() and self.is_finished(key)

    def finished_of(self, name: str) -> set[str]:
        """Returns the keys of the finished cells of a study; none where there is no such study, or no whole plan."""
        try:
            keys = {str(cell["key"]) for cell in self.plan(name)["cells"]}
        except (OSError, QadvError, KeyError, TypeError):
            return set()
        return {key for key in keys if self.is_finished(key)}

    def write_failure(self, key: str, label: str, message: str, trace: str) -> None:
        """Notes why a cell failed."""
        note = {"format": "qadv-failure/2", "label": label, "message": message, "traceback": trace}
        write_json(self.failures / f"{key}.json", note)

    def failure(self, key: str) -> dict[str, str] | None:
        """Returns what was noted, if the cell failed the last time."""
        path = self.failures / f"{key}.json"
        if not path.is_file():
            return None
        try:
            noted = read_json(path)
            return {name: str(noted[name]) for name in ("label", "message", "traceback")}
        except (QadvError, TypeError, KeyError) as error:
            return {"label": "", "message": f"why it failed can't be told: {_reason(error)}", "traceback": ""}

    def write_plan(self, name: str, content: dict[str, Any]) -> None:
        """Writes a study as it was planned."""
        write_json(self.studies / f"{name}.json", {"format": "qadv-plan/2", **content})

    def plan_names(self) -> list[str]:
        """Returns the names of the studies in this folder."""
        return sorted(path.stem for path in self.studies.glob("*.json"))

    def plan(self, name: str) -> dict[str, Any]:
        """Returns a study as it was planned; a damaged one is a `FileFormatError`."""
        path = self.studies / f"{name}.json"
        try:
            found = read_json(path)
            if not isinstance(found, dict):
                raise FileFormatError("it holds no plan")
        except QadvError as error:
            raise FileFormatError(f"{path} is damaged ({_reason(error)}); run its bench again") from error
        return found

    def _record(self, key: str) -> Path:
        packed = self.cells / key / f"{_RECORD}.gz"
        return packed if packed.exists() else packed.with_name(_RECORD)

    def _opened_old(
        self, record: dict[str, Any], key: str, packed: bool
    ) -> tuple[dict[str, Any], dict[str, str | None]]:
        """Returns record and files of a cell of the first format, checked as far as possible without digests."""
        spec = record.get("spec")
        try:
            own = digest(spec)
        except ValueError:  # NaN, which no spec has
            own = ""
        if not isinstance(spec, dict) or own != key:
            raise FileFormatError(f"{_RECORD} is not the record of this cell")
        names = [FILES[spec["kind"]]] if spec.get("kind") in FILES else []
        for name in () if packed else names:
            check_is_whole(self.cells / key / name)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.folder} has cells of an older qadv, without digests: damage in them may go unnoticed. To have "
                "them computed again, choose another folder",
                stacklevel=3,
            )
        return record, dict.fromkeys(names)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{os.path.basename(error.filename)}: {error.strerror}"
    return str(error)


def _remove(path: Path) -> None:
    """Removes a file or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _starts(plan: dict[str, Any], finished: set[str]) -> list[str]:
    """Returns finished networks, made from nothing, from which others are made that a missing cell stands on."""
    needs = {cell["key"]: cell.get("needs", []) for cell in plan["cells"]}

    def below(key: str) -> set[str]:
        return {key}.union(*map(below, needs[key]))

    wanted = set[str]().union(*map(below, needs.keys() - finished))
    started_from = {need for cell in plan["cells"] if cell.get("kind") == "network" for need in cell["needs"]}
    return sorted(key for key in wanted & started_from & finished if not needs[key])
