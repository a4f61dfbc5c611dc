"""What `qadv audit` does and prints."""

import inspect
import json
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from qadv.benchmark.audit_shards import audit_in_shards
from qadv.benchmark.report.audit_page import audit_page
from qadv.benchmark.signatures import arguments
from qadv.benchmark.study import with_fractions
from qadv.checks import check_number, check_whole
from qadv.command_options import AuditOptions
from qadv.diagnostics.audit.result import AuditResult
from qadv.errors import AuditInterrupted, InvalidInputError
from qadv.estimators.classifier import QuantizedClassifier
from qadv.estimators.storage import is_onnx, read_header
from qadv.files import write_atomically
from qadv.registry import create, load
from qadv.strengths import check_eps
from qadv.units import Share, to_range


def run_audit(options: AuditOptions) -> bool:
    """Audits a saved classifier on test images, prints the table, and returns whether all checks passed.

    Raises:
        InvalidInputError: options or files that do not fit.
        QadvError: what else went wrong with the files.
    """
    check_whole("--nb-samples", options.nb_samples)
    clip_values = None if is_onnx(options.model) else read_header(options.model)["classifier"]["clip_values"]
    classifier = _load(options.model, [made_preprocessor(text, clip_values) for text in options.preprocessor or ()])
    data = create("dataset", options.dataset, data_dir=options.data_dir)
    x, y = data.take("test", options.nb_samples)
    if x.shape[1:] != classifier.input_shape:
        raise InvalidInputError(
            f"--dataset {options.dataset} has images of shape {x.shape[1:]}, the network takes {classifier.input_shape}"
        )
    if options.fail_under is not None:
        check_number("--fail-under", options.fail_under, most=100)
    found = classifier.network.describe() if is_onnx(options.model) else ""
    eps: Any = options.eps or Share(8 / 255)
    try:
        result = audit_in_shards(
            classifier,
            x := to_range(x, classifier.clip_values),
            y,
            eps=eps,
            norm=options.norm,
            to_zero=options.to_zero,
            pair=options.pair,
            pixels=options.pixels,
            float_parent=None if options.float_parent is None else _load(options.float_parent),
            others={path.name: _load(path) for path in options.other or ()},
            adaptive=None if options.adaptive is None else _adaptive(options.adaptive, eps, classifier),
            thorough=options.thorough,
            checks=options.check,
            shard=options.shard,
            out=options.out,
            jobs=options.jobs,
            engine=options.engine,
            address=options.address,
            until=options.until,
            time_limit=options.time_limit,
            seed=options.seed,
            verbose=not options.as_json,
        )
    except AuditInterrupted as interrupted:
        if interrupted.result is not None:
            _print(interrupted.result, found, options.as_json)
        where = "--out FOLDER would have kept what is finished"
        if options.out is not None:
            where = f"what is finished is in {options.out}: the same command goes on from there"
        Console(stderr=True, soft_wrap=True).print(f"interrupted; {where}", style="yellow", highlight=False)
        raise
    _print(result, found, options.as_json)
    if options.html is not None:
        page = audit_page(classifier, x, y, result, options.model.name, data.classes)
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
            Console().print(file, highlight=False)
        Console().print(result)


def _adaptive(text: str, eps: Any, classifier: Any) -> Callable[[Any], Any]:
    """Returns what makes the attack that `NAME` or `NAME:argument=value, …` says, in the audit's ball if it has one."""
    name, options = _named("--adaptive", text)
    taken = arguments(load("attack", name)) or ()
    radii = eps if isinstance(eps, list) else [eps]
    given = {"eps": check_eps("--eps", radii[-1], classifier.clip_values)} if "eps" in taken else {}
    given |= {"verbose": False} if "verbose" in taken else {}
    return partial(_made, name, given | with_fractions(options))


def _made(name: str, options: dict[str, Any], classifier: Any) -> Any:
    return load("attack", name)(classifier, **options)


def made_preprocessor(text: str, clip_values: Sequence[float] | None = None) -> Any:
    """Returns the preprocessor that `NAME` or `NAME:argument=value, …` says, values as in a study file.

    One that asks for the range of the pixels, and is not told, gets `clip_values`.
    """
    name, options = _named("--preprocessor", text)
    try:
        target = load("preprocessor", name)
        if clip_values is not None and "clip_values" in inspect.signature(target).parameters:
            options = {"clip_values": tuple(clip_values), **options}
        return target(**options)
    except TypeError as error:
        raise InvalidInputError(f"--preprocessor {text}: {error}") from error


def _named(option: str, text: str) -> tuple[str, dict[str, Any]]:
    name, _, given = text.partition(":")
    try:
        return name, tomllib.loads(f"options = {{{given}}}")["options"]
    except (ValueError, RecursionError) as error:  # no TOML; a number with thousands of digits; nested too deep
        raise InvalidInputError(
            f"{option} {text}: expected NAME or NAME:argument=value, e.g. bit-depth:bit_depth=3; {error}"
        ) from error


def _load(path: Path, preprocessors: Sequence[Any] = ()) -> Any:
    if not is_onnx(path) and read_header(path)["backbone"] is None:
        raise InvalidInputError(
            f"{path} holds a network of your own, which the command line can't build. In Python: "
            f"qadv.audit(qadv.QuantizedClassifier.load('{path}', model=net), x, y)"
        )
    return QuantizedClassifier.load(path, preprocessing_defences=list(preprocessors) or None)
