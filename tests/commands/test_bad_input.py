"""What a user can get wrong: one clear message that names the file or key, and an exit code."""

import shutil
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from lightning.pytorch import Trainer
from paths import ROOT
from PIL import Image
from scripts import PATIENCE
from torchvision.models import squeezenet1_1

from lightning_ad.cli.resume import check_same
from lightning_ad.commands.main import main
from lightning_ad.errors import UsageError, WeightsError
from lightning_ad.features.weights import skip_weights
from lightning_ad.methods import DRAEM, PatchCore
from lightning_ad.system.run_folder import RunFolder


@pytest.fixture
def attempt(trees, tmp_path, capfd):
    """Trains on a copy of the MVTec tree after `spoil(base)`; returns the code and the errors."""

    def attempt(*flags, spoil=lambda base: None, method="patchcore"):
        root = shutil.copytree(trees["mvtec"], tmp_path / "data")
        spoil(root / "bottle")
        args = ["--config", f"{ROOT}/configs/{method}.yaml"]
        args += ["--config", f"{ROOT}/configs/data/mvtec.yaml"]
        args += ["--data.root", str(root), "--data.category", "bottle", "--data.image_size", "64"]
        args += ["--data.center_crop", "null", "--data.num_workers", "0"]
        args += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
        if method == "patchcore":
            args += ["--model.backbone", "squeezenet1_1", "--model.weights", "null"]
        code = main(["train", *args, "--output", str(tmp_path / "runs"), *flags])
        finished = list((tmp_path / "runs").rglob("metrics.json"))
        assert not finished
        return code, capfd.readouterr().err

    return attempt


def message_of(text):
    assert "Traceback" not in text
    assert "usage:" not in text
    errors = [line for line in text.splitlines() if "error:" in line]
    assert len(errors) == 1, text
    return text[text.index("error:") :]


@pytest.mark.parametrize(
    ("flags", "expected", "code"),
    [
        (["--data.root", "/no/such/place"], "no data set at /no/such/place", 1),
        (["--data.category", "bottel"], "no category 'bottel'", 2),
        (["--data.layout", "mvtek"], "unknown layout 'mvtek'", 2),
        (
            ["--data.imagesize", "64"],
            "no flag '--data.imagesize', did you mean '--data.image_size'",
            2,
        ),
        (["--bogus"], "no flag '--bogus'; --help lists all", 2),
        (
            ["--model.coreset_ration", "0.1"],
            "no setting 'coreset_ration', did you mean 'coreset_ratio'",
            2,
        ),
        (["--model.coreset_ratio", "much"], "model.coreset_ratio: expected a float, got 'much'", 2),
        (["--model", "Patchcor"], "no class 'Patchcor', did you mean 'PatchCore'", 2),
        (["--data.tile", "big"], "data.tile: expected an int or null, got 'big'", 2),
        (
            ["--select", "first"],
            "select: expected 'last', 'validation_loss' or 'validation_AUROC', got 'first'",
            2,
        ),
        (["--model.backbone", "resnet19"], "unknown backbone 'resnet19'", 2),
        (["--model.layers", "[layer9]"], "no layer 'layer9'", 2),
        (["--model.weights", "/no/weights.pth"], "no file /no/weights.pth", 1),
        (["--trainer.max_epochs", "3"], "trainer.max_epochs must be 1", 2),
        (["--trainer.precision", "16-mixed"], "trainer.precision 16-mixed", 2),
        (["--trainer.accelerator", "gpu", "--trainer.devices", "4096"], "gpu", 2),
        (["--trainer.default_root_dir", "x"], "choose its place with --output", 2),
        (
            ["--trainer.limit_train_batches", "2", "--data.batch_size", "2"],
            "after 4 of 7 training images",
            1,
        ),
        (["--trainer.strategy", "foo"], "invalid strategy name", 2),
        (["--trainer.devices", "-3"], "the trainer cannot be made: `devices`", 2),
        (["--seed_everything", "-1"], "seed_everything must be at least 0", 2),
        (["--config", "/no/config.yaml"], "/no/config.yaml", 2),
        (["--config=/no/config.yaml"], "there is no file /no/config.yaml", 2),
        (["--resume"], "no unfinished run", 2),
        (
            ["--trainer.callbacks+", "Timer", "--trainer.callbacks.duration", "soon"],
            "Timer cannot be made: `Timer(duration='soon')` is not a valid duration",
            2,
        ),
    ],
    ids=lambda v: v[0].strip("-") if isinstance(v, list) else None,
)
def test_wishes_that_cannot_be_met(attempt, tmp_path, flags, expected, code):
    found, text = attempt(*flags)
    assert expected in message_of(text)
    assert found == code
    begun = flags[0] in ("--trainer.max_epochs", "--trainer.limit_train_batches")
    assert len(list(tmp_path.glob("runs/*"))) == begun


YAML = {
    "key": ("data:\n  imagesize: 64\n", "no key 'data.imagesize', did you mean 'data.image_size'"),
    "part": ("modle: 1\n", "no key 'modle', did you mean 'model'"),
    "setting": (
        "model:\n  class_path: PatchCore\n  init_args:\n    coreset_ration: 0.1\n",
        "PatchCore has no setting 'coreset_ration', did you mean 'coreset_ratio'; "
        "--model.help PatchCore lists all",
    ),
    "method": (
        "model:\n  class_path: lightning_ad.methods.PatchCor\n",
        "no class 'PatchCor', did you mean 'PatchCore'",
    ),
    "syntax": ("data: [\n", "wrong.yaml is not YAML"),
    "list": ("- 1\n", "wrong.yaml holds no settings"),
}


@pytest.mark.parametrize("name", YAML)
def test_a_wrong_config(attempt, tmp_path, name):
    text, expected = YAML[name]
    (tmp_path / "wrong.yaml").write_text(text)
    code, text_of_error = attempt("--config", str(tmp_path / "wrong.yaml"))
    assert expected in message_of(text_of_error)
    assert code == 2
    assert not (tmp_path / "runs").exists()


CALLBACKS = "--trainer.callbacks+ lightning_ad.callbacks."
LEARNED = {
    "--model.lr_scheduler StepLR": (
        "model.lr_scheduler: StepLR needs step_size (--model.lr_scheduler.step_size)"
    ),
    "--model.optimizer AdamW --model.optimizer.lrr 1": (
        "AdamW has no setting 'lrr', did you mean 'lr'"
    ),
    "--model.optimizer AdamW --model.optimizer.lr x": (
        "model.optimizer.lr: expected a float or Tensor, got 'x'"
    ),
    f"{CALLBACKS}StepsAveraging --trainer.callbacks.decai 1": (
        "StepsAveraging has no setting 'decai', did you mean 'decay'"
    ),
    f"{CALLBACKS}LastEpochsAveraging --trainer.callbacks.epochs x": (
        "trainer.callbacks.epochs: expected an int, got 'x'"
    ),
}


@pytest.mark.parametrize("flags", LEARNED)
def test_wrong_settings_of_parts(attempt, flags):
    code, text = attempt(*flags.split(), method="draem")
    assert LEARNED[flags] in message_of(text)
    assert code == 2


def test_extending_what_is_no_run(capfd):
    assert main(["train", "--extend=/no/run"]) == 2
    assert "there is no run in /no/run" in message_of(capfd.readouterr().err)


def test_missing_textures(attempt):
    code, text = attempt("--data.textures", "/no/textures", method="draem")
    assert "no image below /no/textures (data.textures)" in message_of(text)
    assert code == 1


def test_image_size_that_does_not_fit(attempt, tmp_path):
    code, text = attempt("--data.image_size", "70", method="draem")
    assert "multiples of 32" in message_of(text)
    assert code == 2
    assert not (tmp_path / "runs").exists()


def empty(base):
    shutil.rmtree(base / "train/good")
    (base / "train/good").mkdir()


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


SPOILT = {
    "empty training folder": (empty, "no training image"),
    "unreadable training image": (lambda b: cut(b / "train/good/003.png"), "train/good/003.png"),
    "unreadable test image": (lambda b: cut(b / "test/broken/001.png"), "test/broken/001.png"),
    "missing mask": (lambda b: (b / "ground_truth/broken/002_mask.png").unlink(), "002_mask.png"),
    "mask of another size": (
        lambda b: Image.new("L", (9, 9), 255).save(b / "ground_truth/broken/000_mask.png"),
        "000_mask.png is 9x9 px, its image 48x40 px",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_spoilt_data(attempt, name, workers):
    spoil, expected = SPOILT[name]
    code, text = attempt("--data.num_workers", workers, spoil=spoil)
    assert expected in message_of(text)
    assert code == 1


def test_weights_of_another_network(attempt, tmp_path):
    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "squeeze.pth")
    code, text = attempt(
        "--model.backbone", "resnet18", "--model.weights", str(tmp_path / "squeeze.pth")
    )
    assert "squeeze.pth do not fit resnet18" in message_of(text)
    assert code == 1


def test_a_checkpoint_of_another_method(tmp_path):
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, max_epochs=1)
    trainer.strategy.connect(DRAEM(8, 8))
    trainer.save_checkpoint(tmp_path / "draem.ckpt")
    with (
        skip_weights(),
        pytest.raises(WeightsError, match="a checkpoint of DRAEM, not of PatchCore"),
    ):
        PatchCore.load_from_checkpoint(tmp_path / "draem.ckpt", weights_only=True)


def test_resuming_a_run_of_other_settings(attempt, tmp_path):
    version = tmp_path / "runs/mine/version_0"
    version.mkdir(parents=True)
    (version / "config.yaml").write_text("model:\n  class_path: lightning_ad.methods.DRAEM\n")
    code, text = attempt("--name", "mine", "--resume")
    assert "was begun with model.class_path lightning_ad.methods.DRAEM" in message_of(text)
    assert code == 2


@pytest.mark.parametrize(
    ("begun", "now", "same"), [("1.0", "1", False), ("1.0", "1.0", True), ("2.0", "2", True)]
)
def test_resuming_does_not_take_one_batch_for_all(tmp_path, begun, now, same):
    folder = RunFolder(tmp_path)
    folder.config.write_text(f"trainer:\n  limit_train_batches: {begun}\n")
    with (
        nullcontext()
        if same
        else pytest.raises(UsageError, match=r"begun with trainer\.limit_train_batches 1\.0")
    ):
        check_same(folder, f"trainer:\n  limit_train_batches: {now}\n")


def test_resuming_takes_one_folder_for_one_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / "link").symlink_to("new")
    (tmp_path / "old").mkdir()
    folder = RunFolder(tmp_path)
    folder.config.write_text("data:\n  train_folder: new\n")
    for spelled in ("./new", tmp_path / "new", "link", "old/../new"):
        check_same(folder, f"data:\n  train_folder: {spelled}\n")
    with pytest.raises(UsageError, match=r"begun with data\.train_folder new, now it is old"):
        check_same(folder, "data:\n  train_folder: old\n")


def complain(capfd, *words):
    code = main(["evaluate", *map(str, words)])
    return code, message_of(capfd.readouterr().err)


def test_evaluation_of_what_is_no_run(tmp_path, capfd):
    code, message = complain(capfd, tmp_path / "nothing")
    assert code == 2
    assert "no run in" in message
    (tmp_path / "half/version_0").mkdir(parents=True)
    assert "only unfinished runs" in complain(capfd, tmp_path / "half")[1]
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert "not a checkpoint of lightning_ad" in complain(capfd, tmp_path / "other.ckpt")[1]
    (tmp_path / "text.ckpt").write_text("nonsense")
    assert "cannot read" in complain(capfd, tmp_path / "text.ckpt")[1]
    assert "the checkpoint decides" in complain(capfd, tmp_path, "--model.sigma", "2")[1]


def test_the_script_ends_with_the_code(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "--model", "PatchCore"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
    assert result.returncode == 2
    assert "--model without --config" in message_of(result.stderr)
