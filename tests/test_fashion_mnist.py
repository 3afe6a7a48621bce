"""The bonus, fashion_mnist.py, on real Fashion-MNIST."""

import json
import os
import re
import sys
import urllib.error
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision import transforms

import fashion_mnist as script
import train
from conftest import DATA, digest, kill_at, run, torchrun
from dataset import Augment
from model import resnet18

SMALL = ["--weights", "none", "--image-size", 40, "--train-images", 3200, "--batch-size", 64, "--device", "cpu", "--data", DATA]  # 50 mini-batches an epoch


def bonus(*arguments, **options):
    return run(*arguments, script="fashion_mnist.py", **options)


# ------------------------------------------------------------------ what the network is given


def test_normalisation_is_that_of_the_training_set(fashion):
    pixels = fashion[0].images.double() / 255
    assert (pixels.mean().item(), pixels.std().item()) == pytest.approx((script.MEAN, script.STD), abs=5e-5)


def test_input_is_torchvisions_normalize_and_resize(fashion):
    images, _ = fashion[0][:4]
    for size in (64, 224):
        out = script.to_network(images, size)
        expected = transforms.Compose([transforms.Resize((size, size)), transforms.Normalize(script.MEAN, script.STD)])
        assert out.shape == (4, 1, size, size)
        assert torch.allclose(out, expected(images), atol=1e-5)


def test_training_images_are_augmented_one_by_one_and_test_images_never(fashion):
    images = fashion[0][:1][0].expand(64, -1, -1, -1)  # one image, 64 times
    network_input = script.Input(Augment(flip=0.5, rotation=20), [48])
    shown = network_input.train(images, torch.Generator().manual_seed(0), 0)
    assert len(shown.flatten(1).unique(dim=0)) == 64
    assert torch.equal(network_input.test(images), script.to_network(images, 48))


@pytest.mark.parametrize("total", [16, 100, 6566])
def test_the_plan_gives_every_mini_batch_a_size(total):
    plan = script.parse_plan(script.PLAN)
    sizes = script.sizes_of(plan, total)
    assert len(sizes) == total and sizes == sorted(sizes)
    for size, share in plan:
        assert sizes.count(size) == pytest.approx(share * total, abs=1)
    assert plan[-1][0] == 224


def test_the_learning_rate_goes_by_work_not_by_mini_batches():
    costs = [size ** 2 for size in script.sizes_of([(64, 0.8), (224, 0.2)], 1000)]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = script.make_schedule(optimizer, costs)
    rates = []
    for _ in costs:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    done = [sum(costs[:step]) / sum(costs) for step in range(1000)]
    assert max(rates) == pytest.approx(0.1, rel=0.02) and done[rates.index(max(rates))] == pytest.approx(0.05, abs=0.01)
    for step in (400, 799, 900):
        assert rates[step] == pytest.approx(0.1 * (1 - done[step]) / 0.95)
    assert rates[-1] == pytest.approx(0.001, rel=0.1)


def test_the_time_left_is_over_the_work_of_the_whole_plan(fashion, monkeypatch):
    bars = []

    class Bar(train.tqdm):
        def __init__(self, *args, **options):
            super().__init__(*args, **{**options, "disable": False, "file": open(os.devnull, "w")})
            bars.append(self)

        def update(self, cost):
            super().update(cost)
            seen.append(self.n / self.total)

    seen = []
    monkeypatch.setattr(train, "tqdm", Bar)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = [split.subset(slice(256)) for split in fashion]
    train.fit(model, *data, optimizer, script.make_schedule(optimizer, [1, 1, 1, 7]), 1, batch_size=64, costs=[1, 1, 1, 7])
    assert seen == pytest.approx([0.1, 0.2, 0.3, 1.0]) and len(bars) == 1


# ------------------------------------------------------------------ the weights to start from


def offline(*_, **__):
    raise urllib.error.URLError("no network in this test")


def test_weights_auto_takes_imagenets_where_they_are(stand_in_weights):
    model, source = script.start_weights("auto", 0)
    kept = torch.load(stand_in_weights)
    assert source == "ImageNet weights"
    assert torch.equal(model.layer1[0].conv1.weight, kept["layer1.0.conv1.weight"])
    assert torch.equal(model.conv1.weight, kept["conv1.weight"].sum(1, keepdim=True))


def test_weights_auto_says_loudly_that_it_starts_from_random_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    assert script.start_weights("auto", 0)[1] == "random weights"
    assert capsys.readouterr().out.count("*** ImageNet weights cannot be had (no network in this test): "
                                         "STARTING FROM RANDOM WEIGHTS ***") == 1
    with pytest.raises(train.UserError, match="--weights imagenet: .*no network in this test"):
        script.start_weights("imagenet", 0)


def test_a_damaged_file_in_the_cache_is_an_error_of_one_line(stand_in_weights, capsys):
    stand_in_weights.write_bytes(stand_in_weights.read_bytes()[:100_000])
    assert script.start_weights("auto", 0)[1] == "random weights"
    assert f"({stand_in_weights} is damaged, delete it): STARTING FROM RANDOM WEIGHTS" in capsys.readouterr().out
    with pytest.raises(train.UserError, match=f"^--weights imagenet: [^\n]*{re.escape(str(stand_in_weights))}[^\n]*$"):
        script.start_weights("imagenet", 0)


def test_weights_of_a_file_and_none(tmp_path, capsys):
    path = str(tmp_path / "mine.pth")
    torch.manual_seed(3)
    train.save(resnet18().state_dict(), path)
    model, source = script.start_weights(path, 0)
    assert source == path and digest(model.state_dict()) == digest(torch.load(path))
    model, source = script.start_weights("none", 3)
    assert source == "random weights" and digest(model.state_dict()) == digest(torch.load(path))
    assert capsys.readouterr().out == ""


def test_weights_txt_that_cannot_be_read_is_an_error_of_one_line(tmp_path, monkeypatch):
    """It says what a training that goes on had started from."""
    monkeypatch.setattr(train, "run_folder", lambda *_: str(tmp_path))
    with pytest.raises(train.UserError, match=r"^\S*weights.txt: No such file or directory$"):
        script.run_folder(SimpleNamespace(resume=True), None, "random weights")
    assert script.run_folder(SimpleNamespace(resume=False), None, "random weights") == (str(tmp_path), "random weights")
    assert script.run_folder(SimpleNamespace(resume=True), None, "other weights")[1] == "random weights"


def test_the_first_layer_starts_with_filters_that_whiten(fashion):
    images = script.to_network(fashion[0][:1000][0], 64)
    layer = resnet18().conv1
    script.whiten(layer, images)
    assert torch.equal(layer.weight[32:], -layer.weight[:32])
    responses = layer(script.to_network(fashion[1][:300][0], 64))[..., 2:-2, 2:-2].permute(1, 0, 2, 3).flatten(1)[:32]
    spread = responses @ responses.T / responses.shape[1]
    assert torch.allclose(spread[28:, 28:], torch.eye(4), atol=0.15)
    assert spread.diag()[:4].max() < 0.5  # the smallest components are noise: it is not blown up


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize("arguments, size, epochs, save", [
    ([], 224, script.EPOCHS, "fashion_mnist.pth"),
    (["--quick"], 64, 1, "fashion_mnist_64.pth"),
    (["--quick", "--save", "runs/quick.pth"], 64, 1, "runs/quick.pth"),
    (["--image-size", "64"], 64, script.EPOCHS, "fashion_mnist_64.pth"),
    (["--image-size", "64:0.8,224:0.2", "--epochs", "2"], 224, 2, "fashion_mnist.pth"),
    (["--evaluate", "elsewhere/fashion_mnist_112.pth"], 112, script.EPOCHS, "fashion_mnist_112.pth"),
])
def test_what_the_options_stand_for(monkeypatch, arguments, size, epochs, save):
    monkeypatch.setattr("sys.argv", ["fashion_mnist.py", *arguments])
    args = script.parse_arguments()
    assert (args.image_size[-1][0], args.epochs, args.save) == (size, epochs, save)


def test_the_options_reach_the_training(tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    def fit(model, trainset, testset, optimizer, scheduler, epochs, **options):
        seen.update(options, images=len(trainset), epochs=epochs, optimizer=optimizer, first=model.conv1.weight)
        raise Enough

    seen = {}
    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(script, "keep_freed_memory", lambda: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["fashion_mnist.py", *map(str, SMALL), "--flip", "0.25", "--rotation", "7", "--shift", "3", "--lr", "0.5",
                                     "--momentum", "0.75", "--weight-decay", "0.125", "--label-smoothing", "0.375", "--epochs", "2"])
    with pytest.raises(Enough):
        script.main()
    assert (seen["images"], seen["epochs"], seen["batch_size"], seen["loss_fn"].label_smoothing) == (3200, 2, 64, 0.375)
    augment = seen["train_transform"].__self__.augment
    assert (augment.flip, augment.rotation, augment.shift) == (0.25, 7, 3)
    kernels, _ = seen["optimizer"].param_groups
    assert (kernels["initial_lr"], kernels["momentum"], kernels["weight_decay"]) == (0.5, 0.75, 0.125)
    assert not torch.equal(seen["first"][32:], -seen["first"][:32])
    command = [*sys.argv, "--first-layer", "patches", "--runs"]
    monkeypatch.setattr("sys.argv", [*command, "others"])  # two folders of one second would have one name
    with pytest.raises(Enough):
        script.main()
    assert torch.equal(seen["first"][32:], -seen["first"][:32])
    train.save(resnet18().state_dict(), "random weights")
    monkeypatch.setattr("sys.argv", [*command, "more", "--weights", "random weights"])
    with pytest.raises(Enough):
        script.main()
    assert torch.equal(seen["first"], torch.load("random weights")["conv1.weight"])


def test_only_kernels_have_weight_decay():
    model = resnet18()
    kernels, others = script.make_optimizer(model, weight_decay=0.5).param_groups
    assert kernels["weight_decay"] == 0.5 and others["weight_decay"] == 0
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert len(kernels["params"]) + len(others["params"]) == len(names)
    assert {names[p] for p in kernels["params"]} == {name for name in names.values() if re.search(r"(conv\d|downsample\.0|fc)\.weight$", name)}


# ------------------------------------------------------------------ results


def test_class_accuracy_of_a_worked_example(fashion):
    data = fashion[1].subset(slice(6))  # labels 9 2 1 1 6 1
    assert data.labels.tolist() == [9, 2, 1, 1, 6, 1]
    confusion, by_class = script.class_accuracy(torch.tensor([9, 6, 1, 0, 6, 1]), data)
    assert confusion.sum() == 6
    assert confusion[9, 9] == 1 and confusion[2, 6] == 1 and confusion[1, 1] == 2 and confusion[1, 0] == 1
    assert by_class.tolist() == pytest.approx([0, 2 / 3, 0, 0, 0, 0, 1, 0, 0, 1])


def test_confident_mistakes_of_a_worked_example(fashion):
    data = fashion[1].subset(slice(6))  # labels 9 2 1 1 6 1
    probabilities = torch.full((6, 10), 0.01)
    for image, (predicted, probability) in enumerate([(9, 0.9), (6, 0.5), (1, 0.8), (0, 0.7), (6, 0.6), (3, 0.3)]):
        probabilities[image, predicted] = probability
    wrong = [[3, 0, 0.7], [1, 6, 0.5], [5, 3, 0.3]]
    assert [[i, predicted, pytest.approx(p)] for i, predicted, p in script.confident_mistakes(probabilities, data)] == wrong
    assert script.confident_mistakes(probabilities, data, 2) == wrong[:2]


@pytest.mark.parametrize("name", ["a$^$b.pth", os.fsdecode(b"m\xe8.pth")])
def test_the_pictures_show_any_name(tmp_path, name):
    history = {"reports": [{"batch": 1, "train_accuracy": 0.5, "test_accuracy": 0.5}], "losses": [1.0]}
    train.plot_history(history, tmp_path / "curves.png", f"from {name}", "test")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_whole_run(tmp_path):
    """2 x 50 mini-batches at 40x40: 82.3 to 83.9 % over seeds 0 to 2 when this was written."""
    done = bonus(*SMALL, "--epochs", 2, "--report-every", 60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert [line.split()[3] for line in lines] == ["60/100", "100/100"]
    [folder] = (tmp_path / "runs").iterdir()
    assert {"curves.png", "confusion.png", "mistakes.png", "history.json"} <= set(os.listdir(folder))
    assert "checkpoint.pt" not in os.listdir(folder)
    record = json.loads((folder / "history.json").read_text())
    assert record["weights"] == "random weights"
    assert record["test_accuracy"] > 0.77
    confusion = torch.tensor(record["confusion"])
    assert confusion.sum(1).tolist() == [1000] * 10 and confusion.diag().sum() == round(10000 * record["test_accuracy"])
    result = f"test accuracy at 40x40: {100 * record['test_accuracy']:.2f} % ({confusion.diag().sum()} of 10000 images)"
    assert result in done.stdout

    measured = bonus("--evaluate", "fashion_mnist_40.pth", "--device", "cpu", "--data", DATA, cwd=tmp_path)
    assert measured.returncode == 0 and "fashion_mnist_40.pth: " + result in measured.stdout
    classes = {name: float(value) for name, value in re.findall(r"^  (\S.*?) +([\d.]+) %$", measured.stdout, re.M)}
    assert list(classes) == ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                             "Ankle boot"]
    assert list(classes.values()) == pytest.approx((confusion.diag() / 10).tolist())


def test_killed_and_resumed_is_as_if_never_killed(tmp_path):
    """20 mini-batches, the last 10 of another size than those before the kill."""
    arguments = [*SMALL, "--image-size", "48:0.5,40:0.5", "--train-images", 1280, "--epochs", 1, "--report-every", 4, "--validation", 200]
    assert bonus(*arguments, "--save", "runs/whole.pth", cwd=tmp_path).returncode == 0
    kill_at("batch      8/", tmp_path, "fashion_mnist.py", *arguments)
    resumed = bonus(*arguments, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    first = next(line for line in resumed.stdout.splitlines() if line.startswith("epoch"))
    assert int(first.split()[3].split("/")[0]) >= 8
    assert digest(torch.load(tmp_path / "fashion_mnist_40.pth")) == digest(torch.load(tmp_path / "runs" / "whole.pth"))


@pytest.mark.parametrize("arguments, words", [
    (["--image-size", "20"], ["--image-size", "40 to 512", "20"]),
    (["--image-size", "64:0.5,224:0.4"], ["--image-size", "add up to 1"]),
    (["--image-size", "large"], ["--image-size", "large"]),
    (["--quick", "--image-size", "64"], ["--quick"]),
    (["--quick", "--epochs", "4"], ["--quick"]),
    (["--evaluate", ""], ["no such file"]),
    (["--weights", "nowhere.pth"], ["nowhere.pth", "no such file"]),
    (["--weights", "text.pth"], ["text.pth", "not a model file"]),
    (["--evaluate", "cnn.pth"], ["cnn.pth", "another network"]),
    (["--label-smoothing", "1"], ["--label-smoothing"]),
    (["--rotation", "200"], ["--rotation", "from 0 to 180"]),
    (["--save", "no/such/folder.pth"], ["no/such"]),
    (["--resume"], ["--resume", "runs"]),
    (["--data", "text.pth"], ["text.pth"]),
])
def test_a_mistake_is_one_line_and_status_2(tmp_path, assert_refused, arguments, words):
    (tmp_path / "text.pth").write_text("not a model")
    train.save({"fc.weight": torch.zeros(10, 512)}, tmp_path / "cnn.pth")
    assert_refused(words, script, "--data", DATA, "--weights", "none", *arguments)


def test_two_processes(tmp_path):
    """Two halves of every mini-batch, each with batch statistics of its own: 78.4 % when this was written."""
    done = torchrun("fashion_mnist.py", *SMALL, "--epochs", 1, "--validation", 1000, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^ResNet18 on", done.stdout, re.M)) == 1
    assert float(re.search(r"validation accuracy at 40x40: ([\d.]+) %", done.stdout)[1]) > 68


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda(tmp_path):
    done = bonus("--weights", "none", "--image-size", 64, "--epochs", 1, "--data", DATA, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"test accuracy at 64x64: ([\d.]+) %", done.stdout)[1]) > 80
    assert all(tensor.device.type == "cpu" for tensor in torch.load(tmp_path / "fashion_mnist_64.pth").values())
