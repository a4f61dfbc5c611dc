"""What `qadv audit` does and prints."""

import inspect
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from qadv.checks import check_whole
from qadv.command_options import AuditOptions
from qadv.diagnostics.audit.run import audit
from qadv.errors import InvalidInputError
from qadv.estimators.classifier import QuantizedClassifier
from qadv.estimators.storage import read_header
from qadv.frontends.find import file_frontend
from qadv.registry import create, load
from qadv.units import Share, to_range


def run_audit(options: AuditOptions) -> bool:
    """Audits a saved classifier on test images, prints the table, and returns whether all checks passed.

    Raises:
        InvalidInputError: options or files that do not fit.
        QadvError: what else went wrong with the files.
    """
    check_whole("--nb-samples", options.nb_samples)
    is_file = file_frontend(options.model) is not None
    clip_values = None if is_file else read_header(options.model)["classifier"]["clip_values"]
    classifier = _load(options.model, [made_preprocessor(text, clip_values) for text in options.preprocessor or ()])
    data = create("dataset", options.dataset, data_dir=options.data_dir)
    x, y = data.x_test[: options.nb_samples], data.y_test[: options.nb_samples]
    if x.shape[1:] != classifier.input_shape:
        raise InvalidInputError(
            f"--dataset {options.dataset} has images of shape {x.shape[1:]}, the network takes {classifier.input_shape}"
        )
    result = audit(
        classifier,
        to_range(x, classifier.clip_values),
        y,
        eps=options.eps or Share(8 / 255),
        norm=options.norm,
        to_zero=options.to_zero,
        pair=options.pair,
        pixels=options.pixels,
        float_parent=None if options.float_parent is None else _load(options.float_parent),
        others={path.name: _load(path) for path in options.other or ()},
        thorough=options.thorough,
        seed=options.seed,
        verbose=not options.as_json,
    )
    found = classifier.network.describe() if is_file else ""
    if options.as_json:
        file = {"file": found.splitlines()} if found else {}
        print(json.dumps({**file, **result.to_dict()}, indent=1))
    else:
        if found:
            Console().print(found, highlight=False)
        Console().print(result)
    return result.passed


def made_preprocessor(text: str, clip_values: Sequence[float] | None = None) -> Any:
    """Returns the preprocessor that `NAME` or `NAME:argument=value, …` says, values as in a study file.

    One that asks for the range of the pixels, and is not told, gets `clip_values`.
    """
    name, _, arguments = text.partition(":")
    try:
        options = tomllib.loads(f"options = {{{arguments}}}")["options"]
    except (ValueError, RecursionError) as error:  # no TOML; a number with thousands of digits; nested too deep
        raise InvalidInputError(
            f"--preprocessor {text}: expected NAME or NAME:argument=value, e.g. bit-depth:bit_depth=3; {error}"
        ) from error
    try:
        target = load("preprocessor", name)
        if clip_values is not None and "clip_values" in inspect.signature(target).parameters:
            options = {"clip_values": tuple(clip_values), **options}
        return target(**options)
    except TypeError as error:
        raise InvalidInputError(f"--preprocessor {text}: {error}") from error


def _load(path: Path, preprocessors: Sequence[Any] = ()) -> Any:
    if file_frontend(path) is None and read_header(path)["backbone"] is None:
        raise InvalidInputError(
            f"{path} holds a network of your own, which the command line can't build. In Python: "
            f"qadv.audit(qadv.QuantizedClassifier.load('{path}', model=net), x, y)"
        )
    return QuantizedClassifier.load(path, preprocessing_defences=list(preprocessors) or None)
