"""YAML that is none, or stands for more than it looks like, is refused before it is built."""

from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_ad.system.yaml_text import MOST_VALUES, NotYamlError, load_yaml

BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
REFUSED = {
    BOMB: f"more than {MOST_VALUES} values",
    "a: &a [*a]": "stands within what it names",
    "a: &a 1\nb: &a [*a]": "stands within what it names",
    "a: &a " + "x" * 200_000 + "\nb: [" + "*a, " * 20 + "]": "more than",
    "[" * 60 + "]" * 60: "more than 50 lists and mappings",
    "[" * 9000: "depth",
    "# " + "x" * 400_000: "400002 characters",
    "a: !!int ''": "index out of range",
    "a: !!timestamp x": "groupdict",
    "a: 2026-99-99": "month",
    "a: !!python/object:os.system {}": "could not determine a constructor",
    "a: " + "9" * 6000: "limit",
    "a: \0": "control characters",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20].strip("\0"))
def test_it_is_refused_in_a_sentence(text):
    with pytest.raises(NotYamlError, match=REFUSED[text]) as raised:
        load_yaml(text)
    assert "\n" not in str(raised.value)


def test_aliases_and_odd_names_are_read():
    assert load_yaml("a: &a [1]\nb: *a\nc: {<<: {x: 1}, y: 2}") == {
        "a": [1],
        "b": [1],
        "c": {"x": 1, "y": 2},
    }
    name = {"root": "x\udcff"}
    assert load_yaml(yaml.safe_dump(name)) == name


VALUES = st.dictionaries(st.text(max_size=9), st.text(max_size=9) | st.integers(), max_size=3)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(VALUES)
def test_what_was_written_is_read(value):
    assert load_yaml(yaml.safe_dump(value)) == value


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text("ab01:-[]{}&*!|>?%@'\"#, \n\t\0\udcff\ufeff", max_size=40))
def test_any_text_is_read_or_refused(text):
    with suppress(NotYamlError):
        load_yaml(text)
