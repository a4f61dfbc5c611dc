"""What is changed for the time of a call is put back, also after an error."""

from contextlib import suppress

import torch
from torch import nn

from qadv.modes import evaluation_mode, kept, torch_threads


def test_modes_attributes_and_threads_are_put_back():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout())
    network[0].eval()
    loss, threads = nn.CrossEntropyLoss(), torch.get_num_threads()
    with suppress(RuntimeError), evaluation_mode(network), kept(loss, "reduction"), torch_threads(threads + 1):
        loss.reduction = "none"
        assert (network.training, torch.get_num_threads()) == (False, threads + 1)
        raise RuntimeError
    assert [module.training for module in network.modules()] == [True, False, True]
    assert (loss.reduction, torch.get_num_threads()) == ("mean", threads)
    with torch_threads(None):
        assert torch.get_num_threads() == threads
