"""Listing torchattacks' attacks imports neither torch nor torchattacks, and takes no name from anyone else."""

import subprocess
import sys

from art.attacks.evasion import ProjectedGradientDescent
from qadv_torchattacks.catalogue import names

import qadv
from qadv.testing import digits_classifier


def test_listing_imports_nothing_heavy():
    code = """
import sys, qadv
from qadv.registry import default_registry
families = [e.component for e in default_registry().entries("attack") if e.component.name == "torchattacks"]
assert len(families) == 1 and "torchattacks-pgd" in families[0].members()
print("LOADED", [name for name in ("torch", "art", "brevitas", "timm", "torchattacks") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout


def test_an_attack_is_made_by_name_bare_or_qualified():
    for name in (
        "torchattacks-pgd",
        "torchattacks/torchattacks-pgd",
        "qadv-torchattacks/torchattacks/torchattacks-pgd",
    ):
        attack = qadv.create("attack", name, digits_classifier(), eps=0.1)
        assert type(attack).__name__ == "PGD"


def test_other_names_mean_what_they_meant():
    taken = {*qadv.list_components("attack"), *qadv.load("attack", "ProjectedGradientDescent").args}
    assert not taken & set(names())
    assert isinstance(
        qadv.create("attack", "ProjectedGradientDescent", digits_classifier(), verbose=False), ProjectedGradientDescent
    )
    assert isinstance(qadv.create("attack", "spsa", digits_classifier()), qadv.SPSA)
