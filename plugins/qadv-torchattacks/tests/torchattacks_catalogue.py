"""Every attack of torchattacks with a small budget: what is tried in the tests, and the table of the README.

python tests/torchattacks_catalogue.py    # writes the table into README.md
"""

import inspect
from functools import cache
from pathlib import Path

import numpy as np
from qadv_torchattacks import attack_class, attack_names
from qadv_torchattacks.attacks import LENGTHS
from qadv_torchattacks.catalogue import classes, left_out
from torch import nn

import qadv
from qadv.errors import InvalidInputError
from qadv.testing import digits_classifier

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- table of attacks -->\n", "<!-- end of the table -->\n"
SMALL = {
    "eps": 0.3,
    "alpha": 0.1,
    "max_epsilon": 0.3,
    "steps": 3,
    "binary_search_steps": 2,
    "max_iterations": 10,
    "n_queries": 20,
    "nb_sample": 8,
    "restarts": 3,
    "popsize": 3,
    "inf_batch": 8,
    "len_kernel": 3,
    "gamma": 0.05,
    "num_iter_set": 3,
}
STRONG = {  # with less these find nothing, and nothing can be seen of what they do
    "CW": {"c": 100.0, "lr": 0.1, "steps": 30},
    "EADEN": {"initial_const": 10.0, "lr": 0.1},
    "EADL1": {"initial_const": 10.0, "lr": 0.1},
}
COLOUR = ("TIFGSM", "PIFGSM", "PIFGSMPP")  # these convolve with a kernel of three channels


def options(made, **changes):
    """Returns small options for an attack class, as many as it takes."""
    known = inspect.signature(made).parameters
    wanted = {**SMALL, **STRONG.get(made.__name__, {}), "seed": 0, "verbose": False, **changes}
    return {name: value for name, value in wanted.items() if name in known}


class _Grey(nn.Module):
    """A network for grey images as one for colour images."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.mean(dim=1, keepdim=True))


def colour_classifier():
    """Returns the small trained network of the digits for 3×8×8 images."""
    network = _Grey(digits_classifier().model)
    return qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (3, 8, 8), 10, device_type="cpu")


def classifier_for(made):
    return colour_classifier() if made.__name__ in COLOUR else digits_classifier()


@cache
def images(colour=False, number=4):
    data = qadv.create("dataset", "digits")
    right = np.flatnonzero(digits_classifier().predict(data.x_test).argmax(1) == data.y_test)[:number]
    return data.x_test[right].repeat(3 if colour else 1, axis=1), data.y_test[right]


def tried(made, targeted, shift=0):
    """Returns the images that an attack finds with its small budget."""
    x, y = images(made.__name__ in COLOUR)
    attack = made(classifier_for(made), **options(made, targeted=targeted))
    return attack.generate(x.copy(), (y + targeted + shift) % 10)


def targets(made):
    """Returns what an attack does with `targeted=True`, by trying."""
    x, _ = images(made.__name__ in COLOUR)
    untargeted = tried(made, False)
    if (untargeted == tried(made, False, 1)).all():
        return "labels unused"
    try:
        found = tried(made, True)
    except InvalidInputError:
        return "no"
    return "no: leaves the images alone" if (found == x).all() else "yes"


def row(name):
    """Returns an attack's row: name, class, what works, targeted, options with defaults."""
    made = attack_class(name)
    works = "works; colour images only" if made.__name__ in COLOUR else "works"
    listed = [f"`{each.name}={_short(each)}`" for each in made.signature_options.values()]
    return f"| `{name}` | `{made.__name__}` | {works} | {targets(made)} | {', '.join(listed) or '–'} |"


def _short(option):
    default = option.default.of_range if isinstance(option.default, qadv.Share) else option.default
    if option.name in LENGTHS and default < 0.1:
        return f"{round(default * 255)}/255"
    return repr(default)


def table():
    head = "| name | class | | targeted | options, with defaults |\n|---|---|---|---|---|"
    rows = [row(name) for name in sorted(attack_names())]
    others = [f"| – | `{theirs}` | no: {why} | | |" for theirs, why in sorted(left_out().items())]
    assert len(rows) + len(others) == len(classes())
    return "\n".join([head, *rows, *others]) + "\n"


if __name__ == "__main__":
    before, _, rest = README.read_text().partition(START)
    README.write_text(before + START + table() + END + rest.partition(END)[2])
