"""Makes a data set: from the folder that was named, and for the network that is to see it."""

import inspect
import os
from collections.abc import Callable, Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any

from qadv.errors import InvalidInputError

_VARIABLE = "QADV_DATA_DIR"


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Returns the folder with data sets and trained networks: the one given, else the one QADV_DATA_DIR names."""
    given = data_dir or os.environ.get(_VARIABLE)
    return Path(given) if given else None


def make_dataset(
    target: Callable[..., Any],
    path: str = "",
    data_dir: str | os.PathLike[str] | None = None,
    classifier: Any = None,
    **options: Any,
) -> Any:
    """Returns what `qadv.create("dataset", NAME)` or `qadv.create("dataset", "NAME:PATH")` does.

    Args:
        target: the component's function.
        path: the folder with its files, where it is a part of the name.
        data_dir: the folder where there is no `path`; without either the one that the variable QADV_DATA_DIR names.
        classifier: an ART classifier that the images are for: those that are read from photographs come in its
            `input_shape`, resized and cropped as timm's config of its network says. Its classes are the data set's.
        options: what else the function takes, e.g. `skip_bad=True`; one that is off it need not know.

    Raises:
        InvalidInputError: the classifier takes other images or classes, or there is no such option.
    """
    known = inspect.signature(target).parameters
    if classifier is not None and "network" in known:
        options = {"network": classifier.model, "input_shape": classifier.input_shape, **options}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        options = {key: value for key, value in options.items() if value or key in known}
        if unknown := ", ".join(options.keys() - known.keys()):
            raise InvalidInputError(f"the data set takes no {unknown}; it takes {', '.join(known)}")
    if "data_dir" in known:
        options["data_dir"] = Path(path) if path else data_folder(data_dir)
    found = target(**options)
    if classifier is not None:
        found.check_fits(classifier)
    return found


def options_of(target: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of some options that a data set's function has arguments with defaults for."""
    known = inspect.signature(target).parameters
    return {key: value for key, value in options.items() if key in known and known[key].default is not Parameter.empty}


def changed_by_name(target: Callable[..., Any], name: str) -> tuple[list[Any], str] | None:
    """Returns what a data set's name says to a function that changes another one, and the name of that.

    Such a function has a first argument called `images`; those of its others that have no default stand in the name,
    as in `"corrupted:fog:3:cifar10"`, as text or whole numbers; fewer are an `InvalidInputError`. `None` for any other
    function.
    """
    own = [name for name, each in inspect.signature(target).parameters.items() if each.default is each.empty]
    if own[:1] != ["images"]:
        return None
    called, *said = name.split(":", len(own))
    if len(said) < len(own):
        raise InvalidInputError(f"{name}: expected {':'.join([called, *map(str.upper, own[1:]), 'DATASET'])}")
    *arguments, other = said
    return [int(text) if text.isdecimal() else text for text in arguments], other
