"""onnxruntime: what it answers, on which kernels, and whether this processor's 8-bit sums are exact."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qadv.errors import FileFormatError, MissingRequirementError


def import_onnxruntime() -> Any:
    """Returns the module, or raises `MissingRequirementError`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingRequirementError("running ONNX graphs needs onnxruntime: pip install 'qadv[onnx]'") from error
    return onnxruntime


class Runtime:
    """A session of onnxruntime on the CPU, with as many threads as torch has whenever it is asked; copies share it.

    It is of a file's bytes that messages call `name`; `settings` are entries of the session's configuration, `profile`
    is the start of the name of a file to write a profile to.

    Raises:
        MissingRequirementError: onnxruntime is not installed.
        FileFormatError: it does not take the file.
    """

    def __init__(
        self, content: bytes, name: str, settings: Mapping[str, str] | None = None, profile: str | None = None
    ) -> None:
        onnxruntime = import_onnxruntime()
        self.content, self.name, self.settings = content, name, dict(settings or {})
        self._threads = torch.get_num_threads()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        for key, value in self.settings.items():
            options.add_session_config_entry(key, value)
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, profile
        try:
            # which else prints what is wrong, and tries the same again
            given = {"providers": ["CPUExecutionProvider"], "enable_fallback": 0}
            self.session = onnxruntime.InferenceSession(content, options, **given)
        except Exception as error:
            raise FileFormatError(f"onnxruntime can't load {name}: {' '.join(str(error).split())}") from error
        self._input = self.session.get_inputs()[0].name
        self.version = f"onnxruntime {onnxruntime.__version__}"

    def __call__(self, images: NDArray[Any], output: str | None = None) -> NDArray[np.float32]:
        """Images as the file takes them → the first output, or the named one, as float32."""
        if torch.get_num_threads() != self._threads:
            Runtime.__init__(self, self.content, self.name, self.settings)
        feed = {self._input: images}
        found: NDArray[np.float32] = np.asarray(self.session.run(output and [output], feed)[0], dtype=np.float32)
        return found

    def kernels(self, images: NDArray[Any]) -> Counter[str]:
        """Returns how often each kernel runs for a batch of images."""
        return Counter(kernel for kernel, _ in self.profile(images))

    def profile(self, images: NDArray[Any]) -> list[tuple[str, float]]:
        """Returns the kernels that run for a batch of images in order, and their microseconds, as the runtime says."""
        with tempfile.TemporaryDirectory() as folder:
            other = Runtime(self.content, self.name, self.settings, os.path.join(folder, "profile"))
            for _ in range(2):  # the first pass also sets up
                other(images)
            with open(other.session.end_profiling(), encoding="utf-8") as file:
                events = json.load(file)
        ran = [event for event in events if event.get("name", "").endswith("_kernel_time")]
        return [(event["args"]["op_name"], event["dur"]) for event in ran[len(ran) // 2 :]]

    def remark(self) -> str:
        """Returns what else to say of the values behind the runtime's version."""
        exact = "exact" if sums_are_exact() else "saturating at 16 bits: this processor has no VNNI"
        return f", 8-bit sums {exact}"

    def __deepcopy__(self, memo: Any) -> "Runtime":
        return self

    def __reduce__(self) -> Any:
        return Runtime, (self.content, self.name, self.settings)


@cache
def sums_are_exact() -> bool:
    """Whether onnxruntime's products of uint8 and int8 are exact here; without VNNI they saturate at 16 bits."""
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.full((64, 16), 127, dtype=np.int8), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "sums",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 16])], [weights],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    found = Runtime(model.SerializeToString(), "the test of sums")(np.full((1, 64), 255, dtype=np.uint8))
    return bool((found == 255 * 127 * 64).all())
