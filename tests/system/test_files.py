"""Files that are written whole or not at all."""

import json
import math
import os

import pytest
import torch

from lightning_ad.cli.messages import explain
from lightning_ad.system.checkpoints import write_whole
from lightning_ad.system.files import replacing, write_json


def write_half(path):
    with replacing(path) as file:
        file.write("sec")
        raise ZeroDivisionError


def test_a_file_stays_until_the_next_is_complete(tmp_path):
    path = tmp_path / "folder/table.csv"
    with replacing(path) as file:
        file.write("first")
    with pytest.raises(ZeroDivisionError):
        write_half(path)
    assert path.read_text() == "first"
    with replacing(path) as file:
        file.write("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]


def test_json_without_numbers_that_it_does_not_know(tmp_path):
    path = tmp_path / "found.json"
    write_json(path, {"a": math.nan, "b": [1.5, math.inf, ("c", -math.inf)], "d": {"e": 2}})
    assert json.loads(path.read_text()) == {"a": None, "b": [1.5, None, ["c", None]], "d": {"e": 2}}


def test_a_file_and_its_name_are_on_the_disk_before_anything_else_is_done(tmp_path, monkeypatch):
    """As a power cut would show: the content first, then the new name, then the folder."""
    done = []
    replace, sync = os.replace, os.fsync

    def noted_sync(descriptor):
        done.append(f"sync {os.readlink(f'/proc/self/fd/{descriptor}')}")
        sync(descriptor)

    def noted_replace(part, path):
        done.append(f"move {path}")
        replace(part, path)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    path = tmp_path / "run/checkpoints/last.ckpt"
    part = path.with_name(f".last.ckpt.{os.getpid()}.part")
    write_whole({"weights": torch.zeros(3)}, path)
    whole = [f"sync {part}", f"move {path}", f"sync {path.parent}"]
    assert done == [f"sync {path.parent.parent}", f"sync {tmp_path}", *whole]
    done.clear()
    write_json(path, {})
    assert done == whole


def write_small(path, content):
    write_whole(content, path)


def write_large(path, content):  # it fails in the middle, and PyTorch raises another error then
    write_whole({**content, "weights": torch.zeros(100_000)}, path)


@pytest.mark.parametrize("write", [write_json, write_small, write_large])
def test_a_full_disk_names_the_file_and_leaves_nothing(write, tmp_path):
    path = tmp_path / "metrics.json"
    path.with_name(f".metrics.json.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as full:
        write(path, {"content": 1})
    assert full.value.filename == str(path)
    assert explain(full.value).startswith(f"{path}: there is no room left on the disk")
    assert list(tmp_path.iterdir()) == []


def test_other_faults_of_what_is_written_keep_their_names(tmp_path):
    with pytest.raises(FileNotFoundError) as missing, replacing(tmp_path / "table.csv"):
        (tmp_path / "image.png").read_bytes()
    assert missing.value.filename == str(tmp_path / "image.png")
