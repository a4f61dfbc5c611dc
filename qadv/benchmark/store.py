"""The results' folder: finished cells, failures, and what was planned; every file is written whole or not at all.

DIR/studies/NAME.json      a study as it was planned: its text, its cells, the environment
DIR/cells/KEY/             a finished cell: record.json and its files; the folder is renamed into place
DIR/failed/KEY.json        why a cell failed the last time
DIR/unfinished/            checkpoints of interrupted trainings
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qadv.benchmark.cells import Finished
from qadv.errors import FileFormatError, InvalidInputError, StorageError
from qadv.files import write_atomically

_RECORD = "record.json"


class Store:
    """A results' folder.

    Args:
        folder: it is made where it does not exist.

    Raises:
        StorageError: it can't be made.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.cells, self.failures = self.folder / "cells", self.folder / "failed"
        self.studies, self.scratch = self.folder / "studies", self.folder / "unfinished"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, and keeps a second bench out of it while the block runs.

        Raises:
            InvalidInputError: one is running.
            StorageError: the folder can't be made.
        """
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
                shutil.rmtree(left, ignore_errors=True)
            yield

    def is_finished(self, key: str) -> bool:
        """Whether a cell is there."""
        return (self.cells / key / _RECORD).is_file()

    def read(self, key: str, files: bool = True) -> Finished:
        """Returns a finished cell.

        Args:
            key: of the cell.
            files: `False` for the record alone.

        Raises:
            FileFormatError: it is damaged.
        """
        folder = self.cells / key
        try:
            record = json.loads((folder / _RECORD).read_bytes())
            names = [path for path in sorted(folder.iterdir()) if path.name != _RECORD] if files else []
            return Finished(record, {path.name: path.read_bytes() for path in names})
        except (OSError, ValueError) as error:
            raise FileFormatError(f"{folder} is damaged ({error}); delete it, and it is computed again") from error

    def write(self, key: str, finished: Finished) -> None:
        """Writes a cell, whole or not at all.

        Raises:
            StorageError: the disk is full, or the folder can't be written.
        """
        part = self.cells / f".{key}.{uuid.uuid4().hex}"
        try:
            part.mkdir()
            content = {_RECORD: json.dumps(finished.record).encode(), **finished.files}
            for name, data in content.items():
                with open(part / name, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            with suppress(FileExistsError):
                part.rename(self.cells / key)
        except OSError as error:
            raise StorageError(f"could not write {self.cells / key}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        (self.failures / f"{key}.json").unlink(missing_ok=True)

    def write_failure(self, key: str, label: str, message: str, trace: str) -> None:
        """Notes why a cell failed."""
        self._write_json(self.failures / f"{key}.json", {"label": label, "message": message, "traceback": trace})

    def failure(self, key: str) -> dict[str, str] | None:
        """Returns what was noted, if the cell failed the last time."""
        path = self.failures / f"{key}.json"
        return json.loads(path.read_bytes()) if path.is_file() else None

    def write_plan(self, name: str, content: dict[str, Any]) -> None:
        """Writes a study as it was planned."""
        self._write_json(self.studies / f"{name}.json", content)

    def plans(self) -> dict[str, dict[str, Any]]:
        """Returns the studies in this folder by name.

        Raises:
            FileFormatError: one is damaged.
        """
        found = {}
        for path in sorted(self.studies.glob("*.json")):
            try:
                found[path.stem] = json.loads(path.read_bytes())
            except ValueError as error:
                raise FileFormatError(f"{path} is damaged ({error}); run its bench again") from error
        return found

    def _write_json(self, path: Path, content: dict[str, Any]) -> None:
        write_atomically(path, json.dumps(content, indent=1).encode())
