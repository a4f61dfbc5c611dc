"""The code of the README, as it came with the installed distribution, runs."""

import re
from importlib import metadata


def test_the_code_of_the_readme_runs(capsys):
    text = metadata.metadata("qadv-weight-threats").get_payload()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert blocks
    for block in blocks:
        exec(block, {})
    shown = capsys.readouterr().out
    assert float(re.findall(r"^accuracy ([\d.]+)$", shown, flags=re.M)[0]) < 0.3
    assert float(re.findall(r"^([\d.]+)$", shown, flags=re.M)[0]) > 0.6, "random flips do little"
