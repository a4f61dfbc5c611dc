"""Left out with older toolkits: Brevitas before 0.13 lacks many of the quantizers, torch before 2.8 the exporter."""

from importlib.metadata import version

from packaging.version import Version

collect_ignore = [] if Version(version("brevitas")) >= Version("0.13") else ["test_brevitas.py"]
collect_ignore += [] if Version(version("torch")) >= Version("2.8") else ["onnx"]
