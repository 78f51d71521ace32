import re

import numpy as np
import pytest

from lightning_ad.reporting import charts
from lightning_ad.reporting.charts import Axis


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 1.05), (-3e-5, 2e-5), (990, 1010), (0, 84), (1e-6, 1)]
)
def test_axis_has_a_few_ticks(low, high):
    axis = Axis.fit([low, high])
    ticks = axis.ticks()
    assert 3 <= len(ticks) <= 9
    assert all(-1e-9 <= share <= 1 + 1e-9 for share in axis.place(ticks))


@pytest.mark.parametrize("values", [[], [0.0], [-5.0], [float("nan"), 2.0]])
def test_axis_of_little(values):
    axis = Axis.fit(values)
    assert axis.high > axis.low
    assert axis.ticks()


def test_curve_thins_out_but_keeps_extremes():
    values = np.zeros(100_000)
    values[54_321] = 1
    axis = Axis(0, 1)
    line = charts.curve(axis, axis, np.linspace(0, 1, len(values)), values)
    assert line.count(",") < 1300
    assert ",0.0000" in line
    assert charts.curve(axis, axis, [], []).count(",") == 0


def test_bars_have_the_heights_of_their_counts():
    axis = Axis(0, 3)
    counts = np.array([4, 0, 1])
    drawn = charts.bars(axis, Axis(0, 4), axis.edges(3), counts, "good")
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"', drawn)]
    assert heights == [1.0, 0.25]
    few = charts.bars(axis, Axis(0, 4000), axis.edges(3), counts, "good")
    assert all(float(height) > 0.01 for height in re.findall(r'height="([\d.]+)"', few))


def test_a_note_is_marked_at_its_place_and_its_text_is_escaped():
    axis = Axis(0, 2)
    drawn = charts.chart(axis, axis, "", notes={"<limit>": 1.0})
    assert '<path class="mark" d="M0.5000 0V1"/>' in drawn
    assert "&lt;limit&gt;" in drawn
