"""The images of a report: a card for each, and its pictures, which are drawn once for all cards."""

import os
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from lightning_ad.reporting import pictures
from lightning_ad.reporting.html.text import script_number, shown_number
from lightning_ad.reporting.pictures import Mask, Picture
from lightning_ad.reporting.run_images import RunImages
from lightning_ad.reporting.tables import ImageResult
from lightning_ad.system.progress import counting
from lightning_ad.system.threads import map_single_threaded

SIDE = 256  # pixels of a picture's longer side
LEAST_SIDE = 16  # a picture is not made smaller than this
BUDGET = 18_000_000  # characters for all pictures together; with many images, each gets fewer
FEW_IMAGES = 600  # up to so many share the budget as if they were that many


class Card(NamedTuple):
    """One image of a report.

    Attributes:
        figure: the card, an HTML figure.
        layers: the pictures that it uses, as SVG.
        has_outline: whether the image has a true outline.
    """

    figure: str
    layers: str
    has_outline: bool


def draw_cards(rows: Sequence[ImageResult], images: RunImages) -> list[Card]:
    """Draws a card for each row, in order; all pictures together stay below `BUDGET` characters."""
    room = BUDGET // max(len(rows), FEW_IMAGES)
    names = _names(rows)
    low, high = images.colour_scale

    def draw(number: int) -> Card:
        row = rows[number]
        image, mask = images.read(row)
        map = images.map(row)
        heat = None if map is None else pictures.heat(map, low, high)
        card = _draw_card(number, row, names[number], image, mask, heat, room)
        advance(1)
        return card

    with counting(len(rows), "report", "image") as advance:
        return map_single_threaded(draw, range(len(rows)))


def _names(rows: Sequence[ImageResult]) -> list[str]:
    """Returns the paths without the folders that all of them share."""
    shared = os.path.commonprefix([row.path for row in rows])  # noqa: RUF071
    start = shared.rfind("/") + 1
    return [row.path[start:] for row in rows]


def _draw_card(
    number: int,
    row: ImageResult,
    name: str,
    image: Picture,
    mask: Mask,
    heat: Picture | None,
    room: int,
) -> Card:
    image = pictures.thumbnail(image, SIDE)
    height, width = image.shape[:2]
    mask = pictures.thumbnail_mask(mask, height, width)
    figure = _figure(number, row, name, height, width)
    layers = picture_layers(number, image, mask, heat, room)
    return Card(figure, layers, has_outline=bool(mask.any()))


def picture_layers(number: int, image: Picture, mask: Mask, heat: Picture | None, room: int) -> str:
    """Draws the pictures of one image as SVG for all cards to use, of about `room` characters.

    Their ids are `p<number>` for the image, `i<number>` for the image with the outline of `mask`,
    and `h<number>` for both under the heat map.
    """
    height, width = mask.shape
    size = f'width="{width}" height="{height}" preserveAspectRatio="none"'
    path, scaled = _outline(mask, room // 4)
    room -= len(path)
    layers = [f'<image id="p{number}" {size} href="{_uri(image, room * 2 // 3)}"/>']
    outline = ""
    if path:
        layers.append(f'<path id="d{number}" d="{path}"{scaled}/>')
        line = f'<use href="#d{number}"/>'
        halo = f'<use class="halo" href="#d{number}"/>'
        outline = f'<g class="o">{halo}{line}</g>'
    layers.append(f'<g id="i{number}"><use href="#p{number}"/>{outline}</g>')
    if heat is not None:
        uri = _uri(pictures.translucent(pictures.thumbnail(heat, SIDE)), room // 3)
        layer = f'<image {size} href="{uri}"/>'
        layers.append(f'<g id="h{number}"><use href="#p{number}"/>{layer}{outline}</g>')
    return "".join(layers)


def _outline(mask: Mask, most: int) -> tuple[str, str]:
    """Draws the border of a mask as a path of about `most` characters.

    It is made coarser until it is short enough. The second value is the attribute that scales it.
    """
    height, width = mask.shape
    path = pictures.outline_path(mask)
    coarse = 1
    scaled = ""
    while len(path) > most and min(height, width) // coarse > LEAST_SIDE:
        coarse *= 2
        rows = max(1, height // coarse)
        columns = max(1, width // coarse)
        path = pictures.outline_path(pictures.thumbnail_mask(mask, rows, columns))
        scaled = f' transform="scale({width / columns:.4f} {height / rows:.4f})"'
    return path, scaled


def _uri(image: Picture, most: int) -> str:
    """Returns `image` as text of at most `most` characters, with fewer pixels if needed."""
    side = max(image.shape[:2])
    text = pictures.data_uri(pictures.thumbnail(image, side))
    while len(text) > most and side > LEAST_SIDE:
        side = int(side * min(0.9, (most / len(text)) ** 0.5))
        text = pictures.data_uri(pictures.thumbnail(image, side))
    return text


def _figure(number: int, row: ImageResult, name: str, height: int, width: int) -> str:
    """Writes the card of one image: its pictures (of `picture_layers`), name, score and verdict."""
    p_value = "" if row.p_value is None else f"<span>p {row.p_value:.2g}</span>"
    verdict = f'<mark class="{row.verdict.replace(" ", "-")}">{row.verdict}</mark>'
    return (
        f'<figure class="card" tabindex="0" data-number="{number}" data-label="{row.label}"'
        f' data-score="{script_number(row.score)}" data-defect="{escape(row.defect)}"'
        f' data-verdict="{row.verdict}"><div class="pair">{_pair(number, row, height, width)}</div>'
        f'<figcaption title="{escape(row.path)}"><p>{escape(name)}</p>'
        f"<b>{shown_number(row.score)}</b>{p_value}"
        f'<span class="kind-{row.label}">{escape(row.defect)}</span>{verdict}</figcaption></figure>'
    )


def _pair(number: int, row: ImageResult, height: int, width: int) -> str:
    """Writes the image, and its heat map if it has one."""
    views = {"i": "image"}
    if row.map_path:
        views["h"] = "heat map"
    drawn = []
    for view, label in views.items():
        drawn.append(
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
            f'<use href="#{view}{number}"/></svg>'
        )
    return "".join(drawn)
