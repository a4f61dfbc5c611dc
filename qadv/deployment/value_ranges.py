"""The range of each value of a graph, on images."""

import math

import numpy as np
import torch

from qadv.deployment.integer_parts import Array, Range
from qadv.frontends.onnx.graph import Graph
from qadv.frontends.onnx.twin import Twin

_BATCH = 32


@torch.no_grad()
def measured(twin: Twin, images: Array) -> dict[str, Range]:
    """Returns the smallest and largest number of each value in a graph, for so many images."""
    found: dict[str, Range] = {}
    for start in range(0, len(images), _BATCH):
        for name, value in twin.every_value(torch.from_numpy(images[start : start + _BATCH])).items():
            if value.numel() and value.is_floating_point():
                low, high = (float(end) for end in value.aminmax())
                before = found.get(name, (low, high))
                found[name] = min(low, before[0]), max(high, before[1])
    return found


def drawn(graph: Graph, pixels: Range) -> Array:
    """Returns images of a few colours, from coarse ones to noise."""
    sizes = [size or 1 for size in graph.input_shape[1:]]
    rng, images = np.random.default_rng(0), []
    for cells in (1, 2, 4, 8, 16, 32, 64, 10**6):
        small = [sizes[0], *(min(size, cells) for size in sizes[1:])]
        image = rng.random((4, *small), dtype=np.float32)
        for axis, (size, old) in enumerate(zip(sizes[1:], small[1:], strict=True), 2):
            image = np.repeat(image, math.ceil(size / old), axis).take(range(size), axis)
        images.append(image)
    return pixels[0] + (pixels[1] - pixels[0]) * np.concatenate(images)
