"""What a path of a user means."""

import os
from pathlib import Path

import pytest

from lightning_ad.system.paths import is_inside, places_of, user_path, with_homes


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")


def test_a_home_is_written_out():
    root = os.path.expanduser("~root")
    settings = {
        "root": "~/d",
        "paths": ["~root/x", Path("~/y"), "~"],
        "names": ["~", 3, None, "a~/b", "~nobody-of-this-name/x", "~tilde"],
    }
    assert with_homes(settings) == {
        "root": "/home/anna/d",
        "paths": [f"{root}/x", Path("/home/anna/y"), "/home/anna"],
        "names": ["/home/anna", 3, None, "a~/b", "~nobody-of-this-name/x", "~tilde"],
    }
    assert user_path("~/x") == user_path(Path("~/x")) == Path("/home/anna/x")


def spellings(folder):
    """Ways to write a path `new` in the working folder, which holds a link to it."""
    return ["new", "./new", f"{folder}/new", "other/../new", "link", f"{folder}/link", "new/."]


def test_one_place_in_all_spellings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("new", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("new")
    places = places_of(f"{spelled}/a.png" for spelled in spellings(tmp_path))
    assert {*places} == {f"{os.path.realpath(tmp_path)}/new/a.png"}
    assert places_of(["other/a.png"]) != places[:1]


def test_inside_as_it_is_spelled_or_as_links_lead(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to("root")
    (tmp_path / "root/out").symlink_to(tmp_path)
    root = tmp_path / "root"
    for path in (root / "a", tmp_path / "link/a", root / "out/a", root / "x/../a"):
        assert is_inside(path, root)
    for path in (tmp_path / "a", root / "../a", "/", tmp_path / "rooted"):
        assert not is_inside(path, root)
