"""Each parameter is decayed once: by the optimizer, or by the penalty that its scheme has for it."""

import copy
import warnings

import pytest
import torch
from torch import nn

import qadv
from qadv.benchmark.network_cells import _train
from qadv.benchmark.specs import NetworkSpec
from qadv.benchmark.study import DefenseSpec
from qadv.trainers import LoopTrainer, parameter_groups

DECAY, LR = 0.5, 0.1  # so large that it can't be overlooked


def classifier(optimizer=None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    model = qadv.quantize(net, "float", "pact:4")
    made = optimizer and optimizer(model)
    return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=made)


def alpha_of(model):
    (found,) = [parameter for name, parameter in model.named_parameters() if name.endswith("alpha")]
    return found


def one_step(trained, digits, **options):
    settings = {"lr": LR, "momentum": 0.0, "weight_decay": DECAY, "lr_schedule": "constant", "verbose": False}
    trainer = LoopTrainer(trained, **{**settings, **options})
    trainer.fit(digits.x_train[:32], digits.y_train[:32], batch_size=32, nb_epochs=1)
    return trained.model


@pytest.fixture(scope="module")
def expected(digits):
    """SGD's step by hand: weights with the decay, α with the gradient of λα², λ = 1e-4, alone."""
    model = copy.deepcopy(classifier().model).train()
    loss = nn.functional.cross_entropy(
        model(torch.from_numpy(digits.x_train[:32])), torch.from_numpy(digits.y_train[:32])
    )
    loss.backward()
    alpha = alpha_of(model)
    step = {name: p.grad + DECAY * p.detach() for name, p in model.named_parameters() if p is not alpha}
    found = {name: p.detach() - LR * step[name] for name, p in model.named_parameters() if p is not alpha}
    return found | {"alpha": alpha.detach() - LR * (alpha.grad + 2 * 1e-4 * alpha.detach())}


def check(model, expected):
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected["alpha" if "alpha" in name else name])


def test_the_trainers_own_optimizer_leaves_pacts_alpha_to_its_penalty(expected, digits):
    check(one_step(classifier(), digits), expected)


def test_an_optimizer_of_ones_own_does_too_with_parameter_groups(expected, digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        made = classifier(lambda model: torch.optim.SGD(parameter_groups(model), lr=LR, weight_decay=DECAY))
        check(one_step(made, digits), expected)


def test_a_study_does_too(expected, digits, tmp_path):
    defense = DefenseSpec(
        trainer="dq",
        options={"beta": 0.0, "lr_schedule": "constant"},
        optimizer={"name": "SGD", "options": {"lr": LR, "weight_decay": DECAY}},
        fit={"nb_epochs": 1, "batch_size": 32},
    )
    made = classifier()
    _train(made, NetworkSpec.model_construct(defense=defense, seed=0, nb_train=32), digits, tmp_path)
    check(made.model, expected)


def test_one_that_decays_alpha_besides_is_told(digits):
    made = classifier(lambda model: torch.optim.SGD(model.parameters(), lr=LR, weight_decay=DECAY))
    with pytest.warns(UserWarning, match=r"decays 2\.\S*alpha.*SGD\(qadv\.trainers\.parameter_groups\(model\)"):
        one_step(made, digits)


def test_networks_without_such_parameters_have_one_group():
    model = nn.Linear(3, 2)
    assert [list(group["params"]) for group in parameter_groups(model)] == [list(model.parameters())]
