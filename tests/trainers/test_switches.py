"""Every trainer takes bfloat16, channels-last and compiled networks, and trains much as without them."""

import copy
import functools

import pytest
import torch
from torch import nn

import qadv

ATTACK = {"eps": 0.1, "eps_step": 0.05, "max_iter": 2}
SEARCH = {"rounds": 1, "nb_directions": 6, "nb_nearest": 4, "samples_per_class": (2, 3, 4), "ranking_samples": 3}
PAIRED = {"lambdas": {"logits": 1.0, "4": 0.1}}
TRAINERS = {"dq": {}, "eq": ATTACK | PAIRED, "adversarial": ATTACK, "feedback": SEARCH}


def fit(name, trained, digits, look=None, **switch):
    """Trains a trained network for two epochs more, and returns it with the last entry of the history."""
    classifier = copy.deepcopy(trained)
    if look is not None:
        classifier.model.register_forward_pre_hook(look)
    options = {**TRAINERS[name], "lr": 0.01, "verbose": False, **switch}
    trainer = qadv.create("trainer", name, classifier=classifier, **options)
    trainer.fit(digits.x_train[:160], digits.y_train[:160], batch_size=40, nb_epochs=2)
    return classifier.model, trainer.history[-1]


@pytest.fixture(scope="module")
def plain(trained, digits):
    """Returns the last entry of the history without a switch, by trainer."""
    return functools.cache(lambda name: fit(name, trained, digits)[1])


def check(entry, expected):
    assert entry.keys() == expected.keys()
    # a step of two moved by the last bit of a sum is all of a hundredth here; the loss of an untrained network is 2.3
    assert entry["loss"] == pytest.approx(expected["loss"], rel=0.15, abs=0.02)
    assert entry["accuracy"] == pytest.approx(expected["accuracy"], abs=0.05)
    for key in entry:
        if key.startswith("distance/"):
            assert entry[key] == pytest.approx(expected[key], rel=0.1)


@pytest.mark.parametrize("name", TRAINERS)
def test_bfloat16(name, trained, digits, plain):
    passes = []

    def look(model, inputs):
        passes.append((model.training, torch.is_autocast_enabled("cpu")))

    model, entry = fit(name, trained, digits, look, amp=True)
    assert {amp for training, amp in passes if training} == {True}
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    check(entry, plain(name))
    assert entry["loss"] != plain(name)["loss"]


@pytest.mark.parametrize("name", TRAINERS)
def test_channels_last(name, trained, digits, plain):
    model, entry = fit(name, trained, digits, channels_last=True)
    inner = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and min(m.weight.shape[1:3]) > 1]
    assert inner
    assert all(w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous() for w in inner)
    check(entry, plain(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dq", "eq"])  # of the others' steps, eq has all
def test_compile(name, trained, digits, plain, monkeypatch):
    graphs, compile_ = [], torch.compile

    def counting(model, backend):
        assert backend == "eager"
        return compile_(model, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)

    monkeypatch.setattr(torch, "compile", counting)
    torch.compiler.reset()
    _, entry = fit(name, trained, digits, compile="eager")
    assert graphs
    check(entry, plain(name))
