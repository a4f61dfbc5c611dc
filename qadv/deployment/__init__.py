"""Networks as files for other programs: packed weights and ONNX graphs, and flipped bits in them."""

from qadv.deployment.flips import Applied, Flip, apply_flips, read_flips, write_flips

__all__ = ["Applied", "Flip", "apply_flips", "read_flips", "write_flips"]
