"""The options of commands that are more than a call: each docstring and field is its help on the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Model = Annotated[Path, typer.Argument(help="a file that QuantizedClassifier.save wrote; to audit, an ONNX file too")]
Seed = Annotated[int, typer.Option(help="decides everything random")]
DataDir = Annotated[Path | None, typer.Option(help="folder with that dataset's files")]


@dataclass(frozen=True)
class ExportOptions:
    """Write a quantized network as packed weights or as an ONNX graph, and measure the result."""

    model: Model
    to: Annotated[
        str, typer.Option(help="packed, onnx (integer kernels), qcdq (as simulated), or a plugin's, as litert")
    ] = "packed"
    out: Annotated[Path | None, typer.Option(help="the file to write; next to MODEL without it")] = None
    dataset: Annotated[str | None, typer.Option(help="test images on which an ONNX graph is compared")] = None
    data_dir: DataDir = None
    nb_samples: Annotated[int | None, typer.Option(help="number of those images; 1,000 without it")] = None
    eps: Annotated[
        str | None, typer.Option(help="radius of PGD on them, e.g. 8/255; without it 8/255 of the range")
    ] = None
    float_ends: Annotated[bool, typer.Option("--float-ends", help="first and last layer stay float")] = False
    packed_weights: Annotated[bool, typer.Option("--packed-weights", help="weights of 4 bits stored so")] = False
    reduce_range: Annotated[bool, typer.Option("--reduce-range", help="7-bit weights, without VNNI")] = False
    pixels: Annotated[str, typer.Option(help="what the graph takes: float, or uint8 for bytes")] = "float"
    as_json: Json = False


@dataclass(frozen=True)
class AuditOptions:
    """Attack a network in many ways and check whether its gradients are masked; status 2 if a check failed."""

    model: Model
    dataset: Annotated[str, typer.Option(help="its test images are attacked")]
    data_dir: DataDir = None
    nb_samples: Annotated[int, typer.Option(help="number of those images")] = 100
    eps: Annotated[
        list[str] | None, typer.Option(help="radius, e.g. 8/255; several make a curve; without it 8/255 of the range")
    ] = None
    norm: Annotated[str, typer.Option(help="of the ball, inf or 2")] = "inf"
    to_zero: Annotated[bool, typer.Option("--to-zero", help="double the radius until no image is left")] = False
    pair: Annotated[
        tuple[int, int] | None, typer.Option(help="a class, and the one that its images are to be given")
    ] = None
    pixels: Annotated[str, typer.Option(help="uint8 counts adversarial images rounded to 8 bits, float any")] = "float"
    engine: Annotated[str | None, typer.Option(help="onnxruntime answers attacks without gradients, faster")] = None
    float_parent: Annotated[Path | None, typer.Option(help="the float network it was made from, saved likewise")] = None
    simulation: Annotated[
        Path | None, typer.Option(help="the saved network that MODEL, an ONNX file, was made from; check 11 compares")
    ] = None
    other: Annotated[list[Path] | None, typer.Option(help="another network whose images are tried")] = None
    preprocessor: Annotated[
        list[str] | None, typer.Option(help="put in front of the network: NAME, or e.g. 'bit-depth:bit_depth=3'")
    ] = None
    thorough: Annotated[bool, typer.Option("--thorough", help="larger budgets")] = False
    seed: Seed = 0
    as_json: Json = False


@dataclass(frozen=True)
class BenchOptions:
    """Run a study: datasets × backbones × quantizers × defenses × attacks. Interrupt it as you like; it goes on."""

    study: Annotated[Path, typer.Argument(help="a study file, e.g. one of examples/studies")]
    out: Annotated[Path, typer.Option(help="folder for the results; studies share what they have in common")] = Path(
        "qadv-results"
    )
    data_dir: Annotated[Path | None, typer.Option(help="folder with the images and trained float networks")] = None
    small: Annotated[bool, typer.Option("--small", help="with the settings of the study's table [small]")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the cells and a rough estimate of their cost")] = (
        False
    )
    jobs: Annotated[int, typer.Option(help="cells computed at a time")] = 1
    threads: Annotated[int, typer.Option(help="torch threads of each")] = 1
    engine: Annotated[str, typer.Option(help="local or ray")] = "local"
    address: Annotated[str | None, typer.Option(help="of a Ray cluster; without it one is started here")] = None
