"""Every attack of Foolbox with a small budget: what is tried in the tests, and the table of the README.

python tests/foolbox_catalogue.py    # writes the table into README.md
"""

import inspect
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from foolbox.attacks import SaltAndPepperNoiseAttack
from foolbox.distances import Distance
from qadv_foolbox import attack_class, attack_names
from qadv_foolbox.catalogue import classes, left_out

import qadv
from qadv.errors import InvalidInputError
from qadv.testing import digits_classifier

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- table of attacks -->\n", "<!-- end of the table -->\n"
NEEDS = {"BrendelBethge": "numba"}
SMALL = {
    "steps": 3,
    "binary_search_steps": 2,
    "directions": 20,
    "repeats": 5,
    "grid_search": False,
    "random_steps": 5,
    "population": 4,
    "initial_gradient_eval_steps": 5,
    "max_gradient_eval_steps": 10,
}
STEPS = {"SaltAndPepperNoiseAttack": 100, "L2CarliniWagnerAttack": 20, "LinearSearchBlendedUniformNoiseAttack": 20}


def options(made, **changes):
    """Returns small options for an attack class, as many as it takes."""
    known = inspect.signature(made).parameters
    wanted = {**SMALL, "steps": STEPS.get(made.__name__, SMALL["steps"]), "seed": 0, "verbose": False, **changes}
    if known.get("eps", inspect.Parameter("eps", 1, default=None)).default is inspect.Parameter.empty:
        wanted.setdefault("eps", 0.2 if "Linf" in made.__name__ or made.__name__ == "GenAttack" else 1.0)
    if made.__name__ == "PointwiseAttack":
        wanted["init_attack"] = SaltAndPepperNoiseAttack(steps=50)  # its default takes a thousand steps
    return {name: value for name, value in wanted.items() if name in known}


@cache
def images(number=6):
    data = qadv.create("dataset", "digits")
    right = np.flatnonzero(digits_classifier().predict(data.x_test).argmax(1) == data.y_test)[:number]
    return data.x_test[right], data.y_test[right]


def tried(made, targeted, shift=0):
    """Returns the images that an attack finds with its small budget."""
    x, y = images()
    attack = made(digits_classifier(), **options(made, targeted=targeted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return attack.generate(x.copy(), (y + targeted + shift) % 10)


def targets(made):
    """Returns what an attack does with `targeted=True`, by trying; not those that compile themselves for minutes."""
    if any(part in made.__name__ for part in NEEDS):
        return "not tried"
    accepted = [targeted for targeted in (False, True) if _accepts(made, targeted)]
    if accepted == [False, True] and "init_attack" not in made.signature_options and _ignores_labels(made):
        return "labels unused"
    return {(False,): "no", (True,): "only", (False, True): "yes"}[tuple(accepted)]


def _accepts(made, targeted):
    try:
        tried(made, targeted)
    except InvalidInputError as error:
        if "targeted" not in str(error):
            raise
        return False
    except (ValueError, AssertionError) as error:  # it looked for images of the target class to start from
        if isinstance(error, ValueError) and "init_attack failed" not in str(error):
            raise
    return True


def _ignores_labels(made):
    try:
        return all((tried(made, targeted) == tried(made, targeted, 1)).all() for targeted in (False, True))
    except (ValueError, AssertionError):
        return False


def _distance(theirs):
    try:
        found = theirs.distance if isinstance(getattr(theirs, "distance", None), Distance) else theirs().distance
    except AttributeError:
        return "–"
    return str(found).split()[0]


def row(name):
    """Returns an attack's row: name, class, distance, eps, targeted, options."""
    theirs = attack_names()[name]
    made = attack_class(name)
    own = made.signature_options
    distance = "option" if "distance" in own else "by `constraint`" if "constraint" in own else _distance(made.theirs)
    eps = "–" if "eps" not in own else "required" if own["eps"].default is inspect.Parameter.empty else "or none"
    if distance in ("L0", "–"):
        eps = "–"
    needs = next((f"; needs `{module}`" for part, module in NEEDS.items() if part in theirs), "")
    alias = f"`{theirs}`" if theirs == made.theirs.__name__ else f"`{theirs}`, alias"
    listed = ", ".join(f"`{each}`" for each in own if each != "eps")
    return f"| `{name}` | {alias} | works{needs} | {distance} | {eps} | {targets(made)} | {listed or '–'} |"


def table(wanted=lambda name: True):
    head = "| name | class | | distance | `eps` | targeted | options |\n|---|---|---|---|---|---|---|"
    rows = [row(name) for name in sorted(attack_names()) if wanted(name)]
    others = [f"| – | `{theirs}` | no: {why} | | | | |" for theirs, why in sorted(left_out().items())]
    assert len(attack_names()) + len(others) == len(classes())
    return "\n".join([head, *rows, *others]) + "\n"


if __name__ == "__main__":
    before, _, rest = README.read_text().partition(START)
    README.write_text(before + START + table() + END + rest.partition(END)[2])
