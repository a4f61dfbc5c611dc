"""Every attack of torchattacks: runs, gives what torchattacks itself gives; and the README's table says so."""

import inspect

import numpy as np
import pytest
import torch
import torchattacks
from qadv_torchattacks import as_torchattacks, attack_class, attack_names
from qadv_torchattacks.catalogue import classes, left_out, names
from torchattacks_catalogue import COLOUR, END, README, START, classifier_for, images, options, row

from qadv.errors import UnknownNameError

CLASSES = sorted({attack_class(name) for name in attack_names()}, key=lambda made: made.__name__)
BALLS = {"PGDL2": 2, "PGDRSL2": 2}


def by_torchattacks(made, attack, x, y, seed=0):
    """What torchattacks' own attack gives, called as its documentation says, on the bare module with the same seeds."""
    words = np.random.SeedSequence([seed, 0]).generate_state(3)
    np.random.seed(int(words[0]))
    torch.manual_seed(int(words[2]))
    takes = inspect.signature(made.theirs.__init__).parameters
    theirs = made.theirs(
        as_torchattacks(attack.estimator),
        **attack.given(),
        **({"seed": int(words[2]) % 2**31} if "seed" in takes else {}),
    )
    if attack.targeted:
        theirs.set_mode_targeted_by_label(quiet=True)
    return theirs(torch.from_numpy(x), torch.from_numpy(y)).detach().numpy()


@pytest.mark.parametrize("made", CLASSES, ids=lambda made: made.__name__)
def test_it_gives_what_torchattacks_gives_to_the_bit_and_keeps_to_eps(made):
    x, y = images(made.__name__ in COLOUR)
    attack = made(classifier_for(made), **options(made))
    found = attack.generate(x.copy(), y)
    assert (found == np.clip(by_torchattacks(made, attack, x, y), 0, 1)).all()
    assert found.shape == x.shape
    for name in {"eps", "max_epsilon"} & set(made.signature_options):
        far = np.linalg.norm(
            (found - x).reshape(len(x), -1).astype(float), ord=BALLS.get(made.__name__, np.inf), axis=1
        )
        assert far.max() <= getattr(attack, name) * (1 + 1e-5)


def test_each_attack_of_torchattacks_is_there_or_is_left_out_for_a_reason():
    assert set(classes()) == set(torchattacks.__all__)
    assert set(left_out()) == set(torchattacks.__wrapper__)
    assert set(attack_names().values()) | set(left_out()) == set(torchattacks.__all__)
    for name, spelling in attack_names().items():
        assert attack_class(name).theirs is getattr(torchattacks, spelling)
    modules = {value for value in vars(torchattacks).values() if inspect.isclass(value)}
    assert {value.__name__ for value in modules if issubclass(value, torchattacks.attack.Attack)} == set(classes())


def test_names_are_lower_case_and_differ():
    assert len(names()) == len(set(names())) == len(attack_names())
    assert all(name == name.lower() and name.startswith("torchattacks-") for name in names())


def test_what_is_left_out_or_unknown_says_why():
    with pytest.raises(UnknownNameError, match="a wrapper"):
        attack_class("MultiAttack")
    with pytest.raises(UnknownNameError, match="did you mean torchattacks-pgdl2"):
        attack_class("torchattacks-pgdl3")


def test_every_option_has_the_type_of_its_default():
    for made in CLASSES:
        for option in made.signature_options.values():
            assert option.annotation is not inspect.Parameter.empty, option
        made(classifier_for(made), verbose=False)  # so all defaults pass their own checks


def test_the_readmes_table_is_what_the_attacks_do():
    written = README.read_text().partition(START)[2].partition(END)[0].splitlines()[2:]
    assert len(written) == len(classes())
    by_name = {line.split("`")[1]: line for line in written}
    for name, reason in left_out().items():
        assert f"no: {reason}" in by_name[name]
    for name in attack_names():
        assert by_name[name] == row(name)
