"""Each fault of docs/faults.md, planted: what the user sees, and what stays usable."""

import re
import shutil
import sys
from multiprocessing import resource_sharer
from pathlib import Path

import pytest
import torch
from jsonargparse import _common
from PIL import Image
from runs import ROOT, assert_same_weights, flags, metrics_of, script
from small import RESUMABLE

from lightning_ad.cli.messages import explain, run
from lightning_ad.commands.evaluate import evaluate
from lightning_ad.commands.train import train
from lightning_ad.features.weights import read_state
from lightning_ad.system.checkpoints import write_whole

KEPT = "What was saved before is whole: --resume goes on from it"


@pytest.fixture
def attempt(capfd):
    """Runs a command; the exit code, and the error that the user sees."""

    def attempt(command, args):
        code = run(lambda: command(args))
        return code, capfd.readouterr().err.rpartition("error: ")[2].strip()

    return attempt


def plant(fault, **more):
    names = {"fault": fault, **more}
    settings = (
        part
        for name, value in names.items()
        for part in (f"--trainer.callbacks.{name}", str(value))
    )
    return ["--trainer.callbacks+", "faults.PlantFault", *settings]


FAULTS = {  # method, what is planted, what is seen
    "full disk": (
        "DRAEM",
        {"fault": "full_disk", "step": 4},
        r"last\.ckpt: there is no room left on the disk",
    ),
    "main memory": (
        "DRAEM",
        {"fault": "memory", "step": 4},
        "the main memory is full: lower data.batch_size",
    ),
    "GPU memory": (
        "DRAEM",
        {"fault": "gpu", "step": 4},
        "the GPU's memory is full: lower data.batch_size",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_out_of_room(attempt, trees, tmp_path, name):
    method, planted, seen = FAULTS[name]
    args = flags(method, "mvtec", trees, tmp_path)
    code, message = attempt(train, [*args, *plant(**planted)])
    assert code == 1
    assert re.search(seen, message), message
    assert message.endswith(KEPT)
    assert read_state(next(tmp_path.rglob("last.ckpt")))["epoch"] == 0  # that of the first epoch
    for link in tmp_path.rglob(".*.part"):
        link.unlink()  # there is room again
    resumed = train([*args, "--resume"]).path
    assert_same_weights(resumed, train([*args, "--name", "whole"]).path)


def test_a_worker_that_dies(attempt, trees, tmp_path):
    args = [
        *flags("DRAEM", "mvtec", trees, tmp_path),
        "--data.num_workers",
        "1",
        "--data.batch_size",
        "1",
    ]
    code, message = attempt(train, [*args, *plant("dead_worker", step=8)])
    assert code == 1
    assert re.search("a worker that reads images has died.*Lower data.num_workers", message), (
        message
    )
    train([*args, "--resume"])


def test_a_worker_that_dies_while_its_batch_is_on_the_way(tmp_path):
    with pytest.raises(OSError, match="No such file") as lost:
        resource_sharer._resource_sharer.get_connection((str(tmp_path / "gone"), 0))
    assert explain(lost.value).startswith("a worker that reads images has died (FileNotFoundError)")
    assert explain(FileNotFoundError("another")) is None


def test_data_that_vanish(attempt, trees, tmp_path):
    root = shutil.copytree(trees["mvtec"], tmp_path / "data")
    args = flags("CFA", "mvtec", {"mvtec": root}, tmp_path / "runs")
    code, message = attempt(train, [*args, *plant("no_data", step=3, folder=root)])
    assert code == 1
    assert re.fullmatch(r"the image .*data/bottle/\S+\.png is not there.*", message, re.DOTALL), (
        message
    )
    shutil.move(f"{root}-gone", root)
    train([*args, "--resume"])


def test_a_folder_that_cannot_be_written(attempt, trees, tmp_path):
    (tmp_path / "file").touch()
    code, message = attempt(train, flags("PaDiM", "mvtec", trees, tmp_path / "file"))
    assert code == 2
    assert re.search(
        r"cannot make the run folder .*file.*; choose another output folder", message
    ), message


@pytest.mark.distributed
@pytest.mark.parametrize(("rank", "fault"), [(1, "dead"), (0, "dead"), (1, "error")])
def test_one_process_that_dies_ends_all(trees, tmp_path, rank, fault):
    args = [*flags("DRAEM", "mvtec", {"mvtec": trees["even"]}, tmp_path), "--trainer.devices", "2"]
    args += ["--trainer.max_epochs", "1000", *plant(fault, step=3, rank=rank)]
    ended = script("train.py", args)  # which fails if a process waits for ever
    assert ended.returncode != 0
    seen = {
        "dead": "another process of this run has ended|terminated with code -9",
        "error": "something of its own",
    }
    assert re.search(seen[fault], ended.stderr), ended.stderr[-2000:]


def test_a_checkpoint_with_code_in_it(attempt, tmp_path):
    class Code:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"state_dict": {}, "extra": Code()}, tmp_path / "bad.ckpt")
    code, message = attempt(evaluate, [str(tmp_path / "bad.ckpt")])
    assert code == 1
    assert "holds more than tensors and plain data" in message
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_which_a_bit_has_changed(attempt, tmp_path):
    path = tmp_path / "last.ckpt"
    write_whole({"state_dict": {"weight": torch.rand(1000)}}, path)
    data = bytearray(path.read_bytes())
    place = data.find(torch.load(path)["state_dict"]["weight"].numpy().tobytes())
    data[place + 2000] ^= 1
    path.write_bytes(data)
    assert torch.load(path)  # which does not see it
    code, message = attempt(evaluate, [str(path)])
    assert code == 1
    assert re.search(r"last\.ckpt is damaged: the checksum of its part \S+ is wrong", message), (
        message
    )


YAML = {  # ways to name code
    "callback": "trainer: {callbacks: [{class_path: stranger.Code}]}",
    "model": "model: stranger.Code",
    "optimizer": "model: {class_path: lightning_ad.methods.DRAEM, "
    "init_args: {optimizer: stranger.Code}}",
    "text": """model: '{"class_path": "stranger.Code"}'""",
    "file": "model: ./other.yaml",
    "dotted": "model.class_path: stranger.Code",
    "callable": "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.LambdaCallback, "
    "init_args: {on_fit_start: stranger.Code}}]}",
    "strategy": "trainer: {strategy: {class_path: lightning.pytorch.strategies.DDPStrategy, "
    "init_args: {checkpoint_io: stranger.Code}}}",
    "attribute": "trainer: {callbacks: [{class_path: lightning.pytorch.cli.os.system}]}",
}


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A module that leaves a trace where it is imported."""
    (tmp_path / "stranger.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Code: pass\n"
    )
    (tmp_path / "other.yaml").write_text("class_path: stranger.Code")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(_common.parsing_settings, "import_path_verdicts", {})
    yield tmp_path / "ran"
    sys.modules.pop("stranger", None)


@pytest.mark.parametrize("where", YAML)
def test_a_config_that_names_code(attempt, stranger, trees, tmp_path, where):
    (tmp_path / "config.yaml").write_text(YAML[where])
    args = [*flags("DRAEM", "mvtec", trees, tmp_path), "--config", str(tmp_path / "config.yaml")]
    code, message = attempt(train, args)
    assert code == 2
    assert not stranger.exists()
    if where != "attribute":
        assert re.search(
            r"names stranger\.Code, which is not of .* add --trust stranger", message
        ), message


def test_code_that_is_trusted(attempt, stranger, trees, tmp_path):
    (tmp_path / "config.yaml").write_text(YAML["callback"])
    args = [*flags("DRAEM", "mvtec", trees, tmp_path), "--config", str(tmp_path / "config.yaml")]
    attempt(train, [*args, "--trust", "other,stranger"])  # it is no callback, but now it is asked
    assert stranger.exists()


def test_an_image_that_is_far_too_large(attempt, trees, tmp_path):
    root = shutil.copytree(trees["mvtec"], tmp_path / "data")
    bomb = next((root / "bottle/train/good").glob("*.png"))
    Image.new("1", (20_000, 20_000)).save(bomb)
    assert bomb.stat().st_size < 100_000  # and 1.2 GB as RGB
    args = flags("PaDiM", "mvtec", {"mvtec": root}, tmp_path / "runs")
    code, message = attempt(train, args)
    assert code == 1
    assert re.search(r"has 20000 x 20000 px, 400 megapixels; more than 200 are refused", message), (
        message
    )
    Image.new("RGB", (60, 60)).save(bomb)
    code, message = attempt(train, [*args, "--data.max_megapixels", "0.003"])
    assert re.search(
        r"60 x 60 px, 0.0036 megapixels; more than 0.003 are refused.*max_megapixels", message
    )
    train([*args, "--data.max_megapixels", "0.0036"])


def test_every_fault_of_the_table_is_planted():
    table = (ROOT / "docs/faults.md").read_text()
    named = re.findall(r"`(?:tests/)?([\w/]+\.py)::(\w+)`", table)
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), test


@pytest.mark.parametrize("method", RESUMABLE)
def test_a_fit_that_is_killed_goes_on(method, trees, tmp_path):
    small = [*flags(method, "mvtec", trees, tmp_path), "--data.batch_size", "1"]
    small += ["--progress_minutes", "0"]
    kill = ["--trainer.callbacks+", "faults.KillAt", "--trainer.callbacks.batch", "6"]
    killed = script("train.py", [*small, *kill])
    assert killed.returncode == -9, killed.stderr
    progress = list(Path(tmp_path).rglob("progress/0-of-1/images-*.ckpt"))
    assert progress
    again = script("train.py", [*small, "--resume"])
    assert (
        "training images were read before; the fit goes on with the others"
        in again.stderr + again.stdout
    )
    folder = next(tmp_path.glob("*/version_0"))
    whole = train([*small, "--name", "whole"]).path
    assert_same_weights(folder, whole)
    assert metrics_of(folder) == metrics_of(whole)
    assert not list(folder.rglob("progress"))
