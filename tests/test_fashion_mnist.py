"""The bonus, fashion_mnist.py, on real Fashion-MNIST."""

import filecmp
import os
import re
import signal
import urllib.error

import pytest
import torch
from torch import nn
from torchvision import transforms

import fashion_mnist as script
import scripts
import train
from model import cnn, resnet18
from support import UserError, figures, files

TINY = ["--weights", "none", "--image-size", 40, "--train-images", 64,
        "--batch-size", 8, "--epochs", 1, "--report-every", 2, "--validation", 40]


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_input_is_torchvisions_normalize_and_resize(fashion):
    pixels = fashion[0].images.double() / 255
    assert pixels.mean().item() == pytest.approx(script.MEAN, abs=5e-5)
    assert pixels.std().item() == pytest.approx(script.STD, abs=5e-5)
    images = fashion[0][:4][0]
    for size in (28, 64, 224):
        expected = transforms.Compose([transforms.Resize((size, size)),
                                       transforms.Normalize(script.MEAN, script.STD)])(images)
        assert torch.allclose(script.prepare(images, size), expected, atol=1e-5)


def test_the_learning_rate_climbs_and_falls():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule, rates = script.make_schedule(optimizer, 1000), []
    for _ in range(1000):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates.index(max(rates)) == 50 and rates[50] == pytest.approx(0.1)
    for step in (25, 525):
        assert rates[step] == pytest.approx(0.05)
    assert rates[-1] == pytest.approx(0.001, rel=0.1)


def test_only_kernels_have_weight_decay():
    model = resnet18()
    names = {parameter: name for name, parameter in model.named_parameters()}
    kernels, others = script.make_optimizer(model, weight_decay=0.5).param_groups
    assert (kernels["weight_decay"], others["weight_decay"]) == (0.5, 0)
    assert len(kernels["params"]) + len(others["params"]) == len(names)
    pattern = re.compile(r".*(conv\d|downsample\.0|fc)\.weight")
    assert {names[p] for p in kernels["params"]} == set(filter(pattern.fullmatch, names.values()))


def test_imagenets_weights_where_they_are_and_undamaged(stand_in_weights, capsys):
    kept = torch.load(stand_in_weights)
    for which in ("auto", "imagenet"):
        model, source = script.start_weights(which, 0)
        assert source == "imagenet" and capsys.readouterr().out == (
            "weights: imagenet; the first layer is the sum over three colours; "
            "the last layer is new\n")
        assert torch.equal(model.layer1[0].conv1.weight, kept["layer1.0.conv1.weight"])
    stand_in_weights.write_bytes(stand_in_weights.read_bytes()[:100_000])
    assert script.start_weights("auto", 0)[1] == "none"
    cache = re.escape(str(stand_in_weights.parents[1]))
    with pytest.raises(UserError, match=rf"^ImageNet weights cannot be had: [^\n]*{cache}; "):
        script.start_weights("imagenet", 0)


def test_weights_of_a_file_random_ones_and_loudly_these(tmp_path, monkeypatch, capsys):
    def offline(*_, **__):
        torch.rand(3)  # without effect on what is random then
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    path = str(tmp_path / "mine.pth")
    torch.manual_seed(3)
    files.save_model(resnet18(), path)
    for which, seed, expected in ((path, 0, path), ("none", 3, "none"), ("auto", 3, "none")):
        capsys.readouterr()
        model, source = script.start_weights(which, seed)
        assert source == expected and same(model, torch.load(path))
        out = capsys.readouterr().out
        if which == path:
            assert out == f"weights: {path}\n"
    loud = r"\*\*\* .*no network in this test.*STARTING FROM RANDOM WEIGHTS \*\*\*"
    assert re.fullmatch(loud, out.splitlines()[-1])
    files.save(cnn().state_dict(), path)
    with pytest.raises(UserError, match="mine.pth: a model of another network: its conv1"):
        script.start_weights(path, 0)
    with pytest.raises(UserError, match="cannot be had: .*no network in this test"):
        script.start_weights("imagenet", 0)


def test_how_long_it_takes_is_said_before(monkeypatch, capsys):
    model, before = resnet18(), torch.get_rng_state()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert script.step_seconds(model, 64, 4, autocast=False) > 0
    assert same(model, state) and torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    monkeypatch.setattr(script, "step_seconds", lambda model, size, *_: {64: 0.5, 224: 6.0}[size])
    for size, line in ((64, "some 2 minutes of training on this machine"),
                       (224, "some 24 minutes of training on this machine; "
                             "with --image-size 64 some 2")):
        script.say_how_long(model, size, 240, 32, False)
        assert capsys.readouterr().out == line + "\n"


def test_class_accuracy_and_confident_mistakes_of_a_worked_example(fashion):
    data = fashion[1].subset(slice(6))
    assert data.labels.tolist() == [9, 2, 1, 1, 6, 1]
    probabilities = torch.full((6, 10), 0.01)
    answers = torch.tensor([9, 6, 1, 0, 6, 3])
    probabilities[range(6), answers] = torch.tensor([0.9, 0.5, 0.8, 0.7, 0.6, 0.3])
    confusion, by_class = script.class_accuracy(answers, data)
    assert confusion.nonzero().tolist() == [[1, 0], [1, 1], [1, 3], [2, 6], [6, 6], [9, 9]]
    assert confusion.max() == 1
    assert by_class.tolist() == pytest.approx([0, 1 / 3, 0, 0, 0, 0, 1, 0, 0, 1])
    wrong = [[3, 0, 0.7], [1, 6, 0.5], [5, 3, 0.3]]
    assert figures.confident_mistakes(probabilities, data) == wrong
    assert figures.confident_mistakes(probabilities, data, 2) == wrong[:2]


def test_a_whole_run_and_one_that_is_killed_and_resumed(call, folder, monkeypatch, fashion):
    """The size travels in the file. The test set is not touched."""
    monkeypatch.setattr(script, "load_fashion_mnist", lambda *_: (fashion[0], None))
    monkeypatch.chdir(folder)
    status, out, err = call(script, *TINY)
    assert (status, err) == (0, "") and "test accuracy" not in out
    assert ", 64 training images of 40x40, batch size 8, 1 epochs, " in out
    assert re.findall(r"epoch  1  batch +(\d)/8 .* validation accuracy", out) == list("2468")
    [run] = folder.glob("runs/*")
    assert sorted(os.listdir(run)) == ["confusion.png", "curves.png", "history.json",
                                       "mistakes.png", "settings.json"]
    record = files.read_json(run / "history.json")
    right = torch.tensor(record["confusion"]).diag().sum().item()
    assert record["test_accuracy"] == right / 40 and record["settings"]["weights"] == "none"
    said = f"validation accuracy at 40x40: {2.5 * right:.2f} % ({right} of 40 images)\n"
    assert said in out
    killed = scripts.Script(folder, "fashion_mnist.py", *TINY, "--runs", "killed")
    killed.wait_for("batch      4/")
    killed.signal(signal.SIGKILL)
    assert killed.end().returncode == -signal.SIGKILL
    os.rename("fashion_mnist.pth", "renamed.pth")
    done = scripts.run(folder, "fashion_mnist.py", "--resume", "--runs", "killed")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("going on with killed/") and "batch      2/" not in done.stdout
    [history] = folder.glob("killed/*/history.json")
    assert files.read_json(history)["losses"] == record["losses"]
    assert filecmp.cmp("renamed.pth", "fashion_mnist.pth", shallow=False)

    before = sorted(folder.rglob("*"))
    status, out, err = call(script, "--evaluate", "renamed.pth", "--validation", 40)
    assert (status, err) == (0, "") and out.startswith("renamed.pth: " + said)
    assert re.findall(r"^  (\S.*?) +[\d.]+ %$", out, re.M) == fashion[0].classes
    out = call(script, "--evaluate", "renamed.pth", "--validation", 40, "--image-size", 64)[1]
    assert "accuracy at 64x64: " in out and sorted(folder.rglob("*")) == before


def test_the_options_reach_the_training(call, folder, monkeypatch):
    def fit(model, trainset, testset, optimizer, scheduler, epochs, **options):
        seen.update(options, model=model, images=len(trainset), epochs=epochs,
                    augment=repr(options["augment"]), kernels=optimizer.param_groups[0])
        raise UserError("enough")

    seen = {}
    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.chdir(folder)
    line = ("--flip 0.25 --rotation 7 --shift 3 --lr 0.5 --momentum 0.75 --weight-decay 0.125 "
            "--label-smoothing 0.375 --epochs 2 --seed 9 --precision bfloat16 --report-every 5 "
            "--image-size 48 --train-images 64 --batch-size 16 --weights none")
    assert call(script, *line.split())[2] == "fashion_mnist.py: error: enough\n"
    expected = {"images": 64, "epochs": 2, "batch_size": 16, "seed": 9, "autocast": True,
                "report_every": 5, "report_images": 1000,
                "augment": "Augment(flip=0.25, rotation=7.0, shift=3)"}
    assert seen.items() >= expected.items() and seen["loss_fn"].label_smoothing == 0.375
    expected = {"initial_lr": 0.5, "momentum": 0.75, "weight_decay": 0.125}
    assert seen["kernels"].items() >= expected.items()
    assert seen["prepare"](torch.zeros(1, 1, 28, 28)).shape[-1] == 48
    assert same(seen["model"], script.start_weights("none", 9)[0].state_dict())
    call(script, "--weights", "none", "--device", "cpu", "--train-images", 8)
    assert seen["prepare"](torch.zeros(1, 1, 28, 28)).shape[-1] == 64  # the default


def test_a_mistake_is_one_line_and_status_2(refused, folder):
    (folder / "text.pth").write_text("not a model")
    files.save({"fc.weight": torch.zeros(10, 512)}, folder / "cnn.pth")
    files.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, folder / "colour.pth")
    files.save({"conv1.weight": torch.zeros(6, 3, 5, 5)}, folder / "other.pth")
    for mistake in """--image-size 20: --image-size 40 to 512 | --optimizer adam: --optimizer
            | --image-size 64,224: whole number | --evaluate nowhere.pth: nowhere.pth
            | --evaluate cnn.pth: cnn.pth another network | --weights nowhere.pth: nowhere.pth
            | --weights colour.pth: colour.pth another network
            | --weights other.pth: other.pth another network
            | --weights text.pth: text.pth not a model file | --momentum 0: --momentum from 0.01
            | --save no/a.pth: no/a.pth no folder | --label-smoothing 1: --label-smoothing 0.99
            | --resume: --resume no run of fashion_mnist.py in runs""".split(" | "):
        line, words = mistake.rsplit(": ", 1)
        refused(words.split(), script, "--weights", "none", *line.split())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda(call, folder, monkeypatch):
    monkeypatch.chdir(folder)
    status, out, _ = call(script, "--weights", "none", "--image-size", 64, "--epochs", 1)
    assert status == 0 and float(re.search(r"test accuracy at 64x64: ([\d.]+)", out)[1]) > 80
    assert {t.device.type for t in torch.load("fashion_mnist.pth").values()} == {"cpu"}
