"""The pictures of a report: images, heat maps and outlines, drawn once and used by all cards."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from lightning_ad.reporting import pictures
from lightning_ad.reporting.maps import read_map
from lightning_ad.reporting.pictures import Mask, Picture
from lightning_ad.reporting.tables import ImageResult
from lightning_ad.system.progress import counting
from lightning_ad.system.threads import map_single_threaded

SIDE = 256  # pixels of a picture's longer side


def colour_scale(rows: Sequence[ImageResult], run_folder: Path) -> tuple[float, float]:
    """Where the colours of all heat maps start and end; (0, 1) without maps.

    They start at the median pixel of the good images' maps, so that half of what is good stays clear, and end
    where half of the anomalous images have their highest pixel. Where one kind is missing, the other stands in.
    """
    mapped = [r for r in rows if r.map_path]
    if not mapped:
        return 0.0, 1.0
    first, last = min(r.label for r in mapped), max(r.label for r in mapped)

    def measured(row: ImageResult) -> tuple[np.ndarray | None, float]:
        map = read_map(run_folder / str(row.map_path))
        advance(1)
        return map[::4, ::4].flatten().numpy() if row.label == first else None, float(map.max())

    with counting(len(mapped), "colour scale", "map") as advance:
        found = map_single_threaded(measured, mapped)
    low = float(
        np.median(np.concatenate([ordinary for ordinary, _ in found if ordinary is not None]))
    )
    high = float(
        np.median([top for row, (_, top) in zip(mapped, found, strict=True) if row.label == last])
    )
    return (low, high) if high > low else (low, low + 1.0)


def picture_layers(number: int, image: Picture, mask: Mask, heat: Picture | None, room: int) -> str:
    """The image (id i<number>) and the same under its heat map (h<number>), for all cards to use."""
    size = f'width="{mask.shape[1]}" height="{mask.shape[0]}" preserveAspectRatio="none"'
    path, scaled = _outline(mask, room // 4)
    room -= len(path)
    text = f'<image id="p{number}" {size} href="{_uri(image, room * 2 // 3)}"/>'
    line = ""
    if path:
        text += f'<path id="d{number}" d="{path}"{scaled}/>'
        line = f'<g class="o"><use class="halo" href="#d{number}"/><use href="#d{number}"/></g>'
    text += f'<g id="i{number}"><use href="#p{number}"/>{line}</g>'
    if heat is not None:
        layer = _uri(pictures.translucent(pictures.thumbnail(heat, SIDE)), room // 3)
        text += (
            f'<g id="h{number}"><use href="#p{number}"/><image {size} href="{layer}"/>{line}</g>'
        )
    return text


def _outline(mask: Mask, most: int) -> tuple[str, str]:
    """The border of a mask as text of about `most` characters, coarser where it must be, and how it is scaled."""
    (height, width), path, coarse = mask.shape, pictures.outline_path(mask), 1
    while len(path) > most and min(height, width) // coarse > 16:
        coarse *= 2
        small = pictures.thumbnail_mask(mask, max(1, height // coarse), max(1, width // coarse))
        path = pictures.outline_path(small)
    if coarse == 1:
        return path, ""
    return path, f' transform="scale({width / small.shape[1]:.4f} {height / small.shape[0]:.4f})"'


def _uri(image: Picture, most: int) -> str:
    """`image` as text of at most `most` characters: with fewer pixels where it must be."""
    side = max(image.shape[:2])
    while len(text := pictures.data_uri(pictures.thumbnail(image, side))) > most and side > 16:
        side = int(side * min(0.9, (most / len(text)) ** 0.5))
    return text


def card(number: int, row: ImageResult, name: str, height: int, width: int) -> str:
    """The figure of one image: its pictures (those of `picture_layers`), name, score and verdict."""
    views = {"i": "image", "h": "heat map"} if row.map_path else {"i": "image"}
    pictures = "".join(
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{what}"><use href="#{view}{number}"/></svg>'
        for view, what in views.items()
    )
    p_value = "" if row.p_value is None else f"<span>p {row.p_value:.2g}</span>"
    verdict = f'<mark class="{row.verdict.replace(" ", "-")}">{row.verdict}</mark>'
    return (
        f'<figure class="card" tabindex="0" data-number="{number}" data-label="{row.label}"'
        f' data-score="{script_number(row.score)}" data-defect="{escape(row.defect)}" data-verdict="{row.verdict}">'
        f'<div class="pair">{pictures}</div><figcaption title="{escape(row.path)}"><p>{escape(name)}</p>'
        f"<b>{shown_number(row.score)}</b>{p_value}"
        f'<span class="kind-{row.label}">{escape(row.defect)}</span>{verdict}</figcaption></figure>'
    )


def script_number(value: float) -> str:
    """As JavaScript reads it."""
    return (
        repr(value)
        if math.isfinite(value) or math.isnan(value)
        else "Infinity"
        if value > 0
        else "-Infinity"
    )


def shown_number(value: float) -> str:
    """Four digits, or n/a."""
    if math.isnan(value):
        return "n/a"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:#.4g}".rstrip(".")
