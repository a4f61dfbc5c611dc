"""The chart of accuracy against bits: which networks are one line, and what is drawn of them."""

from types import SimpleNamespace

import pytest

from qadv.benchmark.report import by_bits
from qadv.benchmark.study import Study

SCHEMES = {
    "float": {},
    **{f"w{bits}": {"weights": f"int:{bits}"} for bits in (2, 3, 4)},
    **{f"both {bits}": {"weights": f"int:{bits}", "activations": f"relu6:{bits}"} for bits in (2, 8)},
    "mixed": {"weights": "int:4", "activations": "relu6:2"},
    "unlike": {"weights": "pwlq:4"},
    "no number": {"weights": "sq(bwn)"},
    "by layer": {"weights": {"*": "int:4", "fc": "int:8"}},
}
STUDY = Study.model_validate({
    "title": "t", "datasets": ["digits"], "seeds": [0, 1], "nb_test": 10, "backbones": {"mnist-cnn": {}},
    "quantizers": SCHEMES, "defenses": {"none": {}, "other": {}}, "attacks": {"fgsm": {"attack": "FastGradientMethod"}},
    "published": [{"quantizer": "w3", "defense": "none", "accuracy": {"clean": 77, "fgsm": "<12"}}],
})  # fmt: skip


@pytest.fixture
def results():
    networks = [
        SimpleNamespace(axes=("digits", "mnist-cnn", quantizer, defense))
        for defense in ("none", "other") for quantizer in SCHEMES if (quantizer, defense) != ("w4", "other")
    ]  # fmt: skip

    def cells(network, *values):
        return [SimpleNamespace(there=value is not None, record={"accuracy": value}) for value in values]

    def clean(network):
        width = int(network.axes[2][-1]) if network.axes[2][-1].isdigit() else 10
        return cells(network, width / 10, width / 10 - 0.02)

    def attacked(network, name):
        return cells(network, None, 0.1) if network.axes[2] == "w2" else []

    return SimpleNamespace(study=STUDY, networks=networks, clean=clean, attacked=attacked)


def test_networks_that_differ_in_bits_alone_are_a_line(results):
    lines = by_bits._lines(results)
    three = {label: [*line.by_bits] for label, line in lines.items() if len(line.by_bits) > 1}
    assert three == {
        "none · weights by int": [2, 3, 4],
        "none · weights by int, activations by relu6": [2, 8],
        "other · weights by int": [2, 3],
        "other · weights by int, activations by relu6": [2, 8],
    }
    assert {label for label in lines if "pwlq" in label} == {"none · weights by pwlq", "other · weights by pwlq"}
    assert lines["other · weights by int"].float_one.axes[2:] == ("float", "other")


def test_a_line_has_means_over_seeds_the_float_network_and_what_is_published(results, monkeypatch):
    monkeypatch.setattr(by_bits, "embedded_figure", lambda figure: figure)
    (chart,) = by_bits.by_bits_section(results).blocks
    clean, fgsm = chart.source.axes
    line, dashed, published = clean.lines[0], clean.lines[-2], clean.lines[-1]
    assert line.get_xdata().tolist() == [2, 3, 4]
    assert line.get_ydata() == pytest.approx([19, 29, 39])
    assert dashed.get_ydata() == pytest.approx([99, 99])
    assert (list(published.get_xdata()), list(published.get_ydata())) == ([3], [77])
    assert fgsm.lines[0].get_ydata().tolist() == [10]  # of the one seed that is there
    assert len(fgsm.lines[-1].get_xdata()) == 0


def test_fewer_than_three_widths_are_no_chart(results):
    results.networks = [network for network in results.networks if network.axes[2] != "w3"]
    assert by_bits.by_bits_section(results) is None
