"""The μ-law of telephony (ITU-T G.711) on tensors, and its inverse."""

import math

import torch
from torch import Tensor

from qadv.checks import check_number
from qadv.errors import InvalidInputError


def mu_law(w: Tensor, mu: float, largest: float | Tensor | None = None) -> Tensor:
    """Returns `M · F(w / M)` with `F(x) = sgn(x) · ln(1 + μ|x|) / ln(1 + μ)`, shaped as `w`.

    F is odd, strictly increasing and concave above 0; 0 and ±M stay where they are. The derivative at 0 is its limit,
    μ / ln(1 + μ), and not the 0 that autograd gives for `sgn(x) · f(|x|)`.

    Args:
        w: any shape, floating.
        mu: μ > 0; as μ goes to 0, the mapping becomes the identity.
        largest: M, > 0; `None` is max |w|, for which a tensor of zeros stays as it is.
    """
    sign, magnitude = _sign_and_magnitude(w, mu, largest)
    return sign * (mu * magnitude).log1p() / math.log1p(mu)


def inverse_mu_law(w: Tensor, mu: float, largest: float | Tensor | None = None) -> Tensor:
    """Returns `M · F⁻¹(w / M)` with `F⁻¹(y) = sgn(y) · ((1 + μ)^|y| - 1) / μ`; arguments as of `mu_law`.

    With the default M it undoes `mu_law`, which keeps max |w|.
    """
    sign, magnitude = _sign_and_magnitude(w, mu, largest)
    return sign * (magnitude * math.log1p(mu)).expm1() / mu


def _sign_and_magnitude(w: Tensor, mu: float, largest: float | Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns M or -M, and |w / M| with the derivative of w / M at 0 (that of `abs` is 0 there)."""
    check_number("mu", mu)
    size = w.detach().abs().amax() if largest is None else torch.as_tensor(largest, dtype=w.dtype, device=w.device)
    if largest is not None and not bool((size.isfinite() & (size > 0)).all()):
        raise InvalidInputError(f"largest: expected a finite number above 0, got {largest!r}")
    size = torch.where(size > 0, size, 1.0)
    x = w / size
    return torch.where(x >= 0, size, -size).to(x), torch.where(x >= 0, x, -x)
