"""The options of commands that are more than a call: each docstring and field is its help on the command line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


def _names(kind: str) -> Callable[[str], list[str]]:
    """Returns what completes the names of a kind's components in a shell."""

    def complete(incomplete: str) -> list[str]:
        from qadv.registry import list_components

        return list_components(kind, f"{incomplete}*")

    return complete


Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Seed = Annotated[int, typer.Option(help="decides everything random")]
DataDir = Annotated[Path | None, typer.Option(help="folder with the dataset's files; without it QADV_DATA_DIR")]
Dataset = Annotated[
    str, typer.Option(help="its name, or NAME:FOLDER, as image-folder:photos", autocompletion=_names("dataset"))
]
NbTest = Annotated[int, typer.Option("--nb-test", "--nb-samples", help="number of test images, the first ones")]
NbTrain = Annotated[int | None, typer.Option(min=1, help="number of training images, the first ones; all without it")]
Out = Annotated[Path, typer.Option("--out", "-o", help="the file to write, e.g. net.safetensors")]
Eps = Annotated[str | None, typer.Option(help="radius, e.g. 8/255; without it 8/255 of the range")]
Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="networks: files; or names as mobilenetv2_050@net.pth, or package.module:function, with checkpoints",
        autocompletion=_names("backbone"),
    ),
]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="OPTION=VALUE...", help="its options, e.g. eps=8/255 max_iter=40")
]


@dataclass(frozen=True, kw_only=True)
class MadeOptions:
    """What a network by name or function is to be like, and its file does not say."""

    nb_classes: Annotated[int | None, typer.Option(help="of a network by name or function; else the dataset's")] = None
    image_size: Annotated[int | None, typer.Option(help="height and width; else the network's or dataset's")] = None
    mean: Annotated[
        str | None, typer.Option(help="that pixels in [0, 1] are standardised with, e.g. 0.5,0.5,0.5; timm's is known")
    ] = None
    std: Annotated[str | None, typer.Option(help="likewise, by which they are divided")] = None


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(MadeOptions):
    """Which network a command is about, see `qadv.open_classifier`."""

    model: Annotated[
        str,
        typer.Argument(
            help="a file that was saved or exported; a name, as mobilenetv2_050 or timm/vgg16, with --checkpoint or as "
            "mobilenetv2_050@net.pth; or package.module:function, which is run and returns a network",
            autocompletion=_names("backbone"),
        ),
    ]
    checkpoint: Annotated[
        Path | None, typer.Option(help="weights of a network by name or function: safetensors, or a state dict as .pth")
    ] = None


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images a command is about."""

    dataset: Dataset
    data_dir: DataDir = None
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave out files that are no images")] = False
    nb_test: NbTest = 1000
    seed: Seed = 0
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(DataOptions, NetworkOptions):
    """Quantize a trained float network without training, and compare its accuracy before and after."""

    weights: Annotated[str, typer.Option(help="scheme, as int:4 or pwlq:4; see qadv list quantizer")] = "int:4"
    activations: Annotated[str, typer.Option(help="scheme, as relu6:4 or relu:4")] = "relu6:4"
    all_layers: Annotated[bool, typer.Option("--all-layers", help="first and last layer too")] = False
    calibrate: Annotated[int, typer.Option(min=0, help="number of training images that ranges are fitted to")] = 512
    out: Out


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DataOptions, NetworkOptions):
    """Train a network, quantized or float, with a defense or without."""

    trainer: Annotated[
        str, typer.Option(help="dq, adversarial, eq, feedback or a plugin's", autocompletion=_names("trainer"))
    ]
    settings: Settings = None
    epochs: Annotated[
        int, typer.Option("--epochs", "--nb-epochs", min=1, help="passes over the images, those of a resumed run too")
    ]
    batch_size: Annotated[int, typer.Option(min=2, help="images per step")] = 64
    nb_train: NbTrain = None
    resume: Annotated[
        bool, typer.Option("--resume", help="go on from OUT.checkpoint; with more epochs from a finished run too")
    ] = False
    out: Out


@dataclass(frozen=True, kw_only=True)
class AttackOptions(DataOptions, NetworkOptions):
    """Attack a network with any attack by name, and write the adversarial images."""

    attack: Annotated[str, typer.Option(help="pgd, square, DeepFool, …", autocompletion=_names("attack"))]
    settings: Settings = None
    nb_test: NbTest = 100
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder for PNG files and images.csv")] = None


@dataclass(frozen=True, kw_only=True)
class CompareOptions(DataOptions, MadeOptions):
    """Put networks side by side: size, accuracy, under noise and under attacks with the images of each."""

    models: Models
    attack: Annotated[list[str] | None, typer.Option(help="NAME or e.g. pgd:max_iter=40; else pgd and square")] = None
    eps: Eps = None
    noise: Annotated[bool, typer.Option("--noise", help="corruptions, decoders and ways of resizing, too")] = False
    severity: Annotated[int | None, typer.Option(min=1, max=5, help="of the corruptions; 3 without it")] = None
    out: Annotated[Path | None, typer.Option("--out", "-o", help="a bar chart to write, e.g. compared.png")] = None
    nb_test: NbTest = 100


@dataclass(frozen=True, kw_only=True)
class ExportOptions(NetworkOptions):
    """Write a quantized network as packed weights or as an ONNX graph, and measure the result."""

    to: Annotated[
        str, typer.Option(help="packed, onnx (integer kernels), qcdq (as simulated), or a plugin's, as litert")
    ] = "packed"
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the file to write; next to MODEL without it")] = None
    dataset: Annotated[str | None, typer.Option(help="test images on which an ONNX graph is compared")] = None
    data_dir: DataDir = None
    nb_test: Annotated[int | None, typer.Option("--nb-test", "--nb-samples", help="their number; else 1,000")] = None
    eps: Annotated[str | None, typer.Option(help="radius of PGD on them, e.g. 8/255; else 8/255 of the range")] = None
    float_ends: Annotated[bool, typer.Option("--float-ends", help="first and last layer stay float")] = False
    packed_weights: Annotated[bool, typer.Option("--packed-weights", help="weights of 4 bits stored so")] = False
    reduce_range: Annotated[bool, typer.Option("--reduce-range", help="7-bit weights, without VNNI")] = False
    pixels: Annotated[str, typer.Option(help="what the graph takes: float, or uint8 for bytes")] = "float"
    flips: Annotated[
        Path | None,
        typer.Option(help="a list of flipped bits, applied to MODEL, a packed file or ONNX graph; once more undoes it"),
    ] = None
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class AuditOptions(DataOptions, NetworkOptions):
    """Attack a network in many ways and check whether its gradients are masked; status 2 if a check failed."""

    nb_test: NbTest = 100
    eps: Annotated[
        list[str] | None, typer.Option(help="radius, e.g. 8/255; several make a curve; without it 8/255 of the range")
    ] = None
    norm: Annotated[str, typer.Option(help="of the ball, inf or 2")] = "inf"
    to_zero: Annotated[bool, typer.Option("--to-zero", help="double the radius until no image is left")] = False
    pair: Annotated[tuple[int, int] | None, typer.Option(help="a class, and the one to give its images")] = None
    pixels: Annotated[str, typer.Option(help="uint8 counts adversarial images rounded to 8 bits, float any")] = "float"
    queries: Annotated[str | None, typer.Option(help="onnxruntime answers attacks without gradients, faster")] = None
    float_parent: Annotated[str | None, typer.Option(help="the float network it was made from, a MODEL too")] = None
    simulation: Annotated[
        str | None, typer.Option(help="the saved network that MODEL, an ONNX file, was made from; check 11 compares")
    ] = None
    other: Annotated[list[str] | None, typer.Option(help="another network, a MODEL too, whose images are tried")] = None
    preprocessor: Annotated[
        list[str] | None, typer.Option(help="put in front of the network: NAME, or e.g. 'bit-depth:bit_depth=3'")
    ] = None
    thorough: Annotated[bool, typer.Option("--thorough", help="larger budgets")] = False
    check: Annotated[
        list[str] | None, typer.Option(help="make this check, by number or name, and its attacks; all without it")
    ] = None
    without: Annotated[
        list[str] | None,
        typer.Option(help="leave out this check, or this kind of attack: FGSM, PGD, Square, RayS, SPSA, N-Attack, …"),
    ] = None
    adaptive: Annotated[
        str | None, typer.Option(help="a further attack, for check 10: NAME, or e.g. 'BoundaryAttack:max_iter=50'")
    ] = None
    shard: Annotated[int, typer.Option(help="images audited together, and lost at most when it is interrupted")] = 50
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder for finished shards, to go on from")] = None
    jobs: Annotated[int | None, typer.Option(help="shards at a time, a thread each; else one, on all threads")] = None
    engine: Annotated[str, typer.Option(help="local or ray")] = "local"
    address: Annotated[str | None, typer.Option(help="of a Ray cluster; without it one is started here")] = None
    until: Annotated[float | None, typer.Option(help="stop once the 95 % interval is within so many points")] = None
    time_limit: Annotated[float | None, typer.Option(help="stop after so many seconds; what is finished counts")] = None
    fail_under: Annotated[float | None, typer.Option(help="status 2 also if the worst case is below, in %")] = None
    html: Annotated[Path | None, typer.Option(help="write a page with the result and images")] = None


@dataclass(frozen=True)
class BenchOptions:
    """Run a study: datasets × backbones × quantizers × defenses × attacks. Interrupt it as you like; it goes on."""

    study: Annotated[Path, typer.Argument(help="a study file, e.g. one of examples/studies")]
    out: Annotated[
        Path, typer.Option("--out", "-o", help="folder for the results; studies share what they have in common")
    ] = Path("qadv-results")
    data_dir: Annotated[Path | None, typer.Option(help="folder with the images and trained float networks")] = None
    small: Annotated[bool, typer.Option("--small", help="with the settings of the study's table [small]")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the cells and roughly what they cost")] = False
    jobs: Annotated[int, typer.Option(help="cells computed at a time")] = 1
    threads: Annotated[int, typer.Option(help="torch threads of each")] = 1
    engine: Annotated[str, typer.Option(help="local or ray")] = "local"
    address: Annotated[str | None, typer.Option(help="of a Ray cluster; without it one is started here")] = None
