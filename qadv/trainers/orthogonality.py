"""Defensive Quantization's regulariser (DQ eq. 8), and the norms it is to keep small."""

from typing import Any

import torch
from torch import Tensor, nn

from qadv.errors import UnsupportedModelError
from qadv.modes import evaluation_mode, weight_layers
from qadv.recording import recording
from qadv.trainers.network import TrainedNetwork
from qadv.trainers.objective import Objective


def matrices_of(layer: nn.Module, weight: Any) -> Tensor:
    """Returns a conv or linear weight as matrices, (groups, c_out / groups, c_in / groups · k · k)."""
    groups = getattr(layer, "groups", 1)
    return weight.reshape(groups, weight.shape[0] // groups, -1)  # type: ignore[no-any-return]


def orthogonality_error(layer: nn.Module) -> Tensor:
    """Returns `‖W Wᵀ - I‖²`, squared Frobenius norm, a scalar.

    **Reading** (docs/methods.md §2): over the smaller of the two Gram matrices, so rows are made orthogonal where
    c_out <= c_in·k·k and columns otherwise; a grouped convolution is that many smaller ones side by side.
    """
    matrices = matrices_of(layer, layer.weight)
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mT
    gram = matrices @ matrices.mT
    return (gram - torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)).square().sum()


class Orthogonality(Objective):
    """Adds `β/2 · Σ_l ‖W_lᵀ W_l - I‖²` over all convolution and linear layers.

    **Reading**: a layer with quantized weights is regularised through its latent weights.

    Each epoch it logs `orthogonality_error` (the sum, without β/2) and, for each layer, `spectral_norm` (largest
    singular value of W) and `spectral_norm_bn` (with the BatchNorm that follows folded in: its scale is free to undo
    the bound).
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self._layers: dict[str, nn.Module] = {}
        self._batch_norms: dict[str, nn.Module] = {}

    def __repr__(self) -> str:
        return f"Orthogonality(beta={self.beta})"

    def start(self, network: TrainedNetwork, image: Tensor) -> None:
        model = network.model
        self._layers = weight_layers(model)
        if not self._layers:
            raise UnsupportedModelError(f"{type(model).__name__} has no convolution or linear layer to make orthogonal")
        self._batch_norms = following_batch_norms(model, self._layers, image)

    def terms(self, network: TrainedNetwork, x: Tensor, y: Tensor, logits: Tensor) -> dict[str, Tensor]:
        if self.beta == 0:
            return {}
        return {"penalty": self.beta / 2 * self._error()}

    def _error(self) -> Tensor:
        return torch.stack([orthogonality_error(layer) for layer in self._layers.values()]).sum()

    @torch.no_grad()
    def measure(self, network: TrainedNetwork) -> dict[str, object]:
        return {
            "orthogonality_error": float(self._error()),
            "spectral_norm": {name: spectral_norm(layer) for name, layer in self._layers.items()},
            "spectral_norm_bn": {n: spectral_norm(self._layers[n], norm) for n, norm in self._batch_norms.items()},
        }


@torch.no_grad()
def spectral_norm(layer: nn.Module, batch_norm: nn.Module | None = None) -> float:
    """Returns the largest singular value of a layer's weight matrix, with a BatchNorm's scale folded in if given."""
    matrices = matrices_of(layer, layer.weight)
    norm: Any = batch_norm
    if norm is not None:
        scale = (norm.running_var + norm.eps).rsqrt() * (norm.weight if norm.weight is not None else 1.0)
        matrices = matrices * scale.reshape(*matrices.shape[:2], 1)
    return float(torch.linalg.matrix_norm(matrices.double(), ord=2).amax())


@torch.no_grad()
def following_batch_norms(model: nn.Module, layers: dict[str, nn.Module], image: Tensor) -> dict[str, nn.Module]:
    """Returns, by layer name, the BatchNorm that is applied to the layer's very output; found by running one image."""
    made_by: dict[int, tuple[str, Any]] = {}
    found: dict[str, nn.Module] = {}

    def note_output(name: str, _: Any, output: Any) -> None:
        made_by[id(output)] = name, output  # which stays alive, so that no two have the same id

    def note_input(name: str, inputs: tuple[Any, ...]) -> None:
        if inputs and id(inputs[0]) in made_by:
            found[made_by[id(inputs[0])][0]] = norms[name]

    kind = nn.modules.batchnorm._BatchNorm
    norms = {name: m for name, m in model.named_modules() if isinstance(m, kind) and m.track_running_stats}
    with recording(layers, leaving=note_output), recording(norms, entering=note_input), evaluation_mode(model):
        model(image)
    return found
