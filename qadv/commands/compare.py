"""What `qadv compare` does and prints."""

import json
import warnings
from functools import partial

from rich.console import Console

from qadv.backbones.standardisation import picture_settings
from qadv.benchmark.attack_cells import made_attack
from qadv.benchmark.names import check_options
from qadv.command_options import CompareOptions
from qadv.commands.given import beside, check_trained, is_shown, network_and_data, test_images
from qadv.datasets.photographs import Photographs
from qadv.diagnostics.tables import percent
from qadv.diagnostics.transfer_matrix import transfer_matrix
from qadv.errors import InvalidInputError, PictureWarning
from qadv.frontends.summary import summarize
from qadv.named_options import named_options
from qadv.strengths import check_eps
from qadv.tables import right, table
from qadv.units import Share


def run_compare(options: CompareOptions) -> None:
    """Attacks each network and gives the images to all; prints size, accuracy and worst case, and who fools whom."""
    if len({*options.models}) < 2:
        raise InvalidInputError("compare: give two networks or more")
    for name in options.models:
        check_trained(name)
    first, data = network_and_data(options, model=options.models[0])
    networks = {options.models[0]: first}
    networks |= {name: beside(name, first, options) for name in options.models if name not in networks}
    eps = check_eps("--eps", Share(8 / 255) if options.eps is None else options.eps, first.clip_values)
    attacks = {}
    for text in options.attack or ("pgd", "square:max_iter=100"):
        name, settings = named_options(text)
        settings = {"eps": eps, **settings}
        check_options("attack", name, settings)
        attacks[text] = partial(made_attack, name, settings, verbose=is_shown(options))
    for network in networks.values():
        data.check_fits(network)
    x, y = test_images(first, data, options.nb_test)
    matrix = transfer_matrix(networks, x, y, attacks, seed=options.seed)
    seen = {name: picture_settings(network.model) | {"classes": ()} for name, network in networks.items()}
    if isinstance(data, Photographs) and (other := next((n for n in seen if seen[n] != seen[options.models[0]]), None)):
        warnings.warn(
            f"photographs are resized and cropped as {options.models[0]} says, {data.settings}; {other} says "
            f"{seen[other] or 'nothing'}",
            PictureWarning,
            stacklevel=2,
        )
    sizes = {name: summarize(network).packed_bytes for name, network in networks.items()}
    if options.as_json:
        print(json.dumps({"bytes": sizes, "eps": eps, **matrix.to_dict()}, indent=1))
        return
    rows = [
        [name, f"{sizes[name] / 1024:,.1f}", percent(clean), percent(worst)]
        for name, clean, worst in zip(networks, matrix.clean, matrix.worst_case, strict=True)
    ]
    console = Console(soft_wrap=True, markup=False)
    console.print(table(("network", *right("KiB packed", "accuracy", "worst case")), rows))
    console.print(str(matrix), highlight=False)
    console.print(
        f"ε = {eps:.4g}. A worst case is an upper bound of robustness; qadv audit says whether it is a tight one."
    )
