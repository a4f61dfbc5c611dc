"""What networks of each origin cost: through this project, and in plain ART, against plain ART on the float network.

    python benchmarks/frontends.py [--frontend brevitas] [--rounds 15] [--backbone resnet20]

Untrained networks made from one float network, after a few batches in training mode or of calibration: at 4 bit by
qadv, Brevitas and torch.ao in training, at 8 bit in torch.ao's and torchao's integer kernels; what needs a toolkit that
is not installed is left out. In each round all take turns, on one thread; the table has medians of the ratios of
processor time to plain ART's `PyTorchClassifier` on the float network in the same round, of `predict` and
`loss_gradient` at batches of 1 and 16, and the ratio of the most memory that torch's tensors take at once in a gradient
of 16 images.
"""

import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import brevitas.nn as qnn
import numpy as np
import torch
import typer
from art.estimators.classification import PyTorchClassifier
from attacks import SIZES
from rich.console import Console
from rich.table import Table
from torch import nn

import qadv
from qadv.backbones import create_backbone

BATCHES = (1, 16)


def of_qadv(network: nn.Module) -> nn.Module:
    return qadv.quantize(network, "int:4", "relu6:4")


def of_brevitas(network: nn.Module) -> nn.Module:
    """Returns the network with Brevitas's layers, as written by hand: 4 bits, learned ranges of activations."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            bias = getattr(child, "bias", None) is not None
            new: Any = None
            if isinstance(child, nn.Conv2d):
                sizes = {size: getattr(child, size) for size in SIZES}
                new = qnn.QuantConv2d(**sizes, bias=bias, weight_bit_width=4)
            elif isinstance(child, nn.Linear):
                new = qnn.QuantLinear(child.in_features, child.out_features, bias=bias, weight_bit_width=4)
            elif isinstance(child, nn.ReLU):
                new = qnn.QuantReLU(bit_width=4)
            if new is not None:
                setattr(parent, name, new)
    return network


def of_torch_ao_training(network: nn.Module) -> nn.Module:
    """Returns the network in training at 4 bits, by torch's fx flow, its observers switched off."""
    from torch.ao import quantization as ao
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    fake = ao.FusedMovingAvgObsFakeQuantize
    channels = {"qscheme": torch.per_channel_symmetric, "observer": ao.MovingAveragePerChannelMinMaxObserver}
    activations = fake.with_args(quant_min=0, quant_max=15, dtype=torch.quint8)
    weights = fake.with_args(quant_min=-8, quant_max=7, dtype=torch.qint8, **channels)
    mapping = ao.QConfigMapping().set_global(ao.QConfig(activation=activations, weight=weights))
    return settled(prepare_qat_fx(network.train(), mapping, (images(2),))).apply(ao.disable_observer)


def of_torch_ao(network: nn.Module) -> nn.Module:
    """Returns the network in torch's int8 kernels."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    prepared = prepare_fx(network.eval(), get_default_qconfig_mapping("x86"), (images(2),))
    return convert_fx(settled(prepared))


def of_pt2e(network: nn.Module) -> nn.Module:
    """Returns the network's graph, converted to int8 by torchao's quantizer for x86."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    shapes = ({0: torch.export.Dim("batch", max=512)},)
    graph = torch.export.export(network.eval(), (images(2),), dynamic_shapes=shapes).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    return convert_pt2e(settled(prepare_pt2e(graph, quantizer)))


def of_torchao_weights(network: nn.Module) -> nn.Module:
    """Returns the network with int8 weights of its linear layers, which is all that `quantize_` quantizes of it."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(network.eval(), Int8WeightOnlyConfig())
    return network


def images(number: int = 16) -> torch.Tensor:
    return torch.rand(number, 3, 32, 32, generator=torch.Generator().manual_seed(number))


@torch.no_grad()
def settled(network: Any) -> Any:
    """Runs three batches, by which scales are found."""
    for _ in range(3):
        network(images())
    return network


# by name: the toolkit that is needed, and how the network is made
FRONTENDS: dict[str, tuple[str, Callable[[nn.Module], nn.Module]]] = {
    "qadv": ("qadv", lambda network: settled(of_qadv(network).train())),
    "brevitas": ("brevitas", lambda network: settled(of_brevitas(network).train())),
    "torch.ao, in training": ("torch.ao.quantization", of_torch_ao_training),
    "torch.ao, int8": ("torch.ao.quantization", of_torch_ao),
    "torchao, PT2E int8": ("torchao", of_pt2e),
    "torchao, int8 weights": ("torchao", of_torchao_weights),
}


def is_installed(toolkit: str) -> bool:
    try:
        return importlib.util.find_spec(toolkit) is not None
    except ModuleNotFoundError:
        return False


def mebibytes(run: Callable[[], Any]) -> float:
    """Returns how much memory torch's tensors take at most while something runs, beside what there was before."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    taken = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return float(taken.max()) / 2**20


def calls(classifier: Any) -> list[Callable[[], Any]]:
    """Returns what is timed: predict and gradient, at each batch size."""
    found: list[Callable[[], Any]] = []
    for size in BATCHES:
        x = np.random.default_rng(0).random((size, 3, 32, 32), dtype=np.float32)
        y = np.eye(10, dtype=np.float32)[np.arange(size) % 10]
        found.append(lambda x=x: classifier.predict(x))
        found.append(lambda x=x, y=y: classifier.loss_gradient(x, y))
    return found


def seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def main(
    frontend: Annotated[list[str] | None, typer.Option(help="which; all without this")] = None,
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 15,
    backbone: Annotated[str, typer.Option(help="any backbone for 3x32x32 images")] = "resnet20",
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if unknown := [name for name in frontend or [] if name not in FRONTENDS]:
        raise typer.BadParameter(f"no front end {', '.join(unknown)}; there are: {', '.join(FRONTENDS)}")
    names = [name for name in frontend or FRONTENDS if is_installed(FRONTENDS[name][0])]
    warnings.simplefilter("ignore")  # of toolkits, that they are deprecated

    def classifier(kind: Any, network: nn.Module) -> Any:
        with suppress(NotImplementedError):  # an exported graph has one mode
            network.eval()
        return kind(network, nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0.0, 1.0))

    def made() -> nn.Module:
        return create_backbone(backbone, nb_classes=10, in_channels=3)

    timed = {("float", "plain ART"): calls(classifier(PyTorchClassifier, made()))}
    for name in names:
        network = FRONTENDS[name][1](made())
        timed[name, "qadv"] = calls(classifier(qadv.QuantizedClassifier, network))
        plain = calls(classifier(PyTorchClassifier, network))
        try:
            plain[1]()
        except Exception as error:  # ART's own: no gradient, or a graph that has no mode
            print(f"{name}: plain ART fails with {type(error).__name__}")
        else:
            timed[name, "plain ART"] = plain
    measured: dict[tuple[str, str], list[list[float]]] = {key: [] for key in timed}
    for round_ in range(rounds + 1):
        for key, runs in timed.items():
            found = [statistics.median(seconds(run) for _ in range(3)) for run in runs]
            if round_:  # the first one warms up
                measured[key].append(found)
    base = measured["float", "plain ART"]
    columns = [f"{what}, {size}" for size in BATCHES for what in ("predict", "gradient")]
    table = Table("network", "through", *columns, "memory")
    memory = {key: mebibytes(runs[-1]) for key, runs in timed.items()}
    for (name, through), rows in measured.items():
        medians = np.median(np.array(rows) / np.array(base), axis=0)
        share = memory[name, through] / memory["float", "plain ART"]
        table.add_row(name, through, *(f"{median:.2f}" for median in medians), f"{share:.2f}")
    milliseconds = [1e3 * statistics.median(column) for column in zip(*base, strict=True)]
    table.add_row("float", "ms, MiB", *(f"{each:.2f}" for each in milliseconds), f"{memory['float', 'plain ART']:.1f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
