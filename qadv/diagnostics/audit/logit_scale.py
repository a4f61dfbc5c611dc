"""What counts as a difference of logits: of the classes that compete, beyond rounding."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-4
_ULPS = 8 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class LogitScale:
    """How large the logits of some images are, whatever is added to all of an image's, or masked out for good.

    Attributes:
        competing: which classes are in the upper half of some image's, or its label, (classes,) bool.
        size: the largest distance between two of them at one image, the median over images; 1 where all are the same.
        least: what differences have to be larger than, or they are rounding.
    """

    competing: NDArray[np.bool_]
    size: float
    least: float

    @classmethod
    def of(cls, logits: Any, labels: Any) -> "LogitScale":
        """Looks at logits (…, classes) of images with these labels or targets; what is not finite does not compete."""
        rows = np.asarray(logits, dtype=np.float64).reshape(-1, np.shape(logits)[-1])
        rows = np.where(np.isfinite(rows), rows, np.nan)
        ranks = np.argsort(-rows, axis=1, kind="stable").argsort(axis=1)
        upper = (ranks < max(2, (rows.shape[1] + 1) // 2)) & ~np.isnan(rows)
        competing: NDArray[np.bool_] = np.any(upper, axis=0)
        competing[np.unique(labels)] = True
        left = rows[:, competing]
        if not left.size or np.isnan(left).all():
            return cls(competing, 1.0, ROUNDING)
        spread = np.nanmax(left, axis=1) - np.nanmin(left, axis=1)
        size = float(np.nanmedian(spread)) or float(np.nanmax(spread)) or 1.0
        return cls(competing, size, max(ROUNDING * size, _ULPS * float(np.nanmax(np.abs(left)))))

    def of_competing(self, logits: Any) -> NDArray[np.float64]:
        """Returns the logits of these classes, (…, competing), 0 where they are not finite."""
        found: NDArray[np.float64] = np.nan_to_num(
            np.asarray(logits, dtype=np.float64)[..., self.competing], posinf=0.0, neginf=0.0
        )
        return found
