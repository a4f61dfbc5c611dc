"""`recording` sees what goes through modules, may replace it, and leaves no hook behind."""

import pytest
import torch
from torch import nn

from qadv.recording import recording


def hooks(model):
    return [hook for m in model.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)]


def test_it_calls_with_names_inputs_and_outputs_in_order_of_execution():
    model, seen = nn.Sequential(nn.ReLU(), nn.Flatten()), []
    with recording(
        dict(model.named_children()),
        lambda name, inputs: seen.append((name, inputs[0].tolist())),
        lambda name, inputs, output: seen.append((name, inputs[0].tolist(), output.tolist())),
    ):
        model(torch.tensor([[-1.0]]))
    assert seen == [("0", [[-1.0]]), ("0", [[-1.0]], [[0.0]]), ("1", [[0.0]]), ("1", [[0.0]], [[0.0]])]


def test_what_the_functions_return_takes_the_place_of_inputs_and_outputs():
    layer = nn.Identity()
    with recording({"": layer}, lambda name, inputs: (inputs[0] + 1,), lambda name, inputs, output: output * 10):
        assert layer(1) == 20
    assert layer(1) == 1


def test_no_hook_is_left_where_the_block_or_a_function_fails():
    model = nn.Sequential(nn.ReLU())

    def fail(name, inputs):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), recording({"": model, "0": model[0]}, fail, print):
        model(torch.zeros(1))
    assert not hooks(model)


def test_no_hook_is_left_where_one_of_the_modules_is_none():
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(AttributeError), recording({"": model, "0": None}, print):
        pass
    assert not hooks(model)
