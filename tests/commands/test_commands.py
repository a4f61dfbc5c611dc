"""quantize, train, attack and compare: what they print, write and refuse, on the digits."""

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import qadv
from qadv.backbones.standardisation import keep_picture_settings
from qadv.benchmark.made_attacks import made_attack
from qadv.cli import app
from qadv.command_options import AttackOptions, CompareOptions
from qadv.commands.given import beside, network_and_data
from qadv.datasets import Images
from qadv.datasets.changed import Changed
from qadv.diagnostics import noise_accuracy
from qadv.errors import PictureWarning
from qadv.estimators.storage import mean_std
from qadv.modes import class_names
from tests.photographs import photographs


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments, dataset="digits"):
    result = CliRunner().invoke(app, [*map(str, arguments), "--dataset", dataset])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def as_json(*arguments, **options):
    return json.loads(run(*arguments, "--json", **options))


@pytest.fixture
def saved(trained):
    trained.save("net.safetensors")
    return "net.safetensors"


def test_quantize_says_accuracy_before_and_after(make_classifier, digits, tmp_path):
    floating = make_classifier("float", "float")
    trainer = qadv.DefensiveQuantTrainer(floating, beta=0.0, lr=0.1, verbose=False)
    trainer.fit(digits.x_train[:400], digits.y_train[:400], nb_epochs=3, batch_size=64)
    torch.save(floating.network.state_dict(), "net.pth")
    given = ["quantize", "mnist-cnn:image_size=8,width=8", "--checkpoint", "net.pth", "--nb-test", 50]
    report = as_json(*given, "--weights", "bwn", "--activations", "relu:1", "--calibrate", 40, "-o", "q.safetensors")
    quantized, x, y = qadv.open_classifier("q.safetensors"), digits.x_test[:50], digits.y_test[:50]
    for when, classifier in (("before", floating), ("after", quantized)):
        assert report["accuracy"][when] == pytest.approx((classifier.predict(x).argmax(1) == y).mean())
    assert report["accuracy"]["before"] > report["accuracy"]["after"]
    assert report["packed_bytes"] == qadv.summarize(quantized).packed_bytes < report["float_bytes"] / 3
    shown = run(*given, "--weights", "float", "--activations", "float", "-o", "f.safetensors")
    assert f"Accuracy on 50 test images: {100 * report['accuracy']['before']:.2f} % before" in shown
    assert (qadv.open_classifier("f.safetensors").predict(x) == floating.predict(x)).all()


def test_train_goes_on_with_a_finished_run(saved, digits):
    given = ["train", saved, "--trainer", "dq", "beta=0.0", "lr=0.01", "--nb-train", 200, "-o", "new.safetensors"]
    shown = run(*given, "--epochs", 1)
    assert "DefensiveQuantTrainer: epoch 1/1, loss" in shown, "a line for each epoch where nobody sees a bar"
    first = qadv.open_classifier("new.safetensors").predict(digits.x_test[:10])
    with pytest.raises(qadv.errors.InvalidInputError, match=r"new.safetensors.checkpoint: --resume goes on with it"):
        run(*given, "--epochs", 2)
    report = as_json(*given, "--epochs", 2, "--resume")
    assert [entry["epoch"] for entry in report["history"]] == [0, 1]
    assert (qadv.open_classifier("new.safetensors").predict(digits.x_test[:10]) != first).any()


def test_an_interrupted_training_says_how_it_goes_on(saved, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("qadv.trainers.loop.TrainingLoop.run", stop)
    options = ["--trainer", "dq", "--epochs", "2", "-o", "new.safetensors", "--dataset", "digits"]
    stopped = CliRunner().invoke(app, ["train", saved, *options])
    assert "the same command with --resume goes on from new.safetensors.checkpoint" in stopped.stderr
    assert stopped.exit_code == 130


def test_attack_writes_what_it_found(saved, trained, digits, tmp_path):
    found = as_json("attack", saved, "--attack", "pgd", "eps=25/255", "max_iter=10", "--nb-test", 12, "-o", "found")
    rows = list(csv.DictReader((tmp_path / "found" / "images.csv").open()))
    pixels = np.stack([np.asarray(Image.open(tmp_path / "found" / row["file"])) for row in rows])
    images = pixels[:, None].astype(np.float32) / 255
    classes = trained.predict(images).argmax(1)
    assert [int(row["adversarial"]) for row in rows] == classes.tolist()
    assert [int(row["class"]) for row in rows] == digits.y_test[:12].tolist()
    assert found["as_png"] == pytest.approx((classes == digits.y_test[:12]).mean())
    assert found["adversarial_accuracy"] < found["clean_accuracy"]
    far = np.abs(images - digits.x_test[:12]).reshape(12, -1).max(axis=1)
    assert [float(row["linf"]) for row in rows] == pytest.approx(far, abs=1e-5)
    assert far.max() == pytest.approx(25 / 255, abs=0.5 / 255), "rounded to the nearest of 255 steps"


def test_a_smaller_attack_leaves_no_images_of_a_larger_one_beside_its_own(saved, tmp_path):
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "mine.png").write_bytes(b"")
    for number in (5, 3):
        run("attack", saved, "--attack", "fgsm", "--nb-test", number, "-o", "found")
        written = sorted(path.name for path in (tmp_path / "found").glob("*.png"))
        assert written == [*(f"{index:05}.png" for index in range(number)), "mine.png"]


def test_a_grey_network_is_opened_grey_at_another_size(make_classifier, tmp_path):
    photographs(tmp_path / "photos")
    make_classifier("float", "float", nb_classes=3).save("grey.safetensors")
    options = AttackOptions(
        model="grey.safetensors", image_size=8, dataset="image-folder:photos", nb_test=2, attack="fgsm"
    )
    classifier, data = network_and_data(options)
    assert classifier.input_shape == data.input_shape == (1, 8, 8)


def test_attack_takes_any_attack_and_shows_a_table(saved):
    shown = run("attack", saved, "--attack", "DeepFool", "max_iter=3", "--nb-test", 4)
    assert "DeepFool, 4 images" in shown
    assert "under attack" in shown


def test_an_attack_that_takes_labels_for_targets_is_refused_and_arts_do_so_nowhere_by_themselves(saved, trained):
    options = ["max_iter=5", "delta=0.1", "epsilon=0.1", "init_size=100"]
    found = as_json("attack", saved, "--attack", "BoundaryAttack", *options, "--nb-test", 6)
    assert found["success_rate"] > 0.5, "the others of its images are to get any other class, and find one"
    said = "attack 'pgd.*': the labels are those that images are not to be given any more"
    for given in (["attack", saved, "targeted=true", "--attack", "pgd"],
                  ["compare", saved, "packed.safetensors", "--attack", "pgd:targeted=true"]):  # fmt: skip
        qadv.export(trained, "packed.safetensors")
        with pytest.raises(qadv.errors.InvalidInputError, match=said):
            run(*given, "--nb-test", 4)
    assert made_attack("SignOPTAttack", {"targeted": True}, trained).targeted, "where it is asked for"


def test_pgd_is_arts_with_a_step_of_a_quarter(trained):
    pgd = qadv.create("attack", "pgd", trained, eps="8/255", max_iter=7)
    assert type(pgd).__module__.startswith("art.")
    assert (pgd.max_iter, pgd.num_random_init) == (7, 1)
    assert pgd.eps_step == pytest.approx(2 / 255)
    assert qadv.create("attack", "pgd", trained, eps_step=0.01).eps_step == 0.01
    assert qadv.create("attack", "fgsm", trained).eps == pytest.approx(8 / 255)


def test_compare_puts_networks_side_by_side(saved, make_classifier):
    make_classifier("float", "float").save("other.safetensors")
    given = ["compare", saved, "other.safetensors", "--attack", "fgsm", "--eps", 0.1, "--nb-test", 20]
    report = as_json(*given)
    assert report["targets"] == ["net.safetensors", "other.safetensors"]
    assert report["bytes"]["net.safetensors"] < report["bytes"]["other.safetensors"] / 3
    assert np.array(report["accuracy"]).shape == (1, 2, 2)
    assert all(worst <= clean for worst, clean in zip(report["worst_case"], report["clean"], strict=True))
    shown = run(*given, "--attack", "fgsm:eps=0.2")
    assert "KiB packed" in shown
    assert "fgsm, 20 images" in shown
    assert "ε = 0.1, but of fgsm:eps=0.2. A worst case" in shown


def test_a_network_with_one_answer_for_all_is_named(saved, make_classifier):
    constant = make_classifier()
    with torch.no_grad():
        [*constant.network.modules()][-1].bias[3] = 1e4
    constant.save("constant.safetensors")
    line = "constant.safetensors gives all 12 images class 3"
    assert line in run("attack", "constant.safetensors", "--attack", "fgsm", "--nb-test", 12)
    shown = run("compare", saved, "constant.safetensors", "--attack", "fgsm", "--nb-test", 12)
    assert line in shown
    assert shown.count("gives all") == 1


def test_networks_by_name_have_their_checkpoints_behind_them(make_classifier, digits):
    for seed in (0, 1):
        torch.save(make_classifier("float", "float", seed=seed).network.state_dict(), f"{seed}.pth")
    names = [f"mnist-cnn:image_size=8,width=8@{seed}.pth" for seed in (0, 1)]
    report = as_json("compare", *names, "--attack", "fgsm", "--nb-test", 8)
    x, y = digits.x_test[:8], digits.y_test[:8]
    expected = [(make_classifier("float", "float", seed=seed).predict(x).argmax(1) == y).mean() for seed in (0, 1)]
    assert report["targets"] == names
    assert report["clean"] == pytest.approx(expected)
    with pytest.raises(qadv.errors.InvalidInputError, match=r"has a checkpoint already: leave out 1.pth"):
        run("attack", names[0], "--checkpoint", "1.pth", "--attack", "fgsm")


def test_a_standardisation_is_that_of_networks_by_name_and_exported_ones_and_a_saved_one_keeps_its_own(make_classifier):
    made = make_classifier("float", "float", preprocessing=(0.3, 0.4))
    made.save("saved.safetensors")
    torch.save(made.network.state_dict(), "net.pth")
    models = ["saved.safetensors", "mnist-cnn:image_size=8,width=8@net.pth"]
    options = CompareOptions(models=models, dataset="digits", mean="0.1", std="0.2")
    first, _ = network_and_data(options, model=models[0])
    pairs = [np.ravel(mean_std(each)) for each in (first, beside(models[1], first, options))]
    assert np.allclose(pairs, [(0.3, 0.4), (0.1, 0.2)])
    coloured = make_classifier("float", "float", input_shape=(3, 8, 8), nb_classes=5)
    exported = beside(
        str(Path(__file__).parents[1] / "frontends" / "onnx" / "written" / "nncf.onnx"), coloured, options
    )
    assert np.allclose(np.ravel(mean_std(exported)), (0.1, 0.2))


def test_a_file_keeps_the_names_of_its_classes_and_no_others_are_taken_for_them(make_classifier, tmp_path):
    photographs(tmp_path / "photos")
    made = make_classifier("float", "float", nb_classes=3)
    made.save("float.safetensors")
    given = ["--weights", "bwn", "--calibrate", 6, "--nb-test", 2]
    run("quantize", "float.safetensors", *given, "-o", "q.safetensors", dataset="image-folder:photos")
    quantized = qadv.open_classifier("q.safetensors")
    assert class_names(quantized.model) == ("apple", "pear", "plum")
    trained = ["train", "q.safetensors", "--trainer", "dq", "--epochs", 1, "--nb-train", 6, "--nb-test", 2]
    run(*trained, "-o", "t.safetensors", dataset="image-folder:photos")
    assert class_names(qadv.open_classifier("t.safetensors").model) == ("apple", "pear", "plum")
    x = np.zeros((2, 1, 8, 8), dtype=np.float32)
    numbered = Images("numbered", x, np.zeros(2, int), x, np.zeros(2, int), ("0", "1", "2"))
    numbered.check_fits(quantized)
    for part in ("train", "val"):
        (tmp_path / "photos" / part / "pear").rename(tmp_path / "photos" / part / "\x1b[31mpear")
    said = r"its class 0 is \\x1b\[31mpear, and the network's apple,.* apple, pear, plum"
    with pytest.raises(qadv.errors.InvalidInputError, match=said):
        run("attack", "q.safetensors", "--attack", "fgsm", dataset="image-folder:photos")


def test_a_second_network_whose_classes_have_another_order_is_refused(make_classifier):
    names = {"net": "abcdefghij", "moved": "bacdefghij", "numbered": "0123456789", "unnamed": ""}
    for seed, (file, classes) in enumerate(names.items()):
        made = make_classifier("float", "float", seed=seed)
        keep_picture_settings(made.network, {"classes": list(classes)})
        made.save(f"{file}.safetensors")
    given = ["audit", "net.safetensors", "--nb-test", 2, "--check", 1]
    for option in ("--other", "--float-parent"):
        with pytest.raises(qadv.errors.InvalidInputError, match=r"moved.safetensors: its classes are b, a, c"):
            run(*given, option, "moved.safetensors")
    run(*given, "--other", "numbered.safetensors", "--other", "unnamed.safetensors")


def test_compare_puts_noise_and_attacks_in_one_table_and_one_chart(saved, make_classifier, digits, monkeypatch):
    def inverted(images, corruption, severity, seed):
        return Changed(f"{corruption}:{severity}:{seed}", images, partial(np.subtract, np.float32(1)))

    monkeypatch.setattr(noise_accuracy, "corrupted", inverted)  # what the extra brings is tested elsewhere
    monkeypatch.setattr(noise_accuracy, "CORRUPTIONS", ("inverted",))
    monkeypatch.setattr(noise_accuracy, "DECODERS", ("pillow",))
    monkeypatch.setattr(noise_accuracy, "RESIZERS", ("pillow-nearest", "pillow-box"))
    floating = make_classifier("float", "float")
    floating.save("other.safetensors")
    given = ["compare", saved, "other.safetensors", "--attack", "fgsm", "--nb-test", 20, "--noise"]
    report = as_json(*given, "--severity", 2, "-o", "chart.png")
    expected = (floating.predict(1 - digits.x_test[:20]).argmax(1) == digits.y_test[:20]).mean()
    noise = report["noise"]
    assert noise["corrupted"][0][1] == noise["mean"]["corrupted"][1] == expected
    assert np.array(noise["resized"]).shape == (2, 2)
    assert np.allclose(np.mean(noise["resized"], 0), noise["mean"]["resized"])
    assert (noise["severity"], noise["mean"]["worst case"]) == (2, report["worst_case"])
    assert Image.open("chart.png").width > 500
    columns = ("KiB packed", "accuracy", "corrupted", "decoded", "resized", "worst case")
    shown = run(*given)
    assert all(column in shown.splitlines()[1] for column in columns)
    assert "1 corruptions at severity 3" in shown
    with pytest.raises(qadv.errors.InvalidInputError, match=r"suffix of a picture: .*got 'txt'"):
        run(*given, "-o", "chart.txt")


def test_noise_is_refused_before_any_attack_where_images_are_too_small(saved, make_classifier):
    make_classifier("float", "float").save("other.safetensors")
    with pytest.raises(qadv.errors.InvalidInputError, match="28 px or more"):
        run("compare", saved, "other.safetensors", "--noise")


def test_an_attack_that_makes_no_images_is_told_what_measures_it(saved):
    for name, measure in (("CopycatCNN", "extraction"), ("MIFace", "inversion"), ("SleeperAgentAttack", "backdoor")):
        with pytest.raises(qadv.errors.InvalidInputError, match=f"no adversarial images; .*`{measure}`, in a study"):
            run("attack", saved, "--attack", name)


def test_what_does_not_go_is_one_line(saved, trained, tmp_path):
    photographs(tmp_path / "photos")
    trained.save("copy.safetensors")
    for said, *arguments in [
        ("resnet20 is the name of a network, which is made with random weights", "attack", "resnet20"),
        (r"or ask timm for its own, resnet10t:pretrained=true", "attack", "resnet10t"),
        ("mnist-cnn is the name of a network", "attack", "mnist-cnn:image_size=8"),
        ("resnet20 is the name of a network", "compare", saved, "resnet20"),
        ("pgd takes no option 'epps'; did you mean eps", "attack", saved, "epps=0.1"),
        (r"'eps': expected NAME or NAME:option=value", "attack", saved, "eps"),
        ("eps: expected at most 1", "attack", saved, "eps=2"),
        ("--nb-test: expected a whole number of at least 1", "attack", saved, "--nb-test", 0),
        ("--mean and --std go together", "attack", saved, "--mean", "0.5"),
        ("no backbone 'gone'", "attack", "gone:x=1"),
        ("there is no file net.safetensor, and no backbone", "attack", "net.safetensor"),
        ("pixels are from 0 to 1; divide both by 255", "attack", "mnist-cnn@net.pth", "--mean", "33", "--std", "79"),
        ("pgd: max_iter = 0 attacks nothing", "attack", saved, "max_iter=0"),
    ]:
        with pytest.raises(qadv.errors.QadvError, match=said) as refused:
            run(*arguments, "--attack", "pgd")
        assert "\n" not in str(refused.value)
    with pytest.raises(qadv.errors.InvalidInputError, match="3 classes, apple, pear, plum …, the network 10"):
        run("attack", saved, "--attack", "pgd", dataset="image-folder:photos")
    with pytest.raises(qadv.errors.InvalidInputError, match=r"attack ShadowAttack, 3 images: .*single sample"):
        run("attack", saved, "--attack", "ShadowAttack", "--nb-test", 3)
    with pytest.raises(qadv.errors.InvalidInputError, match="give two networks or more"):
        run("compare", saved, saved)
    for said, *options in [
        ("--severity is that of the corruptions: add --noise", "--severity", 5),
        ("--attack DeepFool: it keeps to no radius", "--attack", "DeepFool"),
        ("--mean and --std: net.safetensors was saved with its own", "--mean", "0.5", "--std", "0.5"),
    ]:
        with pytest.raises(qadv.errors.InvalidInputError, match=said):
            run("compare", saved, "copy.safetensors", *options)
    with pytest.raises(qadv.errors.InvalidInputError, match="--data-dir: it is where the images of --dataset are"):
        CliRunner().invoke(app, ["export", saved, "--to", "onnx", "--data-dir", "."], catch_exceptions=False)
    given = "--trainer", "dq", "--epochs", 1, "--nb-test", 5
    for said, command, out, *options in [
        ("is the model itself", "quantize", saved),
        ("is the model itself", "train", f"./{saved}", *given),
        ("end it in .safetensors", "quantize", "small.onnx"),
        ("end it in .safetensors", "train", "net.pth", *given),
    ]:
        with pytest.raises(qadv.errors.InvalidInputError, match=said):
            run(command, saved, *options, "-o", out)
    with pytest.raises(qadv.errors.StorageError, match=r"can't write in net.safetensors: File exists"):
        run("attack", saved, "--attack", "pgd", "-o", saved)


def test_a_run_goes_on_only_from_the_network_that_it_began_with(saved, make_classifier):
    given = ["--trainer", "dq", "lr=0.01", "--nb-train", 100, "-o", "new.safetensors"]
    run("train", saved, *given, "--epochs", 1)
    make_classifier(seed=1).save("other.safetensors")
    with pytest.raises(qadv.errors.FileFormatError, match=r"checkpoint of another run .*start: saved"):
        run("train", "other.safetensors", *given, "--epochs", 2, "--resume")


def test_names_are_shown_as_they_are(saved, make_classifier):
    make_classifier(seed=1).save("net[final].safetensors")
    given = ["compare", saved, "net[final].safetensors", "--attack", "fgsm", "--nb-test", 8]
    assert run(*given).count("net[final].safetensors") == 4


def test_compare_says_where_one_network_has_photographs_cropped_otherwise(make_classifier, tmp_path):
    photographs(tmp_path / "photos")
    for name, share in (("a", 1.0), ("b", 0.5)):
        network = make_classifier(seed=int(2 * share), nb_classes=3)
        network.network.pretrained_cfg = {"crop_pct": share}
        network.save(f"{name}.safetensors")
    given = ["compare", "a.safetensors", "b.safetensors", "--attack", "fgsm", "--nb-test", 2]
    with pytest.warns(
        PictureWarning, match=r"as a.safetensors says, .*'crop_pct': 1.0.*; b.safetensors says {'crop_pct'"
    ):
        run(*given, dataset="image-folder:photos")


def test_an_ensemble_that_abstains_takes_the_data_set_of_its_classes(trained, make_classifier):
    ensemble = qadv.EnsembleClassifier.of([trained, make_classifier(seed=1)], combine="vote", abstain_below=2)
    ensemble.save("ensemble.safetensors")
    run("attack", "ensemble.safetensors", "--attack", "pgd", "eps=0.3", "max_iter=3", "--nb-test", 8, "-o", "found")
    with open("found/images.csv") as file:
        assert "abstains" in {row["clean"] for row in csv.DictReader(file)}


def test_what_an_attack_says_to_its_options_is_one_line(saved):
    with pytest.raises(qadv.errors.InvalidInputError, match="attack AdversarialPatch: `patch_shape` cannot be `None`"):
        run("attack", saved, "--attack", "AdversarialPatch")


def test_a_step_that_is_larger_than_the_ball_is_told(trained, recwarn):
    made = partial(made_attack, "ProjectedGradientDescent", classifier=trained)
    with pytest.warns(UserWarning, match=r"its own eps_step, 0\.1, is larger than eps, 0\.0314"):
        made({"eps": 8 / 255})
    recwarn.clear()
    for options in ({"eps": 0.3}, {"eps": 8 / 255, "eps_step": 0.05}):
        made(options)
    made_attack("FastGradientMethod", {"eps": 8 / 255}, trained)
    made_attack("pgd", {"eps": 8 / 255}, trained)
    assert not recwarn.list
