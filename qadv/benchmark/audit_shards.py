"""An audit in shards: parts of a fixed number of images, each audited by itself, kept, and merged.

OUT/cells/KEY/     a finished shard, keyed by all that determines it
OUT/images.csv     image by image: label, whether it is classified correctly and holds out, what broke it, and where
OUT/audit.json     the result, as `AuditResult.to_dict` gives it
"""

import csv
import io
import math
import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save
from tqdm.auto import tqdm

from qadv.benchmark.cells import Cell, Finished, versions
from qadv.benchmark.compute import plain
from qadv.benchmark.engines import Engine, Failed, InProcess
from qadv.benchmark.plugin_code import code_versions
from qadv.benchmark.ray_engine import engine_of
from qadv.benchmark.specs import Spec
from qadv.benchmark.store import Store
from qadv.checks import check_choice, check_flag, check_number, check_whole
from qadv.diagnostics.audit.merge import merged
from qadv.diagnostics.audit.result import AuditResult, interval
from qadv.diagnostics.audit.run import audit, estimate, of_pair, radii_of
from qadv.errors import AuditInterrupted, InvalidInputError, QadvError, describe
from qadv.estimators.checks import check_pair
from qadv.estimators.door import prepare
from qadv.estimators.identity import identity
from qadv.estimators.protocol import Classifier
from qadv.files import write_atomically, write_json
from qadv.modes import torch_threads
from qadv.random_states import seeded
from qadv.registry import default_registry
from qadv.tables import duration
from qadv.time_limit import TookTooLong
from qadv.time_limit import time_limit as limited
from qadv.units import Share

SHARD = 50
_IMAGES = "adversarial.safetensors"


class ShardSpec(Spec):
    """What determines the result of a shard: networks and images by digests, the audit's arguments as text.

    `plugins` are those with checks, and with an adaptive attack those with attacks.
    """

    kind: str = "audit-shard"
    plugins: dict[str, str] = {}
    later = ("plugins",)
    network: str
    images: str
    options: dict[str, str]


@dataclass(frozen=True)
class _Audited:
    """The classifier, and the arguments of `audit` besides images; it goes to the processes that work on shards."""

    classifier: Classifier
    options: dict[str, Any]


def audit_in_shards(
    classifier: Classifier,
    x: Any,
    y: NDArray[Any] | None = None,
    eps: Any = Share(8 / 255),
    *,
    shard: int = SHARD,
    out: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    engine: str = "local",
    address: str | None = None,
    until: float | None = None,
    time_limit: float | None = None,
    verbose: bool = True,
    **options: Any,
) -> AuditResult:
    """Audits many images as `audit` does, `shard` by `shard`, and merges: see docs/audit.md, "At length".

    Each shard is `audit` of its images, with the same seed, so that the result is the same to the bit however many
    work on them, and in how many sittings. Of as many images as one shard has, it is `audit`'s.

    Args:
        classifier, x, y, eps, options: as of `audit`.
        shard: images that are audited together; what an interruption costs at most, and the result depends on it.
        out: folder for what is finished, shard by shard: the same call goes on from there. Without it nothing stays.
        jobs: shards at a time, each in a process and on one thread of torch; `None`: one, here, on torch's threads.
            On a cluster `None` is one for each of its processors.
        engine: "local", or "ray" for a cluster at `address`, without which one is started here.
        until: stop as soon as the 95 % interval of the worst case reaches no more than so many points up and down,
            looked at after each shard.
        time_limit: stop after so many seconds. What is finished counts.
        verbose: print an estimate, and after each shard what is known and how long the rest takes.

    Raises:
        AuditInterrupted: Ctrl-C.
        InvalidInputError: as of `audit`; the time was too short for one shard.
    """
    check_whole("shard", shard)
    check_flag("verbose", verbose)
    check_choice("engine", engine, ("local", "ray"))
    for name, value in (("until", until), ("time_limit", time_limit)):
        if value is not None:
            check_number(name, value)
    if jobs is not None:
        check_whole("jobs", jobs)
    if "others" in options and not isinstance(options["others"], Mapping):
        options["others"] = tuple(options["others"])
    x, labels = check_pair(classifier, x, y)
    x = x.astype(np.float32)
    if options.get("pair") is not None:
        x, _, pair = of_pair(options["pair"], x, labels, classifier.nb_classes)
        labels = np.full(len(x), pair[0])
    signature(audit).bind(classifier, x, labels, eps, **options)  # what it does not take is a TypeError now
    radii_of(classifier, eps, options.get("norm", math.inf), options.get("to_zero", False))
    with ExitStack() as stack:
        store = Store(stack.enter_context(TemporaryDirectory()) if out is None else out)
        stack.enter_context(store.locked())
        run = _Run(_Audited(classifier, {**options, "eps": eps}), x, labels, shard, store, until, verbose)
        if out is not None:
            stack.callback(run.write_result, Path(out))
        try:
            run.advance()
            if not run.enough:
                run.print_estimate()
                late = "qadv: the audit's time is over; it ends with the shards that run"
                with nullcontext() if time_limit is None else limited(time_limit, late):
                    run.compute(partial(_engine, run.audited, engine, jobs, address), time_limit or math.inf)
        except TookTooLong:
            run.stopped = "the time limit was reached"
        except KeyboardInterrupt:
            run.stopped = "interrupted"
            raise AuditInterrupted(run.result()) from None
        if (result := run.result()) is None:
            raise InvalidInputError(
                f"time_limit: not one shard was finished in {duration(time_limit or 0)}; give it more time, or "
                f"fewer images in a shard than {min(shard, len(x))}"
            )
        return result


def _engine(audited: _Audited, name: str, jobs: int | None, address: str | None) -> Engine:
    if name == "local" and jobs is not None and jobs > 1:
        try:
            pickle.dumps(audited)
        except Exception as error:  # whatever the parts of a network raise
            raise InvalidInputError(
                f"jobs: the networks and options can't be handed to other processes ({describe(error)}); without jobs "
                "all is done in this one"
            ) from error
    return engine_of(name, audited, jobs or 1, None if jobs is None else 1, address, audit_shard)


def audit_shard(spec: ShardSpec, needed: Mapping[str, Any], given: _Audited, threads: int | None) -> Finished:
    """Audits one shard, whose arguments of `audit` are in `needed`; its file holds the images, by radius."""
    with torch_threads(threads):
        result = audit(given.classifier, **needed, **given.options)
    found = {str(place): each.worst_case.adversarial for place, each in enumerate((*result.smaller, result))}
    return Finished({"spec": plain(spec), "result": result.to_dict()}, {_IMAGES: save(found)})


class _Run:
    """An audit under way: the finished shards from the first on, which alone count, and those that are missing.

    A shard that is finished before one in front of it waits: images that fall soon would count more than others.

    Its `parts` are results of the first shards; it is `enough` once these are all, or as many as `until` asks for.
    """

    def __init__(
        self, audited: _Audited, x: Any, y: Any, shard: int, store: Store, until: float | None, verbose: bool
    ) -> None:
        self.audited, self.x, self.y, self.store, self.until, self.verbose = audited, x, y, store, until, verbose
        self.shard, self.parts, self.enough, self.stopped = shard, list[AuditResult](), False, ""
        network = identity(audited.classifier)
        options = {name: identity(value) for name, value in audited.options.items()}
        kinds = ("audit-check", *(["attack"] if audited.options.get("adaptive") is not None else []))
        plugins = code_versions(entry for kind in kinds for entry in default_registry().entries(kind))
        self.cells = []
        for first in range(0, len(x), shard):
            images = _digest(audited.classifier, x[first : first + shard], y[first : first + shard])
            spec = ShardSpec(
                versions=versions(), seed=0, network=network, images=images, options=options, plugins=plugins
            )
            label = f"images {first + 1} to {min(first + shard, len(x))}"
            self.cells.append(Cell("audit-shard", spec, label, {"first": first}))

    def advance(self, seconds: float | None = None) -> None:
        """Takes in the shards that follow those that are there, and says what is known, and that so much is left."""
        before = len(self.parts)
        while not self.enough and self.store.is_finished((cell := self.cells[len(self.parts)]).key):
            found = self.store.read(cell.key)
            by_radius = load(found.files[_IMAGES])
            images = [by_radius[str(place)] for place in range(len(by_radius))]
            self.parts.append(AuditResult.from_dict(found.record["result"], images))
            robust = np.concatenate([part.worst_case.robust for part in self.parts])
            low, high = interval(int(robust.sum()), len(robust))
            self.enough = len(self.parts) == len(self.cells)
            if not self.enough and self.until is not None:
                self.enough = max(high - robust.mean(), robust.mean() - low) <= self.until / 100
                self.stopped = f"the interval is within {self.until:g} points" if self.enough else ""
        if len(self.parts) > before:
            figure = f"{100 * robust.mean():.1f} % hold out so far (95 %: {100 * low:.1f} to {100 * high:.1f})"
            left = f"; about {duration(seconds)} left" if seconds and not self.enough else ""
            self._tell(f"{len(robust):,} of {len(self.x):,} images: {figure}{left}")

    def compute(self, make_engine: Callable[[], Engine], seconds: float) -> None:
        """Audits the missing shards until it is enough, or raises `TookTooLong` after so many seconds."""
        started, running, done = time.monotonic(), 0, 0
        missing = [cell for cell in self.cells if not self.store.is_finished(cell.key)]
        all_missing, engine = len(missing), make_engine()
        shown = self.verbose and isinstance(engine, InProcess) and sys.stderr.isatty()
        try:
            while not self.enough and (missing or running):
                while missing and running < engine.slots:
                    cell, running = missing.pop(0), running + 1
                    part = slice(cell.place["first"], cell.place["first"] + self.shard)
                    engine.submit(cell, {"x": self.x[part], "y": self.y[part], "verbose": shown})
                for cell, outcome in engine.finished():
                    if isinstance(outcome, Failed):
                        raise QadvError(f"{cell.label}: {outcome.message}\n{outcome.trace}".rstrip())
                    self.store.write(cell.key, outcome)
                    running, done = running - 1, done + 1
                took = time.monotonic() - started
                self.advance(took / done * (all_missing - done))
                if took >= seconds and not self.enough:
                    raise TookTooLong
        finally:
            engine.close()

    def print_estimate(self) -> None:
        """Says how long the missing images may take, on one processor."""
        if self.verbose:
            x, y = (each[len(self.parts) * self.shard :] for each in (self.x, self.y))
            least, most = map(duration, estimate(self.audited.classifier, x, y, self.shard, **self.audited.options))
            how = f"{least} if all fall to the first attack, {most} if all hold out"
            self._tell(f"{len(x):,} images in shards of {self.shard}, one at a time: about {how}")

    def result(self) -> AuditResult | None:
        """Returns the result of the first shards, `None` where there are none."""
        if not self.parts:
            return None
        images = sum(part.samples for part in self.parts)
        part = images < len(self.x)
        return merged(self.parts, f"{images:,} of {len(self.x):,} images: {self.stopped}" if part else "")

    def write_result(self, folder: Path) -> None:
        """Writes what is known, all together and image by image."""
        if (result := self.result()) is None:
            return
        write_json(folder / "audit.json", {"format": "qadv-audit/2", **result.to_dict()})
        write_atomically(folder / "images.csv", _by_image(result, self.y).encode())

    def _tell(self, text: str) -> None:
        if self.verbose:
            tqdm.write(text, file=sys.stderr)


def _by_image(result: AuditResult, y: NDArray[np.int64]) -> str:
    """Returns a table of the images: what broke each, and the smallest radius at which something did."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "label", "clean", "holds_out", "broken_by", "eps"])
    curve = (*result.smaller, result)
    for image, by in enumerate(result.worst_case.broken_by):
        eps = next((each.eps for each in curve if each.worst_case.broken_by[image]), "") if by != "clean" else ""
        table.writerow([image, y[image], int(by != "clean"), int(not by), by, eps])
    return text.getvalue()


def _digest(classifier: Classifier, x: Any, y: Any) -> str:
    """Returns a hash of images and labels, and of what the classifier makes of them before its network."""
    with seeded(0):
        prepared = np.asarray(prepare(classifier, x)[0])
    found = blake2b(digest_size=16)
    for each in (x, prepared, y):
        found.update(f"{each.shape}{each.dtype}".encode() + np.ascontiguousarray(each).tobytes())
    return found.hexdigest()
