"""What determines the result of each kind of cell; its hash is the cell's key."""

from qadv.benchmark.study import AttackSpec, BackboneSpec, DefenseSpec, Options, Seed, StudyPart, StudyQuantizer


class DatasetSpec(StudyPart):
    """A data set by name, and the digest of its images."""

    name: str
    digest: str


class ImagesSpec(DatasetSpec):
    """The first `nb_test` test images of a data set."""

    nb_test: int


class StartSpec(BackboneSpec):
    """A network; `checkpoint` is the file of its weights, `file` the one that it is, each with the hash of that."""

    checkpoint: tuple[str, str] | None = None
    file: tuple[str, str] | None = None
    later = ("file",)


class Spec(StudyPart):
    """Fields of all cells' specs: versions of the packages that compute them, and the random seed."""

    kind: str
    versions: dict[str, str]
    seed: Seed


class NetworkSpec(Spec):
    """A network; `start` and `members` are the keys of the cells that it is made from."""

    kind: str = "network"
    plugins: dict[str, str]
    dataset: DatasetSpec
    input_shape: tuple[int, ...]
    nb_classes: int
    nb_train: int
    backbone: StartSpec
    quantizer: StudyQuantizer
    defense: DefenseSpec
    start: str | None
    members: list[str]


class CleanSpec(Spec):
    """A network on clean images; networks are named by the keys of their cells, here and below."""

    kind: str = "clean"
    network: str
    images: ImagesSpec


class AttackCellSpec(CleanSpec):
    """An attack on a network."""

    kind: str = "attack"
    plugins: dict[str, str]
    attack: AttackSpec


class TransferSpec(Spec):
    """The images of the attack `made` given to a network, which may be the one they were made on if `itself` is set."""

    kind: str = "transfer"
    network: str
    made: str
    itself: bool


class MeasureSpec(Spec):
    """A diagnostic of networks, by their labels; what it is given besides is told in docs/studies.md.

    `nb_trained` is on how many of the first training images the network, or its start, was trained, where that is not
    the network's `nb_train`.
    """

    kind: str = "measure"
    plugins: dict[str, str]
    diagnostic: str
    options: Options
    images: ImagesSpec
    joint: bool
    networks: dict[str, str]
    attacks: dict[str, AttackSpec]
    attack: AttackSpec | None
    attacked: bool
    adversarial: str | None
    float_parent: str | None
    nb_trained: int | None = None
    later = ("attacked", "nb_trained")
