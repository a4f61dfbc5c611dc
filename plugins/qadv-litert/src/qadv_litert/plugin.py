"""What this distribution provides to qadv; it imports neither torch nor LiteRT."""

from collections.abc import Iterator

import qadv
from qadv.components import Frontend


@qadv.hookimpl
def qadv_frontends() -> Iterator[Frontend]:
    yield Frontend(
        name="litert",
        target="qadv_litert.frontend:LiteRTFrontend",
        summary=".tflite files: values from LiteRT, gradients from a twin",
    )
