"""The μ-law on pixels, with or without rounding: docs/methods.md §4's F on the input instead of the weights."""

from torch import Tensor

from qadv.checks import check_fields, check_flag, check_number, check_whole
from qadv.errors import InvalidInputError
from qadv.preprocessors.companding import inverse_mu_law, mu_law
from qadv.preprocessors.pixels import MOST_BITS, PixelPreprocessor, rounded


class MuLawCompanding(PixelPreprocessor):
    """Puts pixels on a μ-law scale: `F(u) = ln(1 + μu) / ln(1 + μ)`, u in [0, 1]; both ends stay.

    **Reading:** the papers map weights and leave pixels to the reader. Three forms are telephony's:

    - `bits=None`: the network sees F(u). It has to be trained so, hence `apply_fit=True`.
    - `bits=k`: the network sees F(u) rounded to 2^k levels.
    - `bits=k, expand=True`: rounded, then expanded back by F⁻¹, so that the network sees nearly the image it knows,
      with levels that are fine in the dark and coarse in the light.

    F and F⁻¹ are differentiable; the rounding's gradient is BPDA's with the identity, inside `forward`.

    Args:
        mu: μ > 0. 255 is telephony's; choose it on validation data.
        bits: k, 1 to 16, or `None` for no rounding.
        expand: apply F⁻¹ after rounding.
        clip_values: smallest and largest pixel value, whose smallest is u = 0.
        apply_fit, apply_predict, device_type: as in ART.
    """

    params = ["mu", "bits", "expand", *PixelPreprocessor.params]

    def __init__(
        self,
        mu: float = 255.0,
        bits: int | None = None,
        expand: bool = False,
        clip_values: tuple[float, float] = (0.0, 1.0),
        apply_fit: bool = True,
        apply_predict: bool = True,
        device_type: str = "gpu",
    ) -> None:
        super().__init__(clip_values, apply_fit, apply_predict, device_type)
        self.mu = mu
        self.bits = bits
        self.expand = expand
        self._check_params()

    def _apply(self, pixels: Tensor) -> Tensor:
        companded = mu_law(pixels, self.mu, largest=1.0)
        if self.bits is not None:
            companded = rounded(companded, self.bits)
        return inverse_mu_law(companded, self.mu, largest=1.0) if self.expand else companded

    def _check_params(self) -> None:
        super()._check_params()
        check_fields(self, check_number, "mu")
        if self.bits is not None:
            check_fields(self, check_whole, "bits", most=MOST_BITS)
        check_fields(self, check_flag, "expand")
        if self.expand and self.bits is None:
            raise InvalidInputError("expand: expanding what was not rounded gives the image itself; give bits too")
