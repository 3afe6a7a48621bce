"""experiments.py: its studies at small scale, its statistics, and that report.md is what results/ give."""

import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import zipfile

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import nn

import benchmark
import experiments
import fashion_mnist
import train
from dataset import Augment

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A folder that has all that this one has, as links, but no runs/."""
    for name in os.listdir(ROOT):
        if name.endswith((".py", ".pth", ".md")) or name in ("data", "results", "tests"):
            os.symlink(os.path.join(ROOT, name), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "QUICK", False)
    experiments.splits.cache_clear()
    yield tmp_path
    experiments.splits.cache_clear()


def study(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["experiments.py", *arguments])
    experiments.main()


@pytest.mark.parametrize("name", [name for name in experiments.STUDIES if name not in (
    "outputs", "on_cuda", "first_layer", "augmentation_at_224")])  # these take minutes, and call what seeds, plans and image_sizes call
def test_every_study_runs_on_a_small_scale_and_is_recorded(bundle, monkeypatch, capsys, name):
    study(monkeypatch, name, "--quick")
    runs = json.loads((bundle / "runs" / "quick" / f"{name}.json").read_text())
    assert len(runs) == (1 if name == "longest" else 2)
    for run in runs.values():
        assert "torch" in run["machine"]
        if name == "kills":
            assert run["as_never_killed"] == run["trainings"] >= 1
        else:
            assert 0 < run.get("accuracy", run.get("test_accuracy")) <= 1
    if name == "kills":
        assert [run["kills"] for run in runs.values()] == [2, 1]
    capsys.readouterr()
    study(monkeypatch, name, "--quick")
    assert capsys.readouterr().out == ""  # all recorded: nothing is run again


def test_a_study_that_was_stopped_goes_on(tmp_path):
    path, ran = str(tmp_path / "results" / "study.json"), []

    def run(key):
        ran.append(key)
        if key == "b" and ran.count("b") == 1:
            raise KeyboardInterrupt
        return {"accuracy": 0.5}
    runs = {key: lambda key=key: run(key) for key in "abc"}
    with pytest.raises(KeyboardInterrupt):
        experiments.record(path, runs)
    experiments.record(path, runs)
    assert ran == ["a", "b", "b", "c"] and list(json.load(open(path))) == ["a", "b", "c"]


def test_the_studies_are_listed_and_a_wrong_name_is_refused(monkeypatch, capsys, assert_refused):
    study(monkeypatch)
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [*experiments.STUDIES, "report"]
    assert_refused(["optimizers", "report", "optimisers"], experiments, "optimisers")


@pytest.fixture
def copied_results(bundle):
    """The folder results/ of `bundle`, as copies that a test may change."""
    (bundle / "results").unlink()
    return shutil.copytree(os.path.join(ROOT, "results"), bundle / "results")


@pytest.mark.parametrize("name", experiments.STUDIES)
def test_a_study_that_lacks_a_run_is_not_reported(copied_results, name):
    """Its tables would contradict the prose around them."""
    runs = experiments.results(name)
    runs.popitem()
    (copied_results / f"{name}.json").write_text(json.dumps(runs))
    with pytest.raises(train.UserError, match=f"results/{name}.json lacks runs, which python experiments.py {name} would add"):
        experiments.results(name)


@pytest.mark.parametrize("name, text, words", [
    ("seeds", "{}", "results/seeds.json lacks runs"), ("kills", '{"train.py"', "results/kills.json is damaged")])
def test_a_report_without_results_is_refused(copied_results, assert_refused, name, text, words):
    (copied_results / f"{name}.json").write_text(text)
    assert_refused([words], experiments, "report")


def test_results_of_the_benchmark_that_are_missing(copied_results):
    (copied_results / "benchmark_float32.json").unlink()
    with pytest.raises(train.UserError, match="results/benchmark_float32.json lacks runs, which python tests/benchmark.py would add"):
        experiments.results("benchmark_float32")


def test_intervals_of_a_worked_example():
    values = [0.991, 0.993, 0.995]
    mean, half = experiments.interval(values)
    assert mean == pytest.approx(0.993)
    assert half == pytest.approx(4.303 * statistics.stdev(values) / 3 ** 0.5)
    assert experiments.difference([0.99, 0.98, 0.99], [0.97, 0.96, 0.97])[0].startswith("+2.00")
    assert experiments.difference([0.99, 0.98, 0.99], [0.97, 0.96, 0.97])[1:] == [3, "yes"]
    assert experiments.difference([0.99, 0.11, 0.99], [0.97, 0.98, 0.97])[:2] == ["+2.00 ± 0.00", 2]  # one collapsed
    assert experiments.difference([0.99, 0.97, 0.98], [0.98, 0.98, 0.98])[1:] == [3, "no"]


def test_the_optimizers_start_alike_and_differ(bundle, monkeypatch):
    """Runs of one seed are paired: the same first weights and order of the images, whatever the optimizer."""
    monkeypatch.setattr(experiments, "QUICK", True)
    curves = {(name, lr): experiments.training("mnist", "cnn", 0, 1, name, lr, curve=1)["curve"]
              for name, lr in (("sgd", 1e-12), ("adam", 1e-12), ("sgd", 0.3), ("adam", 0.005))}
    assert curves["sgd", 1e-12] == curves["adam", 1e-12]
    assert curves["sgd", 0.3] != curves["adam", 0.005]
    shown = {"sgd": [], "adam": []}
    for name, pixels_seen in shown.items():
        experiments.training("mnist", "cnn", 0, 1, name, 0.005,
                             augment=lambda pixels, generator: pixels_seen.append(pixels.sum().item()) or pixels)
    assert shown["sgd"] == shown["adam"] and len(shown["sgd"]) == 2


def test_a_training_that_diverges_has_learned_nothing(bundle, monkeypatch):
    monkeypatch.setattr(experiments, "QUICK", True)
    runs = {"sgd seed 0": experiments.training("mnist", "cnn", 0, 1, "sgd", 1e12, curve=1)}
    assert experiments.over_seeds(runs, "sgd") == [0.0] and experiments.learned(runs, "sgd", "curve") == []


# ------------------------------------------------------------------ the benchmark


def test_the_benchmark_compares_in_turns():
    taken = {"ours": iter([1, 2, 4, 2]), "course": iter([1, 1, 1, 1])}  # a warm-up and three rounds, items a second
    result = benchmark.rounds({name: lambda name=name: next(taken[name]) for name in taken}, 3)
    assert result == {"rounds": 3, "per_second": {"ours": 2, "course": 1}, "ours_over": {"course": 2}}


@pytest.mark.parametrize("accuracies, images, reached", [
    ((0.5, 0.895, 0.899, 0.91, 0.902), 19_200, True),     # the second look of 1,000 images calls for all 5,000, as does the third
    ((0.5, 0.6, 0.7, 0.8, 0.895, 0.899), 32_000, False)])  # four times ours
def test_the_benchmark_follows_the_course_to_90_percent_or_four_times_ours(monkeypatch, accuracies, images, reached):
    """With everything that takes hours in its place; the seconds of the course's loop are those of its images."""
    remaining = iter(accuracies)
    monkeypatch.setattr(fashion_mnist, "keep_freed_memory", lambda: None)  # it would be for all tests
    monkeypatch.setattr(benchmark, "whole_run", lambda *_: {"test_accuracy": 0.904, "seconds": 800.0})
    monkeypatch.setattr(benchmark, "resnet_course", lambda size, steps: 10 / benchmark.BATCH)
    monkeypatch.setattr(benchmark.train, "fit", lambda *_, **__: None)
    monkeypatch.setattr(benchmark.train, "accuracy", lambda *_, **__: next(remaining))
    result = benchmark.time_to_90(0)
    assert list(remaining) == []
    assert (result["course"]["looks"][-1]["images"], result["course"]["reached"]) == (images, reached)
    assert result["course"]["seconds"] == images / 10 and result["ours_over"]["course"] == images / 8000


@pytest.mark.parametrize("only, figures", [("loading", ["mnist", "cifar10"]), ("mnist training", ["rounds", "per_second", "ours_over"])])
def test_the_benchmark_runs(monkeypatch, tmp_path, only, figures):
    path = tmp_path / "benchmark.json"
    monkeypatch.setattr(benchmark, "STEPS", 3)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--only", only, "--rounds", "1", "--results", str(path)])
    benchmark.main()
    [measured] = json.loads(path.read_text()).values()
    assert list(measured) == [*figures, "machine"]


def test_the_benchmarks_resnet18_trainings_run(monkeypatch):
    monkeypatch.setattr(fashion_mnist, "keep_freed_memory", lambda: None)  # it would be for all tests
    rates = [benchmark.resnet_ours(40, 1, True, Augment(flip=0.5), False), benchmark.resnet_course(40, 1), benchmark.resnet_ceiling(40, 1, False)]
    assert all(0 < rate < 1000 for rate in rates)


# ------------------------------------------------------------------ the report


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory):
    """The report and its figures, made anew from results/."""
    folder = tmp_path_factory.mktemp("report")
    experiments.report(str(folder / "report.md"), str(folder))
    return folder


def test_the_report_is_what_the_results_give(redrawn):
    assert (redrawn / "report.md").read_text(encoding="utf-8") == open("report.md", encoding="utf-8").read()


def test_the_figures_are_what_the_results_give(redrawn):
    names = sorted(path.name for path in redrawn.glob("*.png"))
    assert names == sorted(set(os.listdir("figures")) - {"predictions.png"})
    for name in names:
        ours, new = (matplotlib.image.imread(path) for path in (f"figures/{name}", redrawn / name))
        assert ours.shape == new.shape, name
        difference = torch.from_numpy(np.abs(ours - new).mean(-1))
        assert difference.mean() < 0.002, name  # another matplotlib may draw an edge otherwise
        assert nn.functional.avg_pool2d(difference[None], 16, ceil_mode=True).max() < 0.015, name  # another digit is more


def test_every_file_that_the_report_names_exists():
    text = open("report.md", encoding="utf-8").read()
    named = set(re.findall(r"\]\(([^)#:]+)\)", text)) | set(re.findall(r"`((?:results|figures|tests)/[\w./]+)`", text))
    assert len(named) > 10
    for path in named:
        assert os.path.exists(path), path
    drawn = {path for path in named if path.startswith("figures/")}
    assert drawn == {f"figures/{name}" for name in os.listdir("figures")} - {"figures/predictions.png"}  # all are shown


def test_figures_are_numbered():
    text = open("report.md", encoding="utf-8").read()
    shown = re.findall(r"^!\[Figure (\d+)\]\(figures/(?!output_)\w+\.png\)\n\n\*Figure (\d+)\. ", text, re.M)
    assert len(shown) > 10 and shown == [(str(n), str(n)) for n in range(1, len(shown) + 1)]
    assert len(shown) == len(re.findall(r"\]\(figures/(?!output_)", text))
    assert {int(n) for n in re.findall(r"\(Figure (\d+)", text)} <= set(range(1, len(shown) + 1))


def test_figures_are_small():
    for name in os.listdir("figures"):
        assert os.path.getsize(f"figures/{name}") < 200_000, name


def test_accuracies_in_the_prose_stand_in_a_table():
    text = open("report.md", encoding="utf-8").read()
    blocks = "\n".join(re.findall(r"<!-- [\w-]+ -->\n(.*?)<!-- end -->", text, re.S))
    prose = re.sub(r"<!-- [\w-]+ -->\n.*?<!-- end -->", "", text, flags=re.S)
    figures = re.findall(r"(\d+\.\d\d?)(?= %| points)", prose)
    assert len(figures) > 10
    others = ("62.34", "57.23", "94.9", "0.4")  # the hand-out's, Zalando's, a standard error
    for figure in figures:
        assert figure in others or re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", blocks), figure


@pytest.mark.skipif(not os.path.exists(os.path.join(ROOT, ".git")), reason="not in a git checkout")
def test_the_hand_in_has_everything_but_the_data():
    done = subprocess.run(["git", "archive", "--format=zip", "HEAD"], capture_output=True, check=True)
    names = set(zipfile.ZipFile(io.BytesIO(done.stdout)).namelist())
    assert {"report.md", "README.md", "requirements.txt", "dataset.py", "model.py", "train.py", "fashion_mnist.py",
            "experiments.py", "model.pth", "fashion_mnist.pth"} <= names
    assert set(re.findall(r"\]\((figures/[^)]+)\)", open("report.md", encoding="utf-8").read())) <= names
    assert not any(name.startswith(("data/", "runs/")) or name.endswith((".pt", "-ubyte", ".npy", ".gz")) for name in names)
