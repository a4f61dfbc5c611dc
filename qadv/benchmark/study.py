"""What a study file may say: datasets × backbones × quantizers × defenses × attacks, and what is measured besides."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from qadv.strengths import is_fraction, number

LARGEST_SEED = 2**32 - 1


def with_fractions(value: Any, name: str = "number") -> Any:
    """Returns the value with strings such as `"8/255"` as numbers, at any depth.

    Raises:
        InvalidInputError: one is no finite number, as `"8/0"`; or there is a NaN.
    """
    if is_fraction(value) or value != value:
        return number(name, value)
    if isinstance(value, dict):
        return {key: with_fractions(entry, str(key)) for key, entry in value.items()}
    return [with_fractions(entry, name) for entry in value] if isinstance(value, list) else value


_numbers = BeforeValidator(lambda value: with_fractions(value))
Options = Annotated[dict[str, Any], _numbers]
Number = Annotated[float, _numbers]
Axis = Annotated[list[str], Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class StudyPart(BaseModel):
    """Base class: unknown keys are errors, and so are numbers that are not finite.

    Attributes:
        later: fields that keys of cells are older than: these are no part of the plain data where they are not set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _plain(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dumped(self).items() if name not in self.later or value}


class StudyComponent(StudyPart):
    """A component by name, as `qadv.create` makes it; the bare name where there are no options."""

    name: str
    options: Options = {}

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class BackboneSpec(StudyPart):
    """A float network: a component's name, if the entry has another, and its options.

    `mean` and `std` standardise pixels in [0, 1], by scalars or one value per channel; without both it is what the
    backbone has: timm's own, and none for qadv's.
    """

    backbone: str = ""
    options: Options = {}
    mean: float | list[float] | None = None
    std: float | list[float] | None = None


class StudyBackbone(BackboneSpec):
    """A network of a study: a float one, trained where it has a `checkpoint` in the data folder; or a `file` there.

    Attributes:
        checkpoint: weights, as `qadv.open_classifier` takes them.
        file: a network by itself, as `net.onnx`: attacked and measured as it is, with `QuantizedClassifier.from_file`,
            whose `output` and `deploy` are its options; `mean` and `std` are what it asks for besides what it says.
    """

    checkpoint: str | None = None
    file: str | None = None
    later = ("file",)


class StudyQuantizer(StudyPart):
    """Schemes of weights and activations; `"float"` for none.

    Attributes:
        weights, activations: as in `qadv.quantize`; one scheme, or schemes by layer.
        skip_first_last: first and last layer keep real weights.
        calibration: number of training images, the first ones, for the schemes that need them; 0 for none.
        calibration_attack: robust calibration: an attack on the float network, by name, or name and options, whose
            images take the place of these.
        after_training: the float network is trained, transformed, and then quantized.
    """

    weights: str | dict[str, str] = "float"
    activations: str | dict[str, str] = "float"
    skip_first_last: bool = True
    calibration: Annotated[int, Field(ge=0)] = 0
    calibration_attack: StudyComponent | None = None
    after_training: bool = False
    later = ("calibration_attack",)


class Fit(StudyPart):
    """Length of a training; without `nb_train`, the number of training images, it is the study's."""

    nb_epochs: PositiveInt
    batch_size: PositiveInt = 128
    nb_train: PositiveInt | None = None


class Start(StudyPart):
    """The network that a training starts from: of the same dataset and backbone."""

    defense: str
    quantizer: str


class StudyTransformer(StudyComponent):
    """A transformer; `calibration` training images are handed to it, 0 for none."""

    calibration: Annotated[int, Field(ge=0)] = 0


class DefenseSpec(StudyPart):
    """What is done to a network, wherever that comes from.

    Attributes:
        trainer: without it nothing is trained.
        options: the trainer's; `adversary` may be a table with the arguments of `qadv.Adversary`.
        optimizer: name and options of one of `torch.optim`; without it the trainer's own SGD.
        transformers: after the training, in this order.
        preprocessors: in front of the network, in attacks too.
        ensemble: options of `EnsembleClassifier.of`.
    """

    trainer: str | None = None
    options: Options = {}
    fit: Fit | None = None
    optimizer: StudyComponent | None = None
    transformers: list[StudyTransformer] = []
    preprocessors: list[StudyComponent] = []
    ensemble: Options = {}


class Defense(DefenseSpec):
    """What is done to which network.

    Attributes:
        start: the network whose weights are taken: a defense's name (with the quantizer `float_quantizer` of the
            study), or a table of defense and quantizer.
        start_seed: added to the seed of all that is drawn where this network is made: new weights, order and
            augmentation of the images, adversaries, filters that stay real. So the same network is trained a second
            time, from another start. A `start` is a network of its own, with its own `start_seed`.
        members, of: quantizers whose networks, of the defense `of`, form an ensemble.
    """

    start: str | Start | None = None
    start_seed: Seed = 0
    members: list[str] = []
    of: str | None = None


class Source(StudyPart):
    """The network that images are made on, of the same dataset and seed; what is left out is as in the target."""

    backbone: str | None = None
    quantizer: str | None = None
    defense: str | None = None


class AttackSpec(StudyPart):
    """An ART attack: a component's name, if the entry has another, and its options.

    Attributes:
        coalesce: run through `QueryCoalescer`.
        probabilities: the attack sees probabilities in place of logits.
        max_l2: of an attack without a bound: images that are further from the original, L2 in pixel values, count as
            not found, and are given back as they were.
    """

    attack: str = ""
    options: Options = {}
    coalesce: bool = False
    probabilities: bool = False
    max_l2: Number | None = None
    later = ("max_l2",)


class StudyAttack(AttackSpec):
    """An attack and where its images are made.

    Attributes:
        nb_test: attacked images, the first ones; without it the study's.
        source: where the images are made; without it on the network itself, `"each"`: on every network of the study,
            the network itself among them.
        itself: the network that `source` names may be the very one that gets the images, or one with the same
            weights. Without it that is refused: the figure would be that of an attack on the network itself.
    """

    nb_test: PositiveInt | None = None
    source: Literal["each"] | Source | None = None
    itself: bool = False


class Measure(StudyPart):
    """A diagnostic: a component's name, if the entry has another, and its options.

    Besides the first `nb_test` test images, what it takes is found by its arguments' names; see docs/studies.md.

    Attributes:
        attack: attack whose images are `x_adversarial`, or which is `attack`. Images are made where the attack's
            `source` says, unless that is `"each"`.
        attacked: the images of `attack` take the place of the clean ones, for one that takes images of one kind.
        attacks: for one that takes several.
    """

    diagnostic: str = ""
    options: Options = {}
    nb_test: PositiveInt | None = None
    attack: str | None = None
    attacked: bool = False
    attacks: list[str] = []


class Grid(StudyPart):
    """A product; an axis that is left out takes all entries of the study."""

    datasets: Axis | None = None
    backbones: Axis | None = None
    quantizers: Axis | None = None
    defenses: Axis | None = None
    attacks: list[str] | None = None
    measures: list[str] | None = None


class Published(StudyPart):
    """Figures that a paper gives for the networks that are selected; shown beside ours.

    Attributes:
        dataset: name in `qadv list dataset`, in this study or not.
        backbone, quantizer, defense: entries of the study; what is left out may be any.
        source: with attacks from each network (`source = "each"`): the one that the images were made on. Without it,
            figures are those of attacks as the study has them, on the network itself where it says nothing else.
        accuracy: in %, by the names of attacks, and `"clean"`; a text where the paper gives more than a number.
        distances: mean L2 and L∞ of the images that an attack breaks, in pixel values, by the names of attacks.
        measured: by the names of measures, what the paper gives for fields of what the diagnostic returns.
        note: for the reader.
    """

    dataset: str | None = None
    backbone: str | None = None
    quantizer: str | None = None
    defense: str | None = None
    source: Source | None = None
    accuracy: dict[str, float | str] = {}
    distances: dict[str, tuple[float, float]] = {}
    measured: dict[str, dict[str, float | str]] = {}
    note: str = ""


class Study(StudyPart):
    """A study.

    Attributes:
        title: one line.
        about: what it shows, for the report.
        paper: the paper and its table or figure.
        claims: what the paper says the figures show; printed above ours.
        datasets: names in `qadv list dataset`.
        seeds: each network and attack once per seed.
        nb_train: training images, the first ones; without it all.
        nb_test: attacked images, the first ones of the test set.
        float_quantizer: the entry of `quantizers` that starts are taken from where they name a defense only.
        backbones, quantizers, defenses, attacks, measures: entries by a name of your choice.
        grid: which combinations; without it, all.
        published: the paper's figures.
    """

    title: str
    about: str = ""
    paper: str = ""
    claims: list[str] = []
    datasets: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    nb_train: PositiveInt | None = None
    nb_test: PositiveInt = 1000
    float_quantizer: str = "float"
    backbones: Annotated[dict[str, StudyBackbone], Field(min_length=1)]
    quantizers: Annotated[dict[str, StudyQuantizer], Field(min_length=1)] = {"float": StudyQuantizer()}
    defenses: Annotated[dict[str, Defense], Field(min_length=1)] = {"none": Defense()}
    attacks: dict[str, StudyAttack] = {}
    measures: dict[str, Measure] = {}
    grid: list[Grid] = []
    published: list[Published] = []

    @model_validator(mode="after")
    def _named(self) -> Self:
        """An entry that says no component's name has that of its component; a file has none."""
        axes: Any = ((self.backbones, "backbone"), (self.attacks, "attack"), (self.measures, "diagnostic"))
        for entries, key in axes:
            for name, entry in entries.items():
                if not getattr(entry, key) and getattr(entry, "file", None) is None:
                    entries[name] = entry.model_copy(update={key: name})
        return self
