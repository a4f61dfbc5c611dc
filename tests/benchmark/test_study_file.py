"""Study files: what is read, and what is said where something is wrong."""

import re
from pathlib import Path

import pytest

from qadv.benchmark.study_file import StudyError, line_of, read_study
from qadv.errors import StorageError
from tests.benchmark.studies import TINY, write_tiny

pytestmark = pytest.mark.core


def complaint(tmp_path, text, small=False):
    with pytest.raises(StudyError) as caught:
        read_study(write_tiny(tmp_path, text), small)
    return str(caught.value)


def faults(study):
    """Names of attacks are looked up in ART, so these need it."""
    pytest.importorskip("art")
    from qadv.benchmark import names

    return names.faults(study)


def found(tmp_path, text):
    try:
        file = read_study(write_tiny(tmp_path, text))
    except StudyError as error:
        return str(error)
    return str(file.complain(faults(file.study)))


def line(text, part):
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def test_a_sound_study_has_no_faults(tmp_path):
    file = read_study(write_tiny(tmp_path))
    assert list(faults(file.study)) == []
    assert file.study.attacks["fgsm"].options == {"eps": 0.2}  # a fraction became a number
    assert file.name == "tiny"


def test_small_settings_replace_lists_and_numbers_and_merge_tables(tmp_path):
    file = read_study(write_tiny(tmp_path), small=True)
    assert file.study.nb_test == 8
    assert file.study.nb_train == 200
    assert [grid.quantizers for grid in file.study.grid] == [["w4a4"]]
    assert set(file.study.defenses) == {"none", "tuned"}
    assert file.name == "tiny-small"


def test_small_needs_its_table(tmp_path):
    assert "[small]" in complaint(tmp_path, TINY.partition("[small]")[0], small=True)


def test_an_error_in_small_settings_has_the_line_there(tmp_path):
    text = TINY.replace("nb_test = 8", "nb_test = 0")
    assert f"tiny.toml:{line(text, 'nb_test = 0')}: nb_test" in complaint(tmp_path, text, small=True)
    read_study(write_tiny(tmp_path, text))  # at full size it does not matter


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("nb_test = 24", "nb_tests = 24", "did you mean nb_test"),
        ("nb_train = 200", "nb_train = -1", "greater than 0"),
        ('title = "tiny"', "", "'title' is missing"),
        ("fit = { nb_epochs = 1, batch_size = 32 }", "fit = { epochs = 1 }", "did you mean nb_epochs"),
        ("seeds = [0]", "seeds = []", "at least 1"),
        ('source = "each"', 'source = { defence = "none" }', "did you mean defense"),
    ],
)
def test_wrong_keys_and_values(tmp_path, old, new, said):
    text = TINY.replace(old, new)
    message = complaint(tmp_path, text)
    assert said in message
    if new:
        assert f"tiny.toml:{line(text, new)}:" in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"digits"', '"digit"', "did you mean digits"),
        ("[backbones.mnist-cnn]", "[backbones.mnist-cn]", "did you mean mnist-cnn"),
        ('"int:4"', '"imt:4"', "did you mean int"),
        ('"relu6:4"', '"relu6:9"', "bits"),
        ('"relu6:4"', '"relu:4"\ncalibration = 8\ncalibration_attack = "pgdd"', "did you mean pgd"),
        ('trainer = "dq"', 'trainer = "dqq"', "did you mean dq"),
        ("beta = 0.0", "betta = 0.0", "did you mean beta"),
        ("lr = 0.01", "lr = 0.01, verbose = 3", "is given already"),
        ('start = "none"', 'start = "nane"', "did you mean none"),
        ('"FastGradientMethod"', '"FastGradientMetod"', "did you mean FastGradientMethod"),
        ('eps = "2/10"', 'epsilon = "2/10"', "takes no option 'epsilon'; did you mean eps"),
        ('attack = "fgsm"', 'attack = "fgms"', "did you mean fgsm"),
        ("[measures.gradient-similarity]", "[measures.gradient-simlarity]", "did you mean gradient-similarity"),
        ("[small]\n", '[[published]]\ndefense = "nune"\naccuracy = { clean = 1.0 }\n[small]\n', "did you mean none"),
        ("[small]\n", "[[published]]\naccuracy = { fgms = 1.0 }\n[small]\n", "did you mean fgsm"),
        ("[small]\n", '[[grid]]\nattacks = ["pgd"]\n[small]\n', "no entry 'pgd'"),
    ],
)
def test_names_that_do_not_exist(tmp_path, old, new, said):
    text = TINY.replace(old, new, 1)
    message = found(tmp_path, text)
    assert said in message
    wrong = re.search(r"'([\w:-]+)'", message.partition(": ")[2])[1]  # the message quotes it
    assert f"tiny.toml:{line(text, wrong)}:" in message


@pytest.mark.parametrize(("options", "least"), [("lr = 0.1", 5), ("rounds = 2", 2)])
def test_a_training_that_is_too_short_for_its_rounds(options, least, tmp_path):
    def with_epochs(number):
        trained = f'[defenses.fed]\ntrainer = "feedback"\noptions = {{ {options} }}\nfit = {{ nb_epochs = {number} }}\n'
        return TINY.replace("[small]\n", f"{trained}[small]\n", 1)

    message = found(tmp_path, with_epochs(least - 1))
    assert f"nb_epochs: expected a whole number of at least {least}, got {least - 1}" in message
    assert f"tiny.toml:{line(with_epochs(least - 1), 'feedback') + 2}:" in message
    assert list(faults(read_study(write_tiny(tmp_path, with_epochs(least))).study)) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('eps = "2/10"', 'eps = "8/0"', r"eps: expected .* '8/0'"),
        ('eps = "2/10"', "eps = nan", r"options\.eps: expected a finite number, got nan"),
        ('eps = "2/10"', "eps = inf", "expected a finite number, got inf; a norm without end is the text"),
        ('eps = "2/10"', "eps = 1979-05-27", r"options\.eps: a study has no dates and times"),
        ('eps = "2/10"', f"eps = {'[' * 100}{']' * 100}", "nested more than 20 deep"),
        ('eps = "2/10"', f"eps = 0x{'f' * 5000}", "at most 64 bits"),
        ('eps = "2/10"', f'eps = "{"9" * 5000}/1"', "expected a finite number.{,1500}…9*/1'$"),
        ("nb_test = 24", "nb_test = 24\nfloat_quantizer = 07:32:00", "a study has no dates and times"),
        ("[small]\n", "[[grid]]\ndefenses = []\n[small]\n", r"grid\.0\.defenses: .* at least 1 item"),
    ],
)
def test_what_toml_can_say_and_a_study_can_not(tmp_path, old, new, said):
    text = TINY.replace(old, new)
    message = complaint(tmp_path, text)
    assert re.fullmatch(
        rf".*tiny\.toml:{line(text, new.splitlines()[-1 if 'grid' not in new else 1])}: .*{said}.*", message
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [("9" * 5000, r"tiny\.toml:6: a number has too many digits"), ("[" * 10_000, r"tiny\.toml: .*nested too deep")],
)
def test_what_python_does_not_read(tmp_path, value, said):
    assert re.fullmatch(f".*{said}", complaint(tmp_path, TINY.replace("nb_test = 24", f"nb_test = {value}")))


def test_tables_within_tables_without_end(tmp_path):
    assert "nested more than" in complaint(tmp_path, f"a{'.a' * 800} = 1\n{TINY}")


def test_all_faults_are_told_at_once(tmp_path):
    message = found(tmp_path, TINY.replace('"int:4"', '"imt:4"').replace("lr = 0.01", "rl = 0.01"))
    assert "imt" in message
    assert "'rl'" in message


def test_files_that_are_no_studies(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        read_study(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("title = ")
    with pytest.raises(StudyError, match=r"broken\.toml"):
        read_study(tmp_path / "broken.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyError, match="UTF-8"):
        read_study(tmp_path / "binary.toml")


def test_lines_of_nested_places():
    text = 'a = 1\n[t.x]\nk = { deep = 1 }\n[[g]]\nn = 1\n[[g]]\nn = 2\n[t."y z"]\nk.deep = 2\n'
    assert line_of(text, ("a",)) == 1
    assert line_of(text, ("t", "x", "k", "deep")) == 3
    assert line_of(text, ("g", 0, "n")) == 5
    assert line_of(text, ("g", 1, "n")) == 7
    assert line_of(text, ("t", "y z", "k", "deep")) == 9
    assert line_of(text, ("t", "x", "other")) == 2  # the nearest table
    assert line_of(text, ("t", "x", "other"), exact=True) is None


def test_the_study_in_the_documentation_is_one(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    text = re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1]
    for small in (False, True):
        file = read_study(write_tiny(tmp_path, text), small)
        assert list(faults(file.study)) == []


def test_a_preprocessor_is_named_or_named_with_options(tmp_path):
    asked = '[defenses.none]\npreprocessors = ["median-smoothing", { name = "bit-depth", options = { bit_depth = 4 } }]'
    study = read_study(write_tiny(tmp_path, TINY.replace("[defenses.none]", asked))).study
    plain, deep = study.defenses["none"].preprocessors
    assert (plain.name, plain.options) == ("median-smoothing", {})
    assert (deep.name, deep.options) == ("bit-depth", {"bit_depth": 4})
    wrong = TINY.replace("[defenses.none]", '[defenses.none]\npreprocessors = ["median-smothing"]')
    assert "did you mean median-smoothing," in found(tmp_path, wrong)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("eps = 4", r"eps: expected at most 1, the range of the pixels \(0 to 1\), got 4; did you mean 4/255\?"),
        ('eps = "4"', "did you mean 4/255"),
        ('eps = "8/0"', "a fraction such as 8/255, got '8/0'"),
        ("eps = nan", "expected a finite number"),
        ('eps = "nan"', "expected a finite number"),
    ],
)
def test_a_radius_is_a_number_or_a_fraction_within_the_range(tmp_path, new, said):
    text = TINY.replace('eps = "2/10"', new)
    message = found(tmp_path, text)
    assert re.search(said, message)
    assert f"tiny.toml:{line(text, new)}:" in message
    adversary = "options = { lr = 0.01, adversary = { " + new + " } }"
    assert re.search(said, found(tmp_path, TINY.replace("options = { lr = 0.01 }", adversary)))
    measured = f"[measures.accuracy-curve]\noptions = {{ eps = [{new.removeprefix('eps = ')}] }}"
    assert re.search(said, found(tmp_path, TINY.replace("[measures.gradient-similarity]", measured)))


def test_balls_of_other_norms_may_be_wider(tmp_path):
    text = TINY.replace('eps = "2/10"', 'eps = "4/2", norm = 2')
    study = read_study(write_tiny(tmp_path, text)).study
    assert study.attacks["fgsm"].options == {"eps": 2.0, "norm": 2}
    assert list(faults(study)) == []
