"""Figures and images as `data:` addresses, the same bytes for the same content."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ENTRIES_INSIDE = 4
_LONGEST = 60


def embedded_figure(figure: Any) -> str:
    """Returns a matplotlib figure as SVG; a legend that would hide the lines is put beside them.

    Its texts are names that people chose: a `$` in them is no formula, and long ones are cut.
    """
    import matplotlib
    from matplotlib.text import Text

    for ax in figure.axes:
        legend = ax.get_legend()
        if legend is not None and len(legend.get_texts()) > _ENTRIES_INSIDE:
            ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
            if len(figure.axes) == 1:
                figure.set_size_inches(8.5, 4.2)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        if len(text.get_text()) > _LONGEST:
            text.set_text(f"{text.get_text()[:_LONGEST]}…")
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "qadv"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return _address("image/svg+xml", stream.getvalue())


def embedded_image(image: NDArray[Any]) -> str:
    """Returns an image, (C, H, W) with 1 or 3 channels in [0, 1], as PNG."""
    from PIL import Image

    pixels = (np.clip(np.moveaxis(image, 0, -1), 0, 1) * 255).round().astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, format="PNG")
    return _address("image/png", stream.getvalue())


def _address(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
