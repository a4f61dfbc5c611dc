"""The code of the README, as it came with the installed distribution, runs."""

import re
from importlib import metadata

import pytest

pytest.importorskip("ai_edge_litert")
pytest.importorskip("onnxscript")


def test_the_code_of_the_readme_runs(capsys):
    text = metadata.metadata("qadv-litert").get_payload()
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    exec(block, {})
    output = capsys.readouterr().out
    clean, attacked = (float(number) for number in re.findall(r"^[\d.]+$", output, flags=re.M))
    assert clean > 0.9
    assert attacked < clean - 0.2
    assert "int8 kernels" in output
