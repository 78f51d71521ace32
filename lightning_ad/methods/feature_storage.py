"""Keeps the features of the training images, and tells the user if memory or the disk is short."""

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import gettempdir

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_ad.errors import DiskFullError, UserError
from lightning_ad.system.memory import VectorStore, in_memory
from lightning_ad.system.row_store import RowStore


def put_features(store: VectorStore, index: Tensor, features: Tensor) -> None:
    """Puts the features [B, P, D] of images `index` [B] into a store.

    Raises:
        UserError: if they go to a file and the disk has no room for it.
    """
    allocated = store.nbytes > 0
    with _disk_full_explained():
        store.put(index, features)
    if not allocated and not store.held:
        _announce_file(store.nbytes, store.memory_bytes)


def resize_gallery(
    gallery: RowStore, count: int, length: int, dtype: torch.dtype, keep: int = 0
) -> None:
    """Makes room for `count` rows of `length` numbers; the first `keep` rows stay.

    Raises:
        UserError: if they go to a file and the disk has no room for it.
    """
    with _disk_full_explained():
        gallery.resize(count, length, dtype, keep)
    if not in_memory(gallery.blocks[0]):
        _announce_file(gallery.nbytes, gallery.memory_bytes)


@contextmanager
def _disk_full_explained() -> Iterator[None]:
    """Turns a `DiskFullError` into the user's words."""
    try:
        yield
    except DiskFullError as error:
        raise UserError(
            f"the features of the training images take {_gib(error.size)} GiB, and {error.folder} "
            f"has no room for them ({error.reason}); name a folder on a larger disk by TMPDIR, or "
            "raise model.memory_gb"
        ) from error


def _announce_file(size: int, limit: int | None) -> None:
    rank_zero_info(
        f"The features of the training images take {_gib(size)} GiB, model.memory_gb leaves "
        f"{_gib(limit or 0)}: they go to a temporary file in {gettempdir()} (TMPDIR). Results stay "
        "the same; reading them takes longer."
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g}"
