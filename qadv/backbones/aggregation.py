"""How a residual block adds its shortcut and its branch."""

import torch
from torch import Tensor, nn

from qadv.checks import check_choice


class Sum(nn.Module):
    """`shortcut + branch`."""

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        return shortcut + branch


class ConvexSum(nn.Module):
    """`a * shortcut + b * branch`, learned from 1/2 on, a, b >= 0 and a + b = 1 (DQ §4, after Parseval networks)."""

    def __init__(self) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.tensor([0.5, 0.5]))

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        return self.coefficients[0] * shortcut + self.coefficients[1] * branch

    @torch.no_grad()
    def after_step(self) -> None:
        """Projects (a, b) on the simplex: the nearest point with a, b >= 0 and a + b = 1."""
        a, b = self.coefficients
        first = ((a - b + 1) / 2).clamp(0, 1)
        self.coefficients.copy_(torch.stack([first, 1 - first]))


def make_aggregation(name: str) -> nn.Module:
    """Returns a new `"sum"` or `"convex"` aggregation."""
    return Sum() if check_choice("aggregation", name, ("sum", "convex")) == "sum" else ConvexSum()
