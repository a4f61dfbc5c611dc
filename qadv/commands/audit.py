"""What `qadv audit` does and prints."""

import inspect
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qadv.benchmark.audit_shards import audit_in_shards
from qadv.benchmark.made_attacks import made_attack
from qadv.benchmark.report.audit_page import audit_page
from qadv.benchmark.signatures import arguments
from qadv.benchmark.study import with_fractions
from qadv.checks import check_number
from qadv.command_options import AuditOptions
from qadv.commands.given import beside, is_saved, network_and_data, test_images
from qadv.console import Console
from qadv.diagnostics.audit.result import AuditResult
from qadv.errors import AuditInterrupted, InvalidInputError
from qadv.estimators.storage import read_header
from qadv.files import write_atomically
from qadv.frontends.find import file_frontend
from qadv.modes import class_names
from qadv.named_options import named_options
from qadv.registry import load
from qadv.strengths import check_eps
from qadv.units import Share

_AS_THEY_ARE = (
    "norm", "to_zero", "pair", "pixels", "queries", "thorough", "shard", "out", "jobs", "engine", "address", "until",
    "time_limit", "seed",
)  # fmt: skip


def run_audit(options: AuditOptions) -> bool:
    """Audits a saved classifier on test images, prints the table, and returns whether all checks passed.

    Raises:
        InvalidInputError: options or files that do not fit.
        QadvError: what else went wrong with the files.
    """
    clip_values = read_header(options.model)["classifier"]["clip_values"] if is_saved(options.model) else None
    defences = [made_preprocessor(text, clip_values) for text in options.preprocessor or ()]
    classifier, data = network_and_data(options, {"preprocessing_defences": defences} if defences else {})
    x, y = test_images(classifier, data, options.nb_test)
    if options.fail_under is not None:
        check_number("--fail-under", options.fail_under, most=100)
    found = classifier.network.describe() if file_frontend(options.model) is not None else ""
    eps: Any = options.eps or Share(8 / 255)
    said: dict[str, Any] = {name: getattr(options, name) for name in _AS_THEY_ARE}
    said |= {"without": options.without} if options.without else {}
    try:
        result = audit_in_shards(
            classifier,
            x,
            y,
            eps=eps,
            float_parent=None if options.float_parent is None else beside(options.float_parent, classifier, options),
            simulation=None if options.simulation is None else beside(options.simulation, classifier, options),
            others={other: beside(other, classifier, options) for other in options.other or ()},
            adaptive=None if options.adaptive is None else _adaptive(options, eps, classifier),
            checks=options.check,
            verbose=not options.as_json,
            **said,
        )
    except AuditInterrupted as interrupted:
        if interrupted.result is not None:
            _print(interrupted.result, found, options.as_json)
        where = "--out FOLDER would have kept what is finished"
        if options.out is not None:
            where = f"what is finished is in {options.out}: the same command goes on from there"
        Console(stderr=True, soft_wrap=True, markup=False).print(
            f"interrupted; {where}", style="yellow", highlight=False
        )
        raise
    _print(result, found, options.as_json)
    if options.html is not None:
        names = class_names(classifier.model) or data.classes
        page = audit_page(classifier, x, y, result, Path(options.model).name, names)
        write_atomically(options.html, page.encode())
    if options.fail_under is not None and (accuracy := 100 * result.worst_case.accuracy) < options.fail_under:
        Console(stderr=True).print(f"worst case {accuracy:.1f} % is under {options.fail_under:g} %", style="red")
        return False
    return result.passed


def _print(result: AuditResult, file: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**({"file": file.splitlines()} if file else {}), **result.to_dict()}, indent=1))
    else:
        if file:
            Console(markup=False).print(file, highlight=False)
        Console().print(result)


def _adaptive(options: AuditOptions, eps: Any, classifier: Any) -> Callable[[Any], Any]:
    """Returns what makes the attack that `NAME` or `NAME:argument=value, …` says, in the audit's ball if it has one."""
    name, settings = named_options(options.adaptive or "")
    taken = arguments(load("attack", name)) or ()
    radii = eps if isinstance(eps, list) else [eps]
    given: dict[str, Any] = {"targeted": options.pair is not None} if "targeted" in taken else {}
    given |= {"eps": check_eps("--eps", radii[-1], classifier.clip_values)} if "eps" in taken else {}
    return partial(made_attack, name, given | with_fractions(settings, "--adaptive"))


def made_preprocessor(text: str, clip_values: Sequence[float] | None = None) -> Any:
    """Returns the preprocessor that `NAME` or `NAME:argument=value, …` says, values as in a study file.

    One that asks for the range of the pixels, and is not told, gets `clip_values`.
    """
    name, options = named_options(text)
    try:
        target = load("preprocessor", name)
        if clip_values is not None and "clip_values" in inspect.signature(target).parameters:
            options = {"clip_values": tuple(clip_values), **options}
        return target(**options)
    except TypeError as error:
        raise InvalidInputError(f"--preprocessor {text}: {error}") from error
