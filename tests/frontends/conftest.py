"""Left out with an older torch: before 2.8 it lacks the exporter."""

from importlib.metadata import version

from packaging.version import Version

collect_ignore = [] if Version(version("torch")) >= Version("2.8") else ["onnx"]
