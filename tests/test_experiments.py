"""experiments.py: its studies at small scale, its statistics; the report is what results/ give.
kills.py: trainings are killed, resumed and compared."""

import os
import re
import sys
from functools import partial
from pathlib import Path

import matplotlib.image
import pytest
import torch

import experiments
import kills
import train
from dataset import ImageDataset
from support import UserError

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path.read_text("utf-8") for path in ROOT.glob("*.md")}
FIGURES = set(os.listdir(ROOT / "figures"))
TRAINING = """  # the files of a training, in no time
import json, os, sys, time
assert ("--resume" in sys.argv) == os.path.exists("runs/a/checkpoint.pt")
os.makedirs("runs/a", exist_ok=True)
os.chdir("runs/a")
open("settings.json", "w"), open("../../model.pth", "w")
losses = json.load(open("checkpoint.pt")) if os.path.exists("checkpoint.pt") else []
while len(losses) < 10:
    losses.append(LOSS)
    json.dump(losses, open(f"{os.getpid()}.tmp", "w"))
    time.sleep(0.05)
    os.replace(f"{os.getpid()}.tmp", "checkpoint.pt")
json.dump({"losses": losses, "reports": [{"seconds": time.time()}]}, open("history.json", "w"))
"""


@pytest.mark.parametrize("name", experiments.STUDIES)
def test_each_study_is_listed_and_runs_at_small_scale(name, call, monkeypatch):
    def load(root, preprocess):
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        return [ImageDataset(preprocess(images), torch.arange(2), "0123456789")] * 2
    monkeypatch.setattr(train, "DATASETS", dict.fromkeys(train.DATASETS, load))
    monkeypatch.setattr(train, "hold_out", lambda trainset, count: (trainset, trainset))
    assert re.search(f"^{name} ", call(experiments)[1], re.M)
    runs = list(experiments.STUDIES[name].runs.values())
    if runs[-1].func in (experiments.training, experiments.examine) and "length" not in name:
        assert {"accuracy", "confusion"} & runs[-1]().keys()
    for run in runs:  # these take minutes: only their options
        if run.func is experiments.script and "--save" in str(run.args):
            monkeypatch.setattr(sys, "argv", list(run.args))
            sys.modules[run.args[0].removesuffix(".py")].parse_arguments()


def test_a_script_is_run_as_a_user_does(folder, monkeypatch):
    monkeypatch.chdir(folder)
    run = experiments.script(train.__file__, "--train-images=9", "--validation=9", "--epochs=1")
    assert 0 <= run["accuracy"] < 1 and run["seconds"] > 0 and run["reports"][0][0] == 1
    with pytest.raises(UserError, match="-c raise SystemExit.* failed: why"):
        experiments.script("-c", "raise SystemExit('why')")


@pytest.mark.parametrize("loss, alike", [("len(losses)", 1), ("time.time()", 0)])
def test_trainings_are_killed_resumed_and_compared(tmp_path, monkeypatch, loss, alike):
    monkeypatch.chdir(tmp_path)
    Path("training.py").write_text(TRAINING.replace("LOSS", loss))
    result = kills.killed(2, "training.py")
    assert result["kills"] == 2 and result["while_writing"] in (1, 2)
    assert result["as_never_killed"] == alike * result["trainings"]


def test_a_stopped_study_goes_on_and_a_recorded_run_is_not_done_again(call, tmp_path, monkeypatch):
    def run(key):
        ran.append(key)
        if ran == ["a", "b"]:
            raise KeyboardInterrupt
        return {"accuracy": 0.5}
    ran, runs = [], {key: partial(run, key) for key in "abc"}
    monkeypatch.setitem(experiments.STUDIES, "study", experiments.Study("", runs, None))
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt) as stopped:
        experiments.record("study")
    assert stopped.value.saved == "1 of 3 runs are recorded: the same command goes on"
    assert call(experiments, "study")[0] == 0 and call(experiments, "study") == (0, "", "")
    assert ran == ["a", "b", "b", "c"] and list(experiments.results("study")) == ["a", "b", "c"]


@pytest.mark.parametrize("study, recorded, words", [
    ("optimisers", "{}", ["optimizers", "report", "'optimisers'"]),
    ("report", "{}", ["results/recipe.json lacks runs: run python experiments.py recipe"]),
    ("report", "{", ["results/recipe.json is damaged"])])
def test_a_wrong_name_and_results_that_lack_a_run(refused, tmp_path, study, recorded, words):
    os.mkdir(tmp_path / "results")
    (tmp_path / "results/recipe.json").write_text(recorded)
    refused(words, experiments, study)


def test_statistics_of_a_worked_example():
    assert experiments.interval([1, 2, 3]) == pytest.approx((2, 4.303 / 3 ** 0.5))
    runs = {f"a seed {seed}": {"accuracy": value} for seed, value in enumerate((0.99, 0.11, 0.97))}
    assert experiments.over_seeds(runs, "a") == {0: 99, 2: 97}  # one collapsed
    assert experiments.difference({0: 1, 2: 2, 3: 4}, {0: 2, 1: 9, 2: 2, 3: 2}) == "+0.33 ± 3.79"
    assert experiments.difference({0: 3, 1: 4, 2: 5}, {0: 1, 1: 2, 2: 3}) == "+2.00 ± 0.00 *"
    assert experiments.difference({0: 3, 1: 4}, {0: 1, 1: 2}) == "+2.00"  # too few for an interval
    assert experiments.difference({0: 3}, {}) == ""


def test_the_report_is_what_results_and_network_give(tmp_path, monkeypatch):
    for name in ("data", "results", *PAGES):
        os.symlink(ROOT / name, tmp_path / name)
    (tmp_path / "figures").mkdir()
    monkeypatch.chdir(tmp_path)
    experiments.report()
    assert {name: Path(name).read_text("utf-8") for name in PAGES} == PAGES
    assert {*os.listdir("figures"), "predictions.png", "photo.png"} == FIGURES
    for name in os.listdir("figures"):
        old, new = (matplotlib.image.imread(root / "figures" / name) for root in (ROOT, tmp_path))
        change = torch.from_numpy(old - new).abs().mean(-1)[None]
        assert torch.nn.functional.avg_pool2d(change, 16, ceil_mode=True).max() < 0.015, name


def test_every_file_that_is_named_exists_and_every_figure_is_used():
    pairs = re.findall(r"\]\(([^)#:]+)\)|`(results/[a-z]\w+.json)`", str(PAGES))
    named = {"".join(pair) for pair in pairs}
    assert {f"figures/{name}" for name in FIGURES} <= named
    assert all((ROOT / name).exists() for name in named)
    results = {*experiments.STUDIES, "benchmark", "benchmark_float32", "kills", "photos"}
    assert results == {path.stem for path in (ROOT / "results").iterdir()}
