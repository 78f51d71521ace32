"""Images of more than 8 bits a channel."""

import struct
from zlib import compress, crc32

import numpy as np
from PIL import Image


def write_png(path, array):
    """Writes a PNG of 16 bits a channel, uint16 [h, w, 2, 3 or 4]; Pillow cannot."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    height, width, channels = array.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
        + chunk(b"IDAT", compress(rows))
        + chunk(b"IEND", b"")
    )


def deepen(path, bits):
    """Writes an image of 8 bits anew, with as many bits in a file of 16, grey or in colour."""
    array = np.asarray(Image.open(path)).astype(np.float64)
    values = np.rint(array * (2**bits - 1) / 255).astype(np.uint16)
    if values.ndim == 3:
        write_png(path, values)
    else:
        Image.fromarray(values).save(path)
