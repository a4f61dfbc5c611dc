"""Every attack of Foolbox: runs, gives what Foolbox itself gives, keeps to `eps`; and the README's table says so."""

import inspect
import warnings

import foolbox
import numpy as np
import pytest
import torch
from foolbox_catalogue import END, NEEDS, README, START, images, options, row
from qadv_foolbox import attack_class, attack_names
from qadv_foolbox.catalogue import classes, left_out, names, spelled

import qadv
from qadv.errors import MissingRequirementError, UnknownNameError
from qadv.testing import digits_classifier

CLASSES = sorted({attack_class(name) for name in attack_names()}, key=lambda made: made.__name__)
TARGETED_ONLY = {"GenAttack"}


def by_foolbox(made, attack, x, y, seed=0):
    """What Foolbox's own attack gives, called as its documentation says, on the bare module with the same seeds."""
    words = np.random.SeedSequence([seed, 0]).generate_state(3)
    np.random.seed(int(words[0]))
    torch.manual_seed(int(words[2]))
    model = foolbox.PyTorchModel(qadv.as_module(attack.estimator), bounds=(0, 1), device="cpu")
    labels = torch.from_numpy(y)
    criterion = foolbox.criteria.TargetedMisclassification(labels) if attack.targeted else labels
    theirs = made.theirs(**{name: value for name, value in attack.given().items() if name != "eps"})
    return theirs(model, torch.from_numpy(x), criterion, epsilons=getattr(attack, "eps", None))[1].numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", CLASSES, ids=lambda made: made.__name__)
def test_it_gives_what_foolbox_gives_to_the_bit_and_keeps_to_eps(made):
    x, y = images()
    targeted = made.__name__ in TARGETED_ONLY
    y = (y + targeted) % 10
    if any(part in made.__name__ for part in NEEDS):
        pytest.importorskip("numba")
        pytest.skip("compiles itself for a minute")
    attack = made(digits_classifier(), **options(made, targeted=targeted))
    found = attack.generate(x.copy(), y)
    assert (found == by_foolbox(made, attack, x, y)).all()
    assert found.shape == x.shape
    assert found.min() >= 0
    assert found.max() <= 1
    if getattr(attack, "eps", None) is not None:
        far = np.linalg.norm((found - x).reshape(len(x), -1).astype(float), ord=attack.norm, axis=1)
        assert far.max() <= attack.eps * (1 + 1e-5)


def test_each_attack_of_foolbox_is_there_or_is_left_out_for_a_reason():
    theirs = {
        name: value
        for name, value in vars(foolbox.attacks).items()
        if inspect.isclass(value) and issubclass(value, foolbox.attacks.Attack)
    }
    assert set(classes()) == set(theirs)
    assert set(attack_names().values()) | set(left_out()) == set(theirs)
    assert {name: attack_class(name).theirs for name in attack_names()} == {
        name: theirs[spelling] for name, spelling in attack_names().items()
    }
    for name, value in theirs.items():  # the rule, asked of the classes themselves
        needs_start = "starting_points" in str(inspect.signature(getattr(value, "run", len)))
        needs_start &= "init_attack" not in inspect.signature(value.__init__).parameters
        assert (name in left_out()) == (inspect.isabstract(value) or hasattr(value, "feed") or needs_start)


def test_names_are_lower_case_and_differ():
    assert len(names()) == len(set(names())) == len(attack_names())
    assert all(name == name.lower() and name.startswith("foolbox-") for name in names())
    assert [
        spelled(each) for each in ("LinfPGD", "LInfFMNAttack", "L2CarliniWagnerAttack", "DDNAttack", "EADAttack")
    ] == [
        "foolbox-linf-pgd",
        "foolbox-linf-fmn",
        "foolbox-l2-carlini-wagner",
        "foolbox-ddn",
        "foolbox-ead",
    ]


def test_what_is_left_out_or_unknown_says_why():
    with pytest.raises(UnknownNameError, match="starting_points"):
        attack_class("BinarizationRefinementAttack")
    with pytest.raises(UnknownNameError, match="did you mean foolbox-linf-pgd"):
        attack_class("foolbox-linf-pdg")


def test_an_attack_whose_package_is_missing_says_which(monkeypatch):
    missing = ModuleNotFoundError("No module named 'numba'", name="numba")
    monkeypatch.setattr("foolbox.attacks.brendel_bethge.NUMBA_IMPORT_ERROR", missing)
    with pytest.raises(MissingRequirementError, match=r"L2BrendelBethgeAttack needs numba.*pip install numba"):
        attack_class("L2BrendelBethgeAttack")(digits_classifier())


@pytest.mark.filterwarnings("ignore")
def test_the_readmes_table_is_what_the_attacks_do():
    written = README.read_text().partition(START)[2].partition(END)[0].splitlines()[2:]
    assert len(written) == len(classes())
    by_name = {line.split("`")[1]: line for line in written}
    assert {name for name in by_name if name.startswith("foolbox-")} == set(attack_names())
    for name, reason in left_out().items():
        assert f"no: {reason}" in by_name[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in attack_names():
            if "alias" not in by_name[name]:
                assert by_name[name] == row(name)
