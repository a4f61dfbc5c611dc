"""How a network's code is followed: each way once, and each module once for all ways to it."""

from collections import Counter

import torch
from torch import nn

import qadv
from qadv.quantization.tracing import WayTracer


class AsksTwice(nn.Module):
    """Three questions, each asked twice: 8 ways, where 64 would be too many."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.relu, self.attention = nn.ReLU(), Attention()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.relu(self.first(x))
        answers = [x.shape[2] > size for size in (2, 20, 200)]
        for _ in range(2):
            for answer in answers:
                if answer:
                    x = x.flip(2)
        x = self.second(x)
        return self.head(self.attention(self.relu(x)).amax((2, 3)))


class Attention(nn.Module):
    """Its own code asks a question, too."""

    def forward(self, x):
        return x.flip(3) if x.shape[3] > 2 else x


def quantized():
    model = AsksTwice()
    return qadv.quantize(model, activations="relu6:4", skip_first_last=False)


def test_a_question_that_is_asked_again_gets_the_same_answer():
    plan = quantized().qadv_quantization["plan"]
    assert plan["inputs"] == {"second": "relu", "head": "relu"}


def test_a_module_is_traced_once_for_all_ways_to_it(monkeypatch):
    traced, trace = Counter(), WayTracer.trace

    def counted(self, root, *arguments):
        traced[type(root).__name__] += 1
        return trace(self, root, *arguments)

    monkeypatch.setattr(WayTracer, "trace", counted)
    model = quantized()
    assert traced == {"AsksTwice": 8, "Attention": 2}
    assert model(torch.rand(1, 3, 8, 8)).shape == (1, 2)
