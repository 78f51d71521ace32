"""What all tests share: small trees with the real names, the real data where it is there, and no network."""

import multiprocessing
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("LIGHTNING_AD_SHARED", ROOT.parent / "shared"))


def pytest_collection_modifyitems(items):
    reason = f"needs the real images and weights in {SHARED} (set LIGHTNING_AD_SHARED)"
    for item in items:
        if item.get_closest_marker("real") and not (SHARED / "data" / "mtd").is_dir():
            item.add_marker(pytest.mark.skip(reason=reason))


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
def over_processes(tmp_path):
    """Calls `work(rank)` in each of `world` processes of one gloo group, and returns what each returned.

    They are forked: to import torch again would take longer than most of the tests.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    fork = multiprocessing.get_context("fork")

    def process(work, rank, world):
        torch.set_num_threads(1)  # a forked child must not wait for the parent's OpenMP threads
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=rank, world_size=world)
        torch.save(work(rank), tmp_path / f"{rank}.pt")
        dist.barrier()  # where one leaves while another still talks to it, that one is aborted
        dist.destroy_process_group()

    def run(world, work):
        children = [fork.Process(target=process, args=(work, rank, world), daemon=True) for rank in range(world)]
        for child in children:
            child.start()
        try:
            for child in children:
                child.join(timeout=60)
            assert [child.exitcode for child in children] == [0] * world
        finally:
            for child in children:
                child.kill()
        return [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]

    return run


def draw_image(path: Path, rng: np.random.Generator, size=(40, 48), spot=False):
    """A textured grey-green image; with a spot, a bright square, and its mask is returned."""
    height, width = size
    image = rng.integers(60, 120, (height, width, 3), dtype=np.uint8)
    image[:, ::8, 1] += 60
    mask = np.zeros((height, width), np.uint8)
    if spot:
        top, left = rng.integers(0, height - 12), rng.integers(0, width - 12)
        mask[top : top + 10, left : left + 10] = 255
        image[mask > 0] = (250, 240, 40)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return Image.fromarray(mask)


def mvtec_tree(root: Path, category="bottle", train=7, good=3, anomalous=4) -> Path:
    """An MVTec tree; the numbers are odd, so that two processes get unequal shares."""
    rng = np.random.default_rng(1)
    base = root / category
    for i in range(train):
        draw_image(base / f"train/good/{i:03d}.png", rng)
    for i in range(good):
        draw_image(base / f"test/good/{i:03d}.png", rng)
    for i in range(anomalous):
        mask = draw_image(base / f"test/broken/{i:03d}.png", rng, spot=True)
        (base / "ground_truth/broken").mkdir(parents=True, exist_ok=True)
        mask.save(base / f"ground_truth/broken/{i:03d}_mask.png")
    return root


def mtd_tree(root: Path) -> Path:
    """An MTD tree: grey JPEGs of several sizes, masks of the same stem, one mask of MT_Uneven empty."""
    rng = np.random.default_rng(2)
    for i in range(6):
        draw_image(root / f"MT_Free/Imgs/exp1_num_{i}.jpg", rng, (40 + i, 50))
        Image.new("L", (50, 40 + i)).save(root / f"MT_Free/Imgs/exp1_num_{i}.png")
    for kind in ("Blowhole", "Break", "Crack", "Fray", "Uneven"):
        mask = draw_image(root / f"MT_{kind}/Imgs/exp2_num_{kind}.jpg", rng, spot=True)
        mask.save(root / f"MT_{kind}/Imgs/exp2_num_{kind}.png")
    draw_image(root / "MT_Uneven/Imgs/exp3_num_45042.jpg", rng)
    Image.new("L", (48, 40)).save(root / "MT_Uneven/Imgs/exp3_num_45042.png")
    return root


def folder_tree(root: Path) -> Path:
    """Folders of good and bad images, with masks."""
    rng = np.random.default_rng(3)
    for i in range(6):
        draw_image(root / f"good/part{i}.png", rng)
    for i in range(2):
        mask = draw_image(root / f"bad/dent/part{i}.png", rng, spot=True)
        (root / "masks/dent").mkdir(parents=True, exist_ok=True)
        mask.save(root / f"masks/dent/part{i}.png")
    return root


@pytest.fixture(scope="session")
def trees(tmp_path_factory):
    """Small trees of each layout by name (the demo draws its own)."""
    base = tmp_path_factory.mktemp("trees")
    more = mvtec_tree(base / "all", train=12)  # begins with the training images of "mvtec"
    shutil.copytree(more, base / "more")
    for number in range(7):
        (base / f"more/bottle/train/good/{number:03d}.png").unlink()
    return {
        "all": more,
        "more": base / "more",
        "mvtec": mvtec_tree(base / "mvtec"),
        "even": mvtec_tree(base / "even", train=8),
        "mtd": mtd_tree(base / "mtd"),
        "folder": folder_tree(base / "folder"),
    }
