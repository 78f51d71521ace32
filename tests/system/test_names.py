"""Names of data and checkpoints: what becomes of them where they are written."""

import os

import pytest

from lightning_ad.system.names import file_name, file_names, printable, same_letters, stays_below

PLAIN = ["dent", "Kratzer tief", "Größe", "a.b", "50%", "=1", "it's", "x" * 100, "ü" * 50]
HOSTILE = [
    "",
    ".",
    "..",
    ".hidden",
    "/etc/passwd",
    "../../up",
    "a/b",
    "a\nb",
    "\x1b]0;owned\a",
    "nul\0",
    "a::b",
    "\udccf\udcdd",
    "x" * 101,
    "ü" * 51,
]


@pytest.mark.parametrize("name", PLAIN)
def test_a_name_that_can_be_a_file_stays(name):
    assert file_name(name) == name


@pytest.mark.parametrize("name", HOSTILE)
def test_any_other_becomes_one(name, tmp_path):
    made = file_name(name)
    assert made != name
    assert file_name(name) == made
    assert made == printable(made)
    assert len(os.fsencode(made)) <= 109
    (tmp_path / made).touch()
    assert [path.name for path in tmp_path.iterdir()] == [made]


def test_two_names_stay_two():
    assert len({file_name(name) for name in [*PLAIN, *HOSTILE]}) == len(PLAIN) + len(HOSTILE)
    assert file_name("a/b") != file_name("a\nb")


@pytest.mark.parametrize("name", ["x", "mine/x", "x..y", "..x"])
def test_a_name_below(name):
    assert stays_below(name)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "x/../../y", "/x"])
def test_a_name_that_leads_out(name):
    assert not stays_below(name)


def test_a_letter_and_its_accent_are_one():
    assert same_letters("Gro\u0308\u00dfe") == "Gr\u00f6\u00dfe"


def test_a_terminal_shows_what_it_would_obey():
    assert printable("a\x1b]0;owned\a\rb\u202ec") == r"a\x1b]0;owned\x07\x0db\u202ec"
    assert printable("\udccf\udcdd.png") == r"\xcf\xdd.png"
    assert printable("two\nlines\tof Größe") == "two\nlines\tof Größe"


def test_names_that_a_disk_may_take_for_one_are_told_apart():
    names = ["dent", "Dent", "\u00e9", "e\u0301", "a/b", "straße", "STRASSE", "other"]
    made = file_names(names)
    assert made[0] == "dent"
    assert made[-1] == "other"
    assert len({same_letters(name).casefold() for name in made}) == len(names)
