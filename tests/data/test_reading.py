import struct
from functools import partial
from zlib import compress, crc32

import numpy as np
import pytest
import torch
from deep import write_png
from PIL import Image

from lightning_ad.data.geometry import Geometry
from lightning_ad.data.reading import (
    as_image,
    has_16_bits,
    highest_value,
    image_size,
    is_blank,
    read_image,
    read_mask,
    verify,
)
from lightning_ad.errors import DataError


def save(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options)
    return str(path)


def test_rgb_keeps_its_order(tmp_path):
    array = np.zeros((2, 3, 3), np.uint8)
    array[0, 1] = (255, 51, 0)
    image = read_image(save(tmp_path / "a.png", array))
    assert image.shape == (3, 2, 3)
    assert image.dtype == torch.float32
    assert image[:, 0, 1].tolist() == pytest.approx([1.0, 0.2, 0.0])


def test_grey_becomes_three_equal_channels(tmp_path):
    image = read_image(save(tmp_path / "a.png", np.array([[0, 51]], np.uint8)))
    assert image[:, 0, 1].tolist() == pytest.approx([0.2] * 3)


@pytest.mark.parametrize(("size", "crop"), [(20, None), (20, 16), ([37, 53], None), (64, None)])
def test_a_grey_image_is_that_of_its_three_channels(tmp_path, size, crop):
    array = np.random.default_rng(0).integers(0, 256, (37, 53), np.uint8)
    geometry = Geometry.of(size, crop)
    grey, colour = (
        geometry.image(read_image(save(tmp_path / f"{name}.png", values)))
        for name, values in (("grey", array), ("colour", np.stack([array] * 3, 2)))
    )
    assert torch.equal(grey, colour)
    assert grey.is_contiguous()


def test_16_bits_are_scaled_not_clipped(tmp_path):
    image = read_image(save(tmp_path / "a.png", np.array([[0, 6553, 65535]], np.uint16)))
    assert image[0, 0].tolist() == pytest.approx([0.0, 6553 / 65535, 1.0])


def test_alpha_is_dropped(tmp_path):
    image = read_image(save(tmp_path / "a.png", np.array([[[255, 0, 102, 0]]], np.uint8)))
    assert image[:, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.4])


def test_exif_rotation_is_applied(tmp_path):
    picture = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "a.png", exif=exif)
    assert read_image(str(tmp_path / "a.png")).shape == (3, 3, 2)


def test_unreadable_files_are_named(tmp_path):
    whole = tmp_path / "whole.png"
    save(whole, np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    cut, text = tmp_path / "cut.png", tmp_path / "text.png"
    cut.write_bytes(whole.read_bytes()[:500])
    text.write_text("not an image")
    for path in (cut, text, tmp_path / "missing.png"):
        with pytest.raises(DataError, match=path.name):
            read_image(str(path))


def test_mask_threshold_and_anti_aliasing(tmp_path):
    path = save(tmp_path / "m.png", np.array([[0, 100, 127, 128, 255]], np.uint8))
    assert read_mask(path, (1, 5)).tolist() == [[False, False, False, True, True]]
    assert read_mask(path, (1, 5), threshold=0).tolist() == [[False, True, True, True, True]]


def test_mask_of_another_size_names_both(tmp_path):
    path = save(tmp_path / "m.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(DataError, match=r"m\.png is 6x4 px, its image 8x4 px"):
        read_mask(path, (4, 8))


def test_values_of_a_lossy_mask_that_are_all_dark_are_refused(tmp_path):
    path = save(tmp_path / "m.jpg", np.full((8, 8), 3, np.uint8))
    with pytest.raises(DataError, match="values up to 3, none above 127"):
        read_mask(path, (8, 8))
    assert not read_mask(save(tmp_path / "n.png", np.zeros((1, 2), np.uint8)), (1, 2)).any()


DEFECT = np.zeros((6, 8), bool)
DEFECT[1:4, 2:5] = True


def rgba(colour, background, opaque):
    array = np.empty((6, 8, 4), np.uint8)
    array[..., :3] = background
    array[DEFECT, :3] = colour
    array[..., 3] = np.where(opaque, 255, 0)
    return Image.fromarray(array)


def palette(*colours):
    image = Image.fromarray(DEFECT.astype(np.uint8), "P")
    image.putpalette([*colours[0], *colours[1]])
    return image


def grey(value, kind=np.uint8):
    return Image.fromarray(np.where(DEFECT, value, 0).astype(kind))


MASKS = {
    "0 and 1": grey(1),
    "0 and 255": grey(255),
    "class 3": grey(3),
    "16 bits, 0 and 1": grey(1, np.uint16),
    "16 bits, 0 and 255": grey(255, np.uint16),
    "16 bits, 0 and 65535": grey(65535, np.uint16),
    "1 bit": Image.fromarray(DEFECT),
    "red": rgba((255, 0, 0), 0, True).convert("RGB"),
    "dark red, as VOC's class 8": rgba((64, 0, 0), 0, True).convert("RGB"),
    "palette of VOC": palette((0, 0, 0), (64, 0, 0)),
    "palette whose 0 is the defect": Image.fromarray((~DEFECT).astype(np.uint8), "P"),
    "white on transparent": rgba(255, 255, DEFECT),
    "black on transparent": rgba(0, 0, DEFECT),
    "black on transparent white": rgba(0, 255, DEFECT),
    "white on black, all opaque": rgba(255, 0, True),
    "white on black, alpha of 0": rgba(255, 0, False),
    "white and black, opaque in a part": rgba(255, 0, np.arange(8) < 6),
    "grey and alpha": rgba(0, 0, DEFECT).convert("LA"),
}
MASKS["palette whose 0 is the defect"].putpalette([255, 255, 255, 0, 0, 0])


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_kind_are_read_by_one_rule(name, tmp_path):
    MASKS[name].save(tmp_path / "m.png")
    assert read_mask(str(tmp_path / "m.png"), (6, 8)).numpy().tolist() == DEFECT.tolist()


def test_an_inverted_mask_is_read_if_it_is_said_so(tmp_path):
    path = save(tmp_path / "m.png", np.where(DEFECT, 0, 255).astype(np.uint8))
    assert read_mask(path, (6, 8), reading="dark").numpy().tolist() == DEFECT.tolist()
    assert not read_mask(path, (6, 8), threshold=255, reading="dark").any()  # without labels
    ignored = np.where(DEFECT, 0, 255).astype(np.uint8)
    ignored[0] = 128
    path = save(tmp_path / "i.png", ignored)
    found = read_mask(path, (6, 8), ignore=128, reading="dark")
    assert found.numpy().tolist() == DEFECT.tolist()


def test_a_mask_of_the_same_proportions_is_resized(tmp_path):
    path = save(tmp_path / "m.png", DEFECT.astype(np.uint8))
    found = read_mask(path, (12, 16))
    assert found.numpy().tolist() == DEFECT.repeat(2, 0).repeat(2, 1).tolist()
    with pytest.raises(DataError, match=r"m\.png is 8x6 px, its image 16x14 px"):
        read_mask(path, (14, 16))


@pytest.mark.parametrize("name", ["0 and 1", "white on transparent", "black on transparent"])
def test_earlier_versions_dropped_alpha_and_refused_class_numbers(name, tmp_path):
    MASKS[name].save(tmp_path / "m.png")
    old = partial(read_mask, str(tmp_path / "m.png"), (6, 8), reading="legacy")
    if name == "0 and 1":
        with pytest.raises(DataError, match="none above 127"):
            old()
    else:
        assert bool(old().all()) == bool(old().any()) == (name == "white on transparent")


def write_tiff(path, array, order, is_compressed):
    """Writes a TIFF of 16 bits a channel, uint16 [h, w, 3]."""
    height, width, channels = array.shape
    pixels = array.astype(f"{order}u2").tobytes()
    if is_compressed:
        pixels = compress(pixels)
    where = 8 + len(pixels)
    tags = [
        (256, width),
        (257, height),
        (258, where),
        (259, 8 if is_compressed else 1),
        (262, 2),
        (273, 8),
    ]
    tags += [(277, channels), (278, height), (279, len(pixels))]
    file = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", where + 6)
    file += pixels + struct.pack(f"{order}3H", 16, 16, 16) + struct.pack(f"{order}H", len(tags))
    for tag, value in tags:
        count = 3 if tag == 258 else 1
        file += struct.pack(f"{order}HHII", tag, 3 if tag == 258 else 4, count, value)
    path.write_bytes(file + b"\0\0\0\0")


@pytest.mark.parametrize(
    "kind", ["grey and alpha", "rgb", "rgba", "tiff <", "tiff >", "tiff <z", "tiff >z", "ppm"]
)
def test_colour_of_16_bits_is_read_in_full(kind, tmp_path):
    channels = {"grey and alpha": 2, "rgba": 4}.get(kind, 3)
    array = np.random.default_rng(0).integers(0, 4096, (5, 7, channels)).astype(np.uint16)
    path = tmp_path / kind.partition(" ")[0]
    if kind.startswith("tiff"):
        write_tiff(path, array, kind[5], kind.endswith("z"))
    elif kind == "ppm":
        path.write_bytes(b"P6 7 5 65535\n" + array.astype(">u2").tobytes())
    else:
        write_png(path, array)
    expected = array[..., :1].repeat(3, 2) if channels == 2 else array[..., :3]
    found = (read_image(str(path), bits=12) * 4095).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert highest_value(str(path)) == expected.max()
    assert has_16_bits(str(path))
    upper = (read_image(str(path), bits="legacy") * 255).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(upper, expected >> 8, atol=1 + 1e-3)


def test_colour_of_16_bits_that_is_turned(tmp_path):
    array = np.arange(3 * 4 * 3).reshape(3, 4, 3).astype(np.uint16) * 257
    write_png(tmp_path / "a.png", array)
    exif = Image.Exif()
    exif[274] = 6
    whole = (tmp_path / "a.png").read_bytes()
    kept = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(kept)) + b"eXIf" + kept + struct.pack(">I", crc32(b"eXIf" + kept))
    (tmp_path / "a.png").write_bytes(whole[:33] + chunk + whole[33:])
    found = (read_image(str(tmp_path / "a.png")) * 65535).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, np.rot90(array, -1), atol=1e-2)


def test_colour_of_16_bits_that_cannot_be_read_in_full_is_refused(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P3 1 1 4095\n4000 1 2\n")
    with pytest.raises(DataError, match=r"a\.ppm: .*more than 8 bits.*PNG of 16 bits"):
        read_image(str(tmp_path / "a.ppm"))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_values_are_scaled_by_their_bits_and_larger_ones_refused(bits, tmp_path):
    top = 2**bits - 1
    path = save(tmp_path / "a.png", np.array([[0, top // 2, top]], np.uint16))
    assert read_image(path, bits)[0, 0].tolist() == pytest.approx([0, top // 2 / top, 1])
    assert as_image(np.array([[0, top]], np.uint16), bits)[0, 0].tolist() == [0, 1]
    if bits < 16:
        path = save(tmp_path / "b.png", np.array([[0, top + 1]], np.uint16))
        with pytest.raises(DataError, match=rf"b\.png has values up to {top + 1}, .* {bits} bits"):
            read_image(path, bits)


def test_an_image_is_opened_as_one_of_a_list_of_formats(tmp_path, monkeypatch):
    def start(*arguments, **_):
        raise AssertionError(f"{arguments} was started")

    monkeypatch.setattr("subprocess.Popen.__init__", start)
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    for read in (read_image, verify, image_size, has_16_bits, is_blank):
        if read is is_blank:
            assert read(str(path)) is None
        else:
            with pytest.raises(DataError, match=r"x\.png: it is no image in a known format \(PNG"):
                read(str(path))
    for format in ("GIF", "PCX", "TGA", "ICO"):
        Image.new("L", (16, 16)).save(path, format)
        with pytest.raises(DataError, match="no image in a known format"):
            read_image(str(path))


def test_an_image_that_a_resize_makes_too_large_is_refused():
    geometry = Geometry.of(256, 224)
    thin = torch.zeros(3, 190_000, 1)
    with pytest.raises(DataError, match=r"1 x 190000 px becomes 256 x 48640000 px .*center_crop"):
        geometry.image(thin)
    with pytest.raises(DataError, match="megapixels; more than 200"):
        geometry.mask(thin[0] > 0)
    assert Geometry.of(64, None).image(thin).shape == (3, 64, 64)


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.5])
def test_floats_that_are_no_shares_are_refused(value, tmp_path):
    array = np.full((4, 5), 0.5, np.float32)
    array[2, 3] = value
    Image.fromarray(array).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"a\.tiff holds floats .* expected values in \[0, 1\]"):
        read_image(str(tmp_path / "a.tiff"))
