"""A run does not end because nobody reads what it prints, and writes that into no other file."""

import errno
import io
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from paths import ROOT

from lightning_ad.system.streams import UnbrokenStream, unbroken_streams

WITHOUT_STREAMS = """
import sys
from lightning_ad.system.streams import open_missing_streams
open_missing_streams()
print("out")
print("error", file=sys.stderr)
with open(sys.argv[1], "w") as file:
    print(file.fileno() > 2, sys.stderr.isatty(), file=file)
"""


def test_streams_that_were_closed_at_the_start_do_not_become_files(tmp_path):
    command = f'exec "{sys.executable}" -c "$0" "$1" <&- >&- 2>&-'
    words = ["sh", "-c", command, WITHOUT_STREAMS, str(tmp_path / "found")]
    subprocess.run(words, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (tmp_path / "found").read_text() == "True False\n"


def test_a_reader_that_has_gone_is_not_missed():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        stream = UnbrokenStream(pipe)
        for _ in range(3):
            print("x" * 100_000, file=stream, flush=True)
        assert not stream.isatty()


def test_a_log_on_a_full_disk_is_not_missed():
    with io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True) as log:
        print("x" * 100_000, file=UnbrokenStream(log), flush=True)


def test_another_error_of_a_stream_is_raised():
    def refuse(text):
        raise OSError(errno.EBADF, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file"):
        print("x", file=UnbrokenStream(SimpleNamespace(write=refuse)))


def test_the_streams_are_given_back(capsys):
    before = (sys.stdout, sys.stderr)
    with unbroken_streams():
        print("out")
        print("error", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("out\n", "error\n")
