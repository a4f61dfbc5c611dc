"""What is changed for the time of a call is put back, also after an error."""

from contextlib import suppress

import torch
from torch import nn

from qadv.estimators.attacked import AttackedNetwork
from qadv.modes import Modes, buffers_kept, evaluation_mode, is_exported, kept, set_mode, torch_threads


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


class Counting(nn.Module):
    calls = 0

    def train(self, mode=True):
        Counting.calls += 1
        return super().train(mode)


def test_modes_are_set_again_wherever_one_may_have_changed():
    network = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Dropout())).eval()
    modes = Modes(network)
    assert modes.are(False)
    assert not modes.are(True)
    network[1][0].train()
    assert not modes.are(False)
    network.eval()
    assert modes.are(False)
    for parent, name in ((network[1], "1"), (network[0], "added"), (network, "0")):
        parent.add_module(name, nn.Dropout())
        assert not modes.are(False)
        network.eval()
        assert modes.are(False)
    network.append(Counting().eval())
    assert not modes.are(False), "code of the network's own may do more"


def test_a_networks_own_train_is_called_each_time():
    model = AttackedNetwork(nn.Sequential(Counting(), nn.Linear(1, 1)).eval())
    before = Counting.calls
    model.eval()
    model.eval()
    assert Counting.calls == before + 2


def test_a_graph_that_refuses_modes_is_only_evaluated():
    graph = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)).module()
    set_mode(graph, training=False)
    assert is_exported(graph)
    assert not AttackedNetwork(graph).training
    assert not is_exported(nn.Linear(2, 2))


def test_buffers_are_put_back():
    norm = nn.BatchNorm1d(3)
    with buffers_kept(norm):
        norm(torch.rand(4, 3))
        assert norm.num_batches_tracked == 1
    assert norm.num_batches_tracked == 0
    assert (norm.running_mean == 0).all()


def test_a_buffer_whose_elements_share_their_memory_stays():
    norm = nn.BatchNorm1d(3)
    norm.register_buffer("spread", torch.ones(1).expand(4))
    with buffers_kept(norm):
        norm(torch.rand(4, 3))
    assert norm.num_batches_tracked == 0
    assert norm.spread.tolist() == [1] * 4
