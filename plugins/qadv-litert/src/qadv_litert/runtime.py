"""LiteRT: what it answers, and on which kernels."""

from collections import Counter
from importlib import metadata
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qadv.errors import FileFormatError
from qadv_litert.schema import schema


class LiteRT:
    """An interpreter of LiteRT on the CPU, with as many threads as torch has; copies share it.

    Args:
        content: the file's bytes.
        name: what messages call it.

    Raises:
        MissingRequirementError: LiteRT is not installed.
        FileFormatError: it does not take the file.
    """

    def __init__(self, content: bytes, name: str) -> None:
        schema()
        from ai_edge_litert.interpreter import Interpreter

        self.content, self.name = content, name
        self._asked = Lock()  # copies are asked by threads of their own, and an interpreter is for one at a time
        try:
            self._interpreter = Interpreter(model_content=content, num_threads=torch.get_num_threads())
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise FileFormatError(f"LiteRT can't load {name}: {' '.join(str(error).split())}") from error
        self.version = f"LiteRT {metadata.version('ai-edge-litert')}"

    def __call__(self, images: NDArray[Any], output: str | None = None) -> NDArray[np.float32]:
        """Images as the file takes them → the first output, or the named one, as float32."""
        (given,), found = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        index = next(each["index"] for each in found if output in (None, each["name"]))
        with self._asked:
            self._interpreter.set_tensor(given["index"], images)
            self._interpreter.invoke()
            logits: NDArray[np.float32] = self._interpreter.get_tensor(index).astype(np.float32)
        return logits

    def kernels(self, images: NDArray[Any]) -> Counter[str]:
        """Returns how often each kernel runs for images; a delegate, as XNNPACK, computes several operators in one."""
        steps = getattr(self._interpreter, "_get_ops_details", list)()  # there is no public way to ask
        inside = {each["index"] for each in steps if each["op_name"] == "DELEGATE"}
        return Counter("XNNPACK" if each["index"] in inside else each["op_name"] for each in steps)

    def remark(self) -> str:
        """Returns nothing: integer sums are exact in all its kernels."""
        return ""

    def __deepcopy__(self, memo: Any) -> "LiteRT":
        return self

    def __reduce__(self) -> Any:
        return LiteRT, (self.content, self.name)
