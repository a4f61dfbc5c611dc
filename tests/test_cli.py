"""The command line: tables for people, JSON for programs, one-line errors."""

import json
import subprocess
import sys
import warnings

import pytest
import typer
from typer.testing import CliRunner

import qadv
from qadv.cli import app, main
from qadv.plugins import PluginInfo

pytestmark = pytest.mark.core
run = CliRunner().invoke


@pytest.mark.parametrize("command", sorted(typer.main.get_command(app).commands))
def test_help_of_each_command(command):
    result = run(app, [command, "--help"])
    assert run(app, [command, "-h"]).output == result.output
    assert result.exit_code == 0
    assert f" {command} " in result.output
    assert "--help" in result.output


def test_a_missing_option_is_named():
    result = run(app, ["audit", "network.safetensors"])
    assert result.exit_code == 2
    assert "--dataset" in result.output


@pytest.mark.parametrize("command", ["attack", "train"])
def test_an_option_of_the_attack_with_dashes_is_told_how_it_is_written(command):
    result = run(app, [command, "network.safetensors", "--eps-step", "0.1"])
    assert result.exit_code == 2
    assert "eps_step=VALUE" in result.output
    assert "VALUE" not in run(app, ["audit", "network.safetensors", "--eps-step", "0.1"]).output


def test_list_shows_names_and_summaries():
    result = run(app, ["list", "quantizer", "relu*"])
    assert result.exit_code == 0
    assert "relu6" in result.output
    assert "bwn" not in result.output
    assert "timm stands for many names" in run(app, ["list", "backbone"]).output
    assert "trainer" in run(app, ["list"]).output


def test_list_as_json():
    rows = json.loads(run(app, ["list", "quantizer", "--json"]).output)
    assert {row["name"] for row in rows} >= {"int", "bwn", "twn", "relu1", "relu6"}
    assert {row["distribution"] for row in rows} >= {"qadv"}  # and of plugins that are installed
    every = json.loads(run(app, ["list", "--json"]).output)
    assert {row["kind"] for row in every} >= {"quantizer", "backbone", "trainer"}


def test_families_are_unfolded_on_demand():
    pytest.importorskip("timm")
    rows = json.loads(run(app, ["list", "backbone", "resnet1*", "--all", "--json"]).output)
    assert "resnet18" in {row["name"] for row in rows}


def test_attacks_are_listed_by_arts_families():
    pytest.importorskip("art")
    found = {
        family: {row["name"] for row in json.loads(run(app, ["list", "attack", "--family", family, "--json"]).output)}
        for family in ("evasion", "extraction", "inference", "poisoning")
    }
    assert found["extraction"] == {"CopycatCNN", "KnockoffNets", "FunctionallyEquivalentExtraction"}
    assert found["inference"] >= {"MembershipInferenceBlackBox", "MIFace", "DatabaseReconstruction"}
    assert found["poisoning"] >= {"PoisoningAttackBackdoor", "GradientMatchingAttack", "SleeperAgentAttack"}
    assert found["evasion"] >= {"DeepFool", "pgd", "spsa", "art"}
    assert sum(map(len, found.values())) == len(set.union(*found.values()))
    for arguments, said in (
        (["attack", "--family", "evason"], "did you mean evasion"),
        (["trainer", "--family", "poisoning"], "qadv list attack --family poisoning"),
    ):
        assert said in str(run(app, ["list", *arguments]).exception)


def test_plugins_as_json():
    (builtin,) = (row for row in json.loads(run(app, ["plugins", "--json"]).output) if row["distribution"] == "qadv")
    assert builtin["status"] == "ok"
    assert builtin["version"] == qadv.__version__
    assert "qadv_quantizers" in builtin["hooks"]
    assert "builtin" in run(app, ["plugins"]).output


def test_list_names_the_plugins_that_have_patched_a_toolkit(monkeypatch):
    patcher = PluginInfo("patcher", "main", "1.0", faults=["it has replaced [art].x"])
    monkeypatch.setattr("qadv.cli.note_patches", lambda plugins: [patcher])
    assert "patcher: it has replaced [art].x" in run(app, ["list", "quantizer"]).output


def test_foreseen_errors_end_the_process_with_one_message():
    command = [sys.executable, "-m", "qadv.cli", "list", "quantzer"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "did you mean quantizer?" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--dataset", "mnist"], "give it as data_dir (--data-dir)"),
        (["demo", "--dataset", "imagenet"], "dataset: expected one of digits, mnist, cifar10, got 'imagenet'"),
    ],
)
def test_foreseen_errors_are_one_message_without_a_traceback(arguments, message, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr(sys, "argv", ["qadv", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert message in " ".join(said.split())
    assert "Traceback" not in said


@pytest.mark.parametrize(("words", "found"), [("attack net --attack squ", "square"), ("comp", "compare")])
def test_a_shell_completes_commands_and_the_names_of_components(words, found):
    asked = {"COMP_WORDS": f"qadv {words}", "COMP_CWORD": str(len(words.split())), "_QADV_COMPLETE": "complete_bash"}
    assert found in run(app, [], prog_name="qadv", env=asked).output.splitlines()


def test_a_warning_is_one_line(monkeypatch, capsys):
    def warn():
        warnings.warn("the pixels\nare [odd]", UserWarning, stacklevel=1)

    monkeypatch.setattr("qadv.cli.app", warn)
    with warnings.catch_warnings():
        main()
    assert capsys.readouterr().err == "warning: the pixels are [odd]\n"


def test_version():
    assert run(app, ["--version"]).output == f"qadv {qadv.__version__}\n"


def test_names_between_colons_are_no_emoji(monkeypatch, capsys):
    assert "corrupted:fog:3:cifar10" in " ".join(CliRunner().invoke(app, ["list", "dataset"]).stdout.split())
    monkeypatch.setattr(sys, "argv", ["qadv", "list", "corrupted:fog:3:mnist"])
    with pytest.raises(SystemExit):
        main()
    assert ":fog:" in capsys.readouterr().err
