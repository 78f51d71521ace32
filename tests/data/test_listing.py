"""What is an image in a folder, and what is passed over: one rule for all who list images."""

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from lightning_ad.data.datamodule import AnomalyDataModule
from lightning_ad.data.ignoring import with_ignored
from lightning_ad.data.layouts import find_samples
from lightning_ad.data.listing import folders_below, images, noting_passed_over, subfolders
from lightning_ad.data.reading import is_blank, read_image, verify
from lightning_ad.data.sample import Sample
from lightning_ad.data.textures import TextureFolder
from lightning_ad.errors import DataError

HIDDEN = [".ipynb_checkpoints/a-checkpoint.png", "@eaDir/a.png/thumb.png", "__MACOSX/._a.png"]
PASSED_OVER = 6  # three hidden folders, a hidden image, a pipe, a folder called like an image


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def littered(folder):
    """A folder of three images, one in a folder that is linked to, with all that is passed over."""
    draw(folder / "a.png")
    draw(folder / "deep/b.png")
    draw(folder.parent / "elsewhere/c.png")
    (folder / "linked").symlink_to(folder.parent / "elsewhere")
    (folder / "again").symlink_to(folder / "deep")
    (folder / "deep/back").symlink_to(folder)  # a circle
    for name in (*HIDDEN, "._a.png"):
        draw(folder / name)
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "Thumbs.db").touch()
    return ["a.png", "deep/b.png", "linked/c.png"]


def names(folder, paths):
    return [str(Path(path).relative_to(folder)) for path in paths]


def test_images_of_all_folders(tmp_path):
    folder = tmp_path / "good"
    expected = littered(folder)
    with noting_passed_over() as passed:
        assert names(folder, images(folder, recursive=True)) == expected
    assert len(passed.hidden) + len(passed.no_files) == PASSED_OVER
    assert names(folder, images(folder)) == ["a.png"]
    assert names(folder, subfolders(folder)) == ["again", "deep", "folder.png", "linked"]
    assert names(folder, folders_below(folder)) == [".", "deep", "folder.png", "linked"]


def test_a_link_to_nowhere_is_an_image_that_is_missing(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert images(tmp_path) == [tmp_path / "a.png"]
    with pytest.raises(DataError, match=r"a\.png is not there"):
        verify(str(tmp_path / "a.png"))


def test_all_who_list_images_keep_the_rule(tmp_path, monkeypatch):
    expected = littered(tmp_path / "good")
    notes = []
    monkeypatch.setattr("lightning_ad.data.listing.rank_zero_info", notes.append)
    with noting_passed_over(silent=True):
        find_samples("folder", tmp_path, None, {"bad": None})
    assert not notes
    samples = find_samples("folder", tmp_path, None, {"bad": None})
    (note,) = notes
    assert "4 hidden or of the system" in note
    assert ", and 2 called like images" in note
    found = sorted(sample.path for sample in samples)
    assert names(tmp_path / "good", found) == expected
    assert len(TextureFolder(str(tmp_path / "good")).paths) == 3
    data = AnomalyDataModule("folder", str(tmp_path), layout_options={"bad": None})
    assert len(data._find_in_folder(tmp_path / "good")) == 3
    ignored = with_ignored(samples, tmp_path / "good", str(tmp_path / "good"), None)
    assert all(sample.ignore_path == sample.path for sample in ignored)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_a_table_names_and_is_no_file_is_refused(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(path)
    else:
        path = "/dev/zero"
    for read in (verify, read_image):
        with pytest.raises(DataError, match="is a pipe, a socket or a device"):
            read(path)
    assert is_blank(path) is None


def test_masks_in_a_folder_keep_the_rule(tmp_path):
    for name in ("000.png", "._000.png"):
        draw(tmp_path / name)
    os.mkfifo(tmp_path / "001.png")
    sample = Sample("a.png", "test", "dent", str(tmp_path))
    assert names(tmp_path, images(Path(sample.mask_path))) == ["000.png"]
