"""Splits into sequences, as `torch.onnx.export` writes `chunk` and `split`, said as the slices that they are."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from qadv.frontends.onnx.graph import Node


def without_sequences(nodes: Sequence["Node"], constants: dict[str, NDArray[Any]]) -> list["Node"]:
    """Returns operators with a `Slice` in the place of each part that is taken of a `SplitToSequence`.

    Sizes and places have to be constants; what else is done with a sequence stays, and is no operator that is read.
    """
    splits = {node.outputs[0]: node for node in nodes if node.kind == "SplitToSequence"}
    found: list[Node] = []
    for node in nodes:
        split = splits.get(node.inputs[0]) if node.kind == "SequenceAt" else None
        ends = None if split is None else _ends(split, constants.get(node.inputs[1]), constants)
        if split is not None and ends is not None:
            names = [f"{node.name} {part}" for part in ("starts", "ends", "axes")]
            numbers = (*ends, split.attributes.get("axis", 0))
            constants.update((name, np.array([each], np.int64)) for name, each in zip(names, numbers, strict=True))
            node = replace(node, kind="Slice", inputs=(split.inputs[0], *names), attributes={})
        found.append(node)
    read = {name for node in found for name in node.inputs}
    return [node for node in found if node.kind != "SplitToSequence" or node.outputs[0] in read]


def _ends(split: "Node", place: NDArray[Any] | None, constants: dict[str, NDArray[Any]]) -> tuple[int, int] | None:
    """Returns where a part begins and ends, `None` where that can't be told."""
    if len(split.inputs) < 2 or place is None or (sizes := constants.get(split.inputs[1])) is None or place.item() < 0:
        return None
    index = int(place.item())
    if sizes.ndim == 0:  # of each part but the last
        return index * int(sizes), (index + 1) * int(sizes)
    return (int(sizes[:index].sum()), int(sizes[: index + 1].sum())) if index < len(sizes) else None
