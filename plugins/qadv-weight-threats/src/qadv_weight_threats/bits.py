"""What flipping a bit makes of a code, as it is stored."""

import torch
from torch import Tensor

from qadv.errors import UnsupportedModelError
from qadv.frontends import QuantizedWeights

_TERNARY = (-1, 0, 1)


class StoredBits:
    """The bit patterns of a layer's codes: N bits for a code, all 2^N patterns.

    Neighbouring whole numbers are stored in two's complement, or as they are where none is negative; codes with gaps
    (binary -1 and 1, `dorefa`'s odd ones) by their place among the scheme's codes, the lowest first. A pattern that is
    no code of the scheme is not flipped to, since the file's reader refuses it, but for ternary codes, whose fourth
    pattern is 0.

    Args:
        weights: whose codes they are.

    Attributes:
        bits: N.
        flipped: by bit and code, the code behind the flip, NaN where there is none, (N, codes); the code's column is
            `code - lowest`.

    Raises:
        UnsupportedModelError: the layer's codes are not stored, or can't be replaced.
    """

    def __init__(self, weights: QuantizedWeights) -> None:
        codes = weights.code_values.long().tolist()
        if weights.codes is None or not codes or weights.place is None:
            raise UnsupportedModelError(
                f"{weights.layer}: weights of {weights.origin} have no codes that can be replaced; attack an ONNX file "
                "of the network, or one that qadv.quantize or Brevitas quantized"
            )
        self.bits, self.lowest = weights.bits, codes[0]
        adjacent = codes == list(range(codes[0], codes[-1] + 1)) and 0 in codes
        patterns = {code % 2**self.bits if adjacent else place: code for place, code in enumerate(codes)}
        if len(codes) > 2**self.bits:
            raise UnsupportedModelError(f"{weights.layer}: {len(codes)} codes don't fit into {self.bits} bits")
        meaning = {2: 0, **patterns} if tuple(codes) == _TERNARY else patterns
        self.flipped = torch.full((self.bits, codes[-1] - codes[0] + 1), torch.nan)
        for pattern, code in patterns.items():
            for bit in range(self.bits):
                if (other := meaning.get(pattern ^ 1 << bit)) is not None:
                    self.flipped[bit, code - self.lowest] = other

    def flip(self, codes: Tensor) -> Tensor:
        """Returns the codes behind a flip of each bit, (N, *codes.shape), NaN where a code does not have it."""
        columns = (codes - self.lowest).long()
        return self.flipped.to(codes.device)[:, columns]
