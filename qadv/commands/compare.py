"""What `qadv compare` does and prints."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qadv.backbones.standardisation import picture_settings
from qadv.benchmark.made_attacks import made_attack
from qadv.benchmark.names import check_options
from qadv.benchmark.signatures import arguments
from qadv.command_options import CompareOptions
from qadv.commands.given import beside, check_trained, is_shown, network_and_data, one_class, tell, test_images
from qadv.diagnostics.drawing import check_picture, draw_accuracies, save_figure
from qadv.diagnostics.noise_accuracy import noise_accuracy
from qadv.diagnostics.transfer_matrix import transfer_matrix
from qadv.errors import InvalidInputError, PictureWarning
from qadv.frontends.summary import summarize
from qadv.named_options import named_options
from qadv.registry import load
from qadv.strengths import check_eps
from qadv.tables import percent, right, table
from qadv.units import Share


def run_compare(options: CompareOptions) -> None:
    """Attacks each network and gives the images to all; prints size, accuracy and worst case, and who fools whom."""
    if len({*options.models}) < 2:
        raise InvalidInputError("compare: give two networks or more")
    if options.severity is not None and not options.noise:
        raise InvalidInputError("--severity is that of the corruptions: add --noise")
    if options.out is not None:
        check_picture(options.out)
    for name in options.models:
        check_trained(name)
    first, data = network_and_data(options, model=options.models[0])
    networks = {options.models[0]: first}
    networks |= {name: beside(name, first, options) for name in options.models if name not in networks}
    eps = check_eps("--eps", Share(8 / 255) if options.eps is None else options.eps, first.clip_values)
    attacks, others = {}, []
    for text in options.attack or ("pgd", "square:max_iter=100"):
        name, settings = named_options(text)
        if "eps" not in (arguments(load("attack", name)) or ("eps",)):
            raise InvalidInputError(f"--attack {text}: it keeps to no radius, and what is compared is within one")
        others += [text] if "eps" in settings else []
        settings = {"eps": eps, **settings}
        check_options("attack", name, settings)
        attacks[text] = partial(made_attack, name, settings, verbose=is_shown(options))
    for network in networks.values():
        data.check_fits(network)
    x, y = test_images(first, data, options.nb_test)
    noise, noises = None, {}
    if options.noise:
        given: dict[str, Any] = {"seed": options.seed, "verbose": is_shown(options)}
        noise = noise_accuracy(networks, data, options.nb_test, options.severity or 3, **given)
        noises = {kind: getattr(noise, kind) for kind in ("corrupted", "decoded", "resized")}
    matrix = transfer_matrix(networks, x, y, attacks, seed=options.seed)
    seen = {name: picture_settings(network.model) | {"classes": ()} for name, network in networks.items()}
    cropped = getattr(data, "settings", None)  # only photographs have some
    if cropped and (other := next((n for n in seen if seen[n] != seen[options.models[0]]), None)):
        warnings.warn(
            f"photographs are resized and cropped as {options.models[0]} says, {cropped}; {other} says "
            f"{seen[other] or 'nothing'}",
            PictureWarning,
            stacklevel=2,
        )
    sizes = {name: summarize(network).packed_bytes for name, network in networks.items()}
    columns: dict[str, Any] = {"accuracy": matrix.clean, **noises, "worst case": matrix.worst_case}
    if options.out is not None:
        short = [Path(name).name for name in networks]
        save_figure(draw_accuracies(columns, short if len({*short}) == len(short) else [*networks]), options.out)
    means = {name: np.atleast_2d(column).mean(0) for name, column in columns.items()}
    report, notes = {"bytes": sizes, "eps": eps, **matrix.to_dict()}, []
    if noise is not None:
        report["noise"] = {"mean": {name: values.tolist() for name, values in means.items()}, **noise.to_dict()}
        notes.append(
            f"Means over {len(noise.corruptions)} corruptions at severity {noise.severity}, {len(noise.decoders)} "
            f"decoders and {len(noise.resizers)} ways of resizing; --json has each."
        )
    notes += [line for name, network in networks.items() for line in one_class(name, network, x, y)]
    notes.append(
        f"ε = {eps:.4g}{', but of ' * bool(others)}{', '.join(others)}. A worst case is an upper bound of robustness; "
        "qadv audit says whether it is a tight one."
    )
    rows = [
        [name, f"{sizes[name] / 1024:,.1f}", *(percent(column[index]) for column in means.values())]
        for index, name in enumerate(networks)
    ]
    tell(options, report, table(("network", *right("KiB packed", *columns)), rows), str(matrix), *notes)
