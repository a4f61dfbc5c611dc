"""The results are those of the official code, called directly on the bare network."""

import numpy as np
import pyautoattack
import pytest
import torch
from networks import digits
from qadv_autoattack.auto_attack import AutoAttack
from qadv_autoattack.versions import VERSIONS

import qadv
from qadv.testing import digits_classifier

OFFICIAL = {
    "apgd-ce": "apgd",
    "apgd-dlr": "apgd",
    "apgd-t": "apgd_targeted",
    "fab": "fab",
    "fab-t": "fab",
    "square": "square",
}
STEPS, QUERIES = 4, 30


def shorter(official):
    """The official object with fewer steps and queries, made anew where they are read by the constructor."""
    for name in ("apgd", "apgd_targeted"):
        attack = getattr(official, name)
        targets = {"n_target_classes": attack.n_target_classes} if name == "apgd_targeted" else {}
        attack.__init__(
            attack.model,
            n_iter=STEPS,
            norm=attack.norm,
            n_restarts=attack.n_restarts,
            eps=attack.eps,
            seed=attack.seed,
            eot_iter=attack.eot_iter,
            rho=attack.thr_decr,
            use_largereps=attack.use_largereps,
            device=attack.device,
            logger=attack.logger,
            **targets,
        )
    official.fab.n_iter, official.square.n_queries = STEPS, QUERIES
    return official


def run(official, x, y, batch_size):
    images, classes = official.run_standard_evaluation(torch.from_numpy(x), torch.from_numpy(y), batch_size=batch_size)
    return images.numpy(), classes.numpy()


@pytest.mark.parametrize(
    ("norm", "eps", "version"),
    [
        (np.inf, 0.05, "standard"),
        (2, 0.2, "standard"),
        (1, 1.0, "standard"),
        (np.inf, 0.04, "plus"),
        (np.inf, 0.05, "rand"),
    ],
)
def test_images_are_those_of_the_official_code_to_the_bit(norm, eps, version):
    x, y = digits(6)
    classifier = digits_classifier()
    name = f"L{norm}"
    official = pyautoattack.AutoAttack(classifier.model.eval(), norm=name, eps=eps, seed=3, version=version)
    expected, classes = run(shorter(official), x, y, batch_size=4)
    attack = AutoAttack(
        classifier, norm, eps, version, max_iter=STEPS, nb_queries=QUERIES, batch_size=4, seed=3, verbose=False
    )
    np.testing.assert_array_equal(attack.generate(x, y), expected)
    np.testing.assert_array_equal(attack.robust, classes == y)
    assert 0 < attack.robust.sum() < len(x) - 1  # something was broken, and something went through all parts


@pytest.mark.parametrize("norm", ["inf", 2, 1])
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_each_part_has_the_settings_of_the_official_version(norm, version):
    model, device = torch.nn.Identity(), torch.device("cpu")
    official = pyautoattack.AutoAttack(model, norm=f"L{norm}", eps=0.5, seed=7, version=version, device=device)
    attack = AutoAttack(digits_classifier(), norm, 0.5, version, seed=7)
    parts = attack._parts(7)
    assert [name for name, _ in parts] == list(VERSIONS[version]) == official.attacks_to_run
    for name, part in parts:
        ours, theirs = vars(part.official(model, device, 7)), vars(getattr(official, OFFICIAL[name])).copy()
        # what the official driver sets just before it runs the part
        theirs |= {"loss": name.removeprefix("apgd-")} if name in ("apgd-ce", "apgd-dlr") else {}
        theirs |= {"targeted": False} if name == "fab" else {}
        theirs |= {"targeted": True, "n_restarts": 1} if name == "fab-t" else {}
        different = {key for key in theirs if ours[key] != theirs[key]} - {"logger"}
        assert not different, (name, different)


def test_one_part_is_the_official_custom_version():
    x, y = digits(4)
    classifier = digits_classifier()
    official = pyautoattack.AutoAttack(classifier.model.eval(), attacks=["square"], eps=0.3, seed=5, version="custom")
    official.square.n_queries = 100
    expected, _ = run(official, x, y, batch_size=250)
    made = qadv.create("attack", "aa-square", classifier, eps=0.3, max_iter=100, seed=5, verbose=False).generate(x, y)
    np.testing.assert_array_equal(made, expected)
    assert (made != x).any()
