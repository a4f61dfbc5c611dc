"""Fewer bits for each pixel (Xu, Evans, Qi: "Feature Squeezing", NDSS 2018, arXiv:1704.01155), docs/methods.md §2."""

from torch import Tensor

from qadv.checks import check_fields, check_whole
from qadv.preprocessors.pixels import MOST_BITS, PixelPreprocessor, rounded


class BitDepthReduction(PixelPreprocessor):
    """Rounds each pixel to 2^k levels, both ends included: `round((2^k - 1) · u) / (2^k - 1)`, u in [0, 1].

    Forward values are those of ART's `FeatureSqueezing`. That one works on NumPy arrays and can't be chained with
    others; this one works on tensors. The gradient is BPDA's with the identity (Athalye et al. 2018), **inside
    `forward`**: attacks see a gradient through the rounding, and a defended classifier is not masked.

    Args:
        bit_depth: k, 1 to 16; Defensive Quantization's baseline takes 5, with a 2×2 median behind it.
        clip_values: smallest and largest pixel value.
        apply_fit, apply_predict, device_type: as in ART.
    """

    params = ["bit_depth", *PixelPreprocessor.params]

    def __init__(
        self,
        bit_depth: int = 5,
        clip_values: tuple[float, float] = (0.0, 1.0),
        apply_fit: bool = False,
        apply_predict: bool = True,
        device_type: str = "gpu",
    ) -> None:
        super().__init__(clip_values, apply_fit, apply_predict, device_type)
        self.bit_depth = bit_depth
        self._check_params()

    def _apply(self, pixels: Tensor) -> Tensor:
        return rounded(pixels, self.bit_depth)

    def _check_params(self) -> None:
        super()._check_params()
        check_fields(self, check_whole, "bit_depth", most=MOST_BITS)
