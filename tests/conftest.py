"""What all tests share: small trees with the real names, the real data if present, no network."""

import multiprocessing
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from paths import ROOT
from quick import make_small_runs_quick
from scripts import PATIENCE, ServedTraining, script_server
from trees import layout_tests, mvtec_tree

SHARED = Path(os.environ.get("LIGHTNING_AD_SHARED", ROOT.parent / "shared"))


def pytest_collection_modifyitems(items):
    reason = f"needs the real images and weights in {SHARED} (set LIGHTNING_AD_SHARED)"
    for item in items:
        if item.get_closest_marker("real") and not (SHARED / "data" / "mtd").is_dir():
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish(session):
    grouped = getattr(session.config.option, "loadgroup", False)  # in a worker of pytest-xdist
    lost = [
        i.nodeid
        for i in session.items
        if i.get_closest_marker("xdist_group") and "@" not in i.nodeid
    ]
    # with pytest 9, pytest-xdist 3.8 deals them out one by one, and says nothing
    assert not (grouped and lost), f"tests of one group are not kept together: {lost[0]}"
    make_small_runs_quick()


@pytest.fixture(scope="session")
def shared():
    return SHARED


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"a test may not use the network ({address})")
        return connect(self, address)

    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def interruptible():
    """Restores Python's own handler for Ctrl+C.

    It is ignored if the tests run in the background, and Lightning ignores it after the first.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def one_thread():
    """Limits torch to one thread, as a process of `script`: their number decides the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def served_training(monkeypatch):
    """Starts the runs of a series or a benchmark by the script server, as `script` does."""

    def start(flags, more=None, stdout=None, **_):
        output = stdout.name if stdout else os.devnull
        return ServedTraining(script_server(), flags, output, more or {})

    # By name: Lightning, if imported before pytest handles the log, would keep its messages from
    # `caplog`.
    for module in ("commands.series", "commands.benchmark.running"):
        monkeypatch.setattr(f"lightning_ad.{module}.start_training", start)


@pytest.fixture
def over_processes(tmp_path):
    """Calls `work(rank)` in each of `world` processes of one gloo group; returns their results.

    They are forked: to import torch again would take longer than most of the tests.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    fork = multiprocessing.get_context("fork")

    def process(work, rank, world):
        torch.set_num_threads(1)  # a forked child must not wait for the parent's OpenMP threads
        dist.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/store", rank=rank, world_size=world
        )
        torch.save(work(rank), tmp_path / f"{rank}.pt")
        dist.barrier()  # if one leaves while another still talks to it, the other is aborted
        dist.destroy_process_group()

    def run(world, work):
        children = [
            fork.Process(target=process, args=(work, rank, world), daemon=True)
            for rank in range(world)
        ]
        for child in children:
            child.start()
        try:
            for child in children:
                child.join(timeout=PATIENCE)
            assert [child.exitcode for child in children] == [0] * world
        finally:
            for child in children:
                child.kill()
        return [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]

    return run


@pytest.fixture(scope="session")
def trees(tmp_path_factory):
    """Small trees: of each layout by its name, and some of the layout `mvtec`.

    The training images of "mvtec" and those of "more" are together those of "all"; "even" has
    eight, so that two processes get equal shares.
    """
    base = tmp_path_factory.mktemp("trees")
    found = {}
    for layout, module in layout_tests().items():
        found[layout] = base / layout
        found[layout].mkdir()
        module.draw_tree(found[layout])
    found["all"] = mvtec_tree(base / "all", train=12)
    found["more"] = shutil.copytree(found["all"], base / "more")
    for number in range(7):
        (found["more"] / f"bottle/train/good/{number:03d}.png").unlink()
    found["even"] = mvtec_tree(base / "even", train=8)
    return found
