"""Files to read, and what LiteRT says of them, asked as its users do."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

import flatbuffers
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

FILES, SHAPE = Path(__file__).parent / "files", (3, 16, 16)


def images(count=24):
    """Images of smooth colours, in [0, 1]."""
    coarse = np.random.default_rng(1).random((count, 3, 4, 4), dtype=np.float32)
    return np.kron(coarse, np.ones((4, 4), dtype=np.float32))


def answers(path, x):
    """Logits (N, classes) for numbers (N, channels, height, width)."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    logits = []
    for image in x.transpose(0, 2, 3, 1):
        interpreter.set_tensor(given["index"], codes(image[None], given))
        interpreter.invoke()
        logits.append(interpreter.get_tensor(found["index"])[0].astype(np.float32))
    scale, zero = found["quantization"]
    return np.array(logits) if scale == 0 else (np.array(logits) - np.float32(zero)) * np.float32(scale)


def codes(numbers, tensor):
    scale, zero = tensor["quantization"]
    if scale == 0:
        return numbers
    ends = np.iinfo(tensor["dtype"])
    return (numbers / np.float32(scale) + zero).round().clip(ends.min, ends.max).astype(tensor["dtype"])


def edited(name, edit, path):
    """Writes a file again after `edit(model)`."""
    model = schema.ModelT.InitFromPackedBuf((FILES / f"{name}.tflite").read_bytes(), 0)
    edit(model)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
