"""Integer codes packed into bits, as quantized weights are stored."""

import numpy as np
import torch
from torch import Tensor

from qadv.errors import FileFormatError, SchemeError


def packed_size(weights: int, bits: int) -> int:
    """Returns the number of bytes for `weights` codes of `bits` each, rounded up."""
    return (weights * bits + 7) // 8


def pack(codes: Tensor, code_values: Tensor, bits: int) -> Tensor:
    """Returns codes as a string of bits, (packed_size,) uint8: the index of each among all codes, its high bit first.

    A code that is not among `code_values`, which ascend, or more of these than 2^bits are a `SchemeError`.
    """
    values = code_values.cpu().to(torch.float64)
    flat = codes.detach().cpu().to(torch.float64).flatten()
    if len(values) > 2**bits:
        raise SchemeError(f"{len(values)} codes do not fit into {bits} bits")
    index = torch.searchsorted(values, flat).clamp(max=len(values) - 1)
    if not torch.equal(values[index], flat):
        wrong = flat[values[index] != flat][0].item()
        raise SchemeError(f"code {wrong:g} is not among code_values, {values[0]:g} to {values[-1]:g}")
    shifts = np.arange(bits - 1, -1, -1)
    digits = (index.numpy().astype(np.int64)[:, None] >> shifts & 1).astype(np.uint8)
    return torch.from_numpy(np.packbits(digits))


def unpack(packed: Tensor, code_values: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Returns the codes that `pack` packed, float32, of the given shape.

    Too few or too many bytes for that, or an index beyond the possible codes, are a `FileFormatError`.
    """
    count = int(np.prod(shape))
    if packed.dtype != torch.uint8 or packed.numel() != packed_size(count, bits):
        raise FileFormatError(
            f"expected {packed_size(count, bits)} bytes of {bits}-bit codes for a weight of shape {shape}, got "
            f"{packed.numel()} values of {packed.dtype}"
        )
    digits = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    index = digits.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))
    if index.size and index.max() >= len(code_values):
        raise FileFormatError(f"a code has index {index.max()}, but there are {len(code_values)} codes")
    return code_values.to(torch.float32)[torch.from_numpy(index)].reshape(shape)
