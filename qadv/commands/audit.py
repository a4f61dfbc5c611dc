"""What `qadv audit` does and prints."""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from qadv.command_options import AuditOptions
from qadv.commands.given import network_and_data, test_images
from qadv.diagnostics.audit.run import audit
from qadv.errors import InvalidInputError
from qadv.estimators.opening import is_file, open_classifier
from qadv.estimators.storage import read_header
from qadv.frontends.find import file_frontend
from qadv.named_options import named_options
from qadv.registry import load
from qadv.units import Share


def run_audit(options: AuditOptions) -> bool:
    """Audits a saved classifier on test images, prints the table, and returns whether all checks passed.

    Raises:
        InvalidInputError: options or files that do not fit.
        QadvError: what else went wrong with the files.
    """
    clip_values = read_header(options.model)["classifier"]["clip_values"] if _is_saved(options.model) else None
    defences = [made_preprocessor(text, clip_values) for text in options.preprocessor or ()]
    classifier, data = network_and_data(options, {"preprocessing_defences": defences} if defences else {})
    x, y = test_images(classifier, data, options.nb_test)
    result = audit(
        classifier,
        x,
        y,
        eps=options.eps or Share(8 / 255),
        norm=options.norm,
        to_zero=options.to_zero,
        pair=options.pair,
        pixels=options.pixels,
        float_parent=None if options.float_parent is None else open_classifier(options.float_parent),
        simulation=None if options.simulation is None else open_classifier(options.simulation),
        others={Path(other).name: open_classifier(other) for other in options.other or ()},
        thorough=options.thorough,
        seed=options.seed,
        verbose=not options.as_json,
    )
    found = classifier.network.describe() if file_frontend(options.model) is not None else ""
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
    name, options = named_options(text)
    try:
        target = load("preprocessor", name)
        if clip_values is not None and "clip_values" in inspect.signature(target).parameters:
            options = {"clip_values": tuple(clip_values), **options}
        return target(**options)
    except TypeError as error:
        raise InvalidInputError(f"--preprocessor {text}: {error}") from error


def _is_saved(model: str) -> bool:
    return is_file(model) and file_frontend(model) is None
