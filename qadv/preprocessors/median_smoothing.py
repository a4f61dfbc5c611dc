"""Median filter (Xu, Evans, Qi: "Feature Squeezing", NDSS 2018, arXiv:1704.01155), docs/methods.md §2."""

from typing import Any

import torch
from torch import Tensor

from qadv.checks import check_fields, check_whole
from qadv.errors import InvalidInputError
from qadv.preprocessors.pixels import TensorPreprocessor, check_pixels


class MedianSmoothing(TensorPreprocessor):
    """Replaces each pixel by the median of a square window, channel by channel.

    Forward values are those of ART's `SpatialSmoothing`, and so of the authors' code: SciPy's median filter, whose
    median of an even number is the upper of the two in the middle, with the pixel at the lower right of the centre, and
    images mirrored at their edges. ART's works on NumPy arrays and can't be chained; its `SpatialSmoothingPyTorch`
    takes the lower median and needs kornia. This one needs torch only. Its gradient is the median's own, to the pixel
    that was taken.

    Args:
        window_size: side of the window in pixels, 1 to 9; Defensive Quantization's baseline takes 2.
        apply_fit, apply_predict, device_type: as in ART.
    """

    params = ["window_size"]

    def __init__(
        self, window_size: int = 2, apply_fit: bool = False, apply_predict: bool = True, device_type: str = "gpu"
    ) -> None:
        super().__init__(apply_fit, apply_predict, device_type)
        self.window_size = window_size
        self._check_params()

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        """Returns the smoothed images (N, C, H, W), float, and `y` as it is."""
        size = self.window_size
        check_pixels(x, type(self).__name__)
        if x.ndim != 4 or min(x.shape[2:]) < size:
            raise InvalidInputError(
                f"MedianSmoothing: expected images (N, C, H, W) of at least {size}×{size} pixels, got {tuple(x.shape)}"
            )
        mirrored = x[:, :, self._rows(x.shape[2], x.device)][:, :, :, self._rows(x.shape[3], x.device)]
        windows = mirrored.unfold(2, size, 1).unfold(3, size, 1).flatten(-2)
        return windows.kthvalue(size * size // 2 + 1).values, y

    def _rows(self, length: int, device: torch.device) -> Tensor:
        """Returns the rows (or columns) that windows cover: half of one before the first, the rest after the last."""
        before, after = self.window_size // 2, (self.window_size - 1) // 2
        rows = torch.arange(-before, length + after, device=device)
        rows = torch.where(rows < 0, -1 - rows, rows)
        return torch.where(rows >= length, 2 * length - 1 - rows, rows)

    def _check_params(self) -> None:
        check_fields(self, check_whole, "window_size", most=9)
