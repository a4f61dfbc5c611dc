"""The network and the images of a command, each opened for the other."""

import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import RenderableType
from tqdm.auto import tqdm

from qadv.backbones.checkpoints import is_of_torch
from qadv.backbones.standardisation import is_of_timm, keep_picture_settings, picture_settings
from qadv.checks import check_whole
from qadv.components import TARGET
from qadv.console import Console
from qadv.errors import InvalidInputError, UnknownNameError
from qadv.estimators.opening import is_file, open_classifier, parted, says_what_it_is
from qadv.estimators.protocol import Classifier
from qadv.estimators.storage import read_header
from qadv.evaluation import predicted
from qadv.frontends.find import file_frontend
from qadv.modes import check_same_classes, nb_labels
from qadv.named_options import named_options
from qadv.registry import create, innermost
from qadv.strengths import number
from qadv.units import to_range

_BATCH = 64


def network_and_data(
    options: Any, arguments: Mapping[str, Any] | None = None, untrained: bool = False, model: str | None = None
) -> tuple[Any, Any]:
    """Opens the network of a command, and its data set, `None` where it asks for none.

    Args:
        options: `MadeOptions` with `dataset` and what goes with it.
        arguments: of the classifier, besides what the options say.
        untrained: a name will do without weights.
        model: without it that of the options.
    """
    if options.nb_test is not None:
        check_whole("--nb-test", options.nb_test)
    size, said = options.image_size, (options.model, options.checkpoint) if model is None else (model,)
    model, checkpoint = parted(*said)
    named = not is_file(model) and not TARGET.fullmatch(model)
    if not (untrained or checkpoint):
        check_trained(model)
    if options.data_dir is not None and options.dataset is None:
        raise InvalidInputError("--data-dir: it is where the images of --dataset are; give that, too")
    given = {"nb_classes": options.nb_classes, "preprocessing": _standardisation(options, model)}
    given = {name: value for name, value in given.items() if value is not None} | dict(arguments or {})
    data, shape = None, None if size is None else (_channels(model), size, size)
    if options.dataset is not None and not is_file(model):
        fitted = "network" in inspect.signature(innermost(options.dataset)).parameters
        data = data_of(options, **({"network": named_options(model)[0]} if fitted and named else {}))
        given = {"nb_classes": len(data.classes)} | given
        shape = (data.input_shape[0], size, size) if size else data.input_shape if named or not fitted else None
    if shape is not None:
        given["input_shape"] = shape
    torch.manual_seed(getattr(options, "seed", 0))  # of new weights
    classifier = open_classifier(model, checkpoint, **given)
    if options.dataset is None:
        return classifier, None
    if data is None or data.input_shape != tuple(classifier.input_shape) or fitted:
        data = data_of(options, classifier=classifier)
    else:
        data.check_fits(classifier)
    return classifier, data


def is_saved(model: str) -> bool:
    """Whether a MODEL is a file with a header, which says what the network is like."""
    return Path(model).is_file() and file_frontend(model) is None and not is_of_torch(model)


def _channels(model: str) -> int:
    """Returns the number of channels that a saved network has, 3 for any other."""
    return int(read_header(model)["classifier"]["input_shape"][0]) if is_saved(model) else 3


def beside(model: str, classifier: Any, options: Any) -> Any:
    """Opens another MODEL of a command, for the images and the classes of the first.

    Raises:
        InvalidInputError: both say what their classes are called, not by numbers, and not the same.
    """
    check_trained(model)
    given: dict[str, Any] = {
        "input_shape": None if is_saved(model) else classifier.input_shape,
        "nb_classes": None if is_file(model) else nb_labels(classifier),
        "preprocessing": _standardisation(options, model),
    }
    found = open_classifier(model, **{name: value for name, value in given.items() if value is not None})
    check_same_classes(model, classifier.model, found.model)
    return found


def check_out(out: Path, model: str, suffix: str = ".safetensors") -> None:
    """Refuses a file to write that is the command's own MODEL, or whose name says that it is something else."""
    if out.resolve() == Path(model).resolve():
        raise InvalidInputError(f"{out} is the model itself; choose another file with --out")
    if says_what_it_is(out) and out.suffix != suffix:
        raise InvalidInputError(f"{out}: by that name it would be read as something else; end it in {suffix}")


def data_of(options: Any, **fitted: Any) -> Any:
    """Returns the data set of a command; `fitted` says for which network."""
    skip = {"skip_bad": True} if getattr(options, "skip_bad", False) else {}
    return create("dataset", options.dataset, data_dir=options.data_dir, **skip, **fitted)


def check_trained(model: str) -> None:
    """Refuses the name of a network without weights."""
    model, checkpoint = parted(model)
    if checkpoint or is_file(model) or TARGET.fullmatch(model):
        return
    name, options = named_options(model)
    try:
        own = is_of_timm(name)
    except UnknownNameError as error:
        raise UnknownNameError(f"there is no file {model}, and {error}") from error
    if not options.get("pretrained"):
        timms = f", or ask timm for its own, {name}:pretrained=true" if own else ""
        raise InvalidInputError(
            f"{name} is the name of a network, which is made with random weights: give trained ones, as "
            f"{name}@net.pth or with --checkpoint{timms}"
        )


def _standardisation(options: Any, model: str) -> tuple[list[float], ...] | None:
    """Returns what pixels are standardised with, `None` of a network that was saved, which says that itself."""
    pair = [options.mean, options.std]
    if None in pair and pair != [None, None]:
        raise InvalidInputError("--mean and --std go together; give both")
    others = [getattr(options, name, None) for name in ("models", "other", "float_parent", "simulation")]
    if None not in pair and all(is_saved(each) for each in np.hstack([model, *filter(None, others)])):
        raise InvalidInputError(f"--mean and --std: {model} was saved with its own; leave them out")
    if None in pair or is_saved(model):
        return None
    mean, std = ([number(text, each) for each in text.split(",")] for text in pair)
    if max(mean) > 1 and max(std) > 1:
        raise InvalidInputError(
            f"--mean {options.mean} --std {options.std}: pixels are from 0 to 1; divide both by 255"
        )
    return mean, std


def keep_classes(classifier: Any, data: Any) -> None:
    """Has a network know what its classes are called, so that its file says it."""
    keep_picture_settings(classifier.model, picture_settings(classifier.model) | {"classes": list(data.classes)})


def test_images(classifier: Classifier, data: Any, nb_test: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns the first test images, (N, *input_shape) in `clip_values`, and their labels, (N,)."""
    x, y = data.take("test", nb_test)
    return to_range(x, classifier.clip_values), y


def one_class(name: str, classifier: Classifier, x: NDArray[Any], y: NDArray[np.int64]) -> list[str]:
    """Returns a line about a network that gives images of several classes all the same, or none."""
    classes = np.unique(predicted(classifier, x))
    if len(classes) > 1 or len(np.unique(y)) == 1:
        return []
    return [
        f"{name} gives all {len(x):,} images class {classes[0]}: what attacks leave of its accuracy is no robustness."
    ]


def tell(options: Any, report: Mapping[str, Any], *shown: RenderableType) -> None:
    """Prints a report as JSON where that is asked for, else what is shown to people."""
    if options.as_json:
        print(json.dumps(report, indent=1))
    else:
        console = Console(soft_wrap=True, markup=False, highlight=False)
        for each in shown:
            console.print(each)


def is_shown(options: Any) -> bool:
    """Whether progress is shown: to people at a terminal."""
    return not options.as_json and sys.stderr.isatty()


def accuracy(classifier: Classifier, data: Any, options: Any, what: str) -> float:
    """Returns which part of the test images is classified correctly, 0 to 1; a batch of them is held at a time."""
    batches = torch.utils.data.DataLoader(data.samples("test", options.nb_test), _BATCH)
    right = [
        predicted(classifier, to_range(x.numpy(), classifier.clip_values)) == y.numpy()
        for x, y in tqdm(batches, desc=what, unit="batch", disable=not is_shown(options))
    ]
    return float(np.concatenate(right).mean())
