"""The Python of README and docs/python.md is run as it stands there, on small data."""

import re

import pytest
from runs import ROOT
from trees import mvtec_tree

from lightning_ad.evaluation import catalogue

SMALLER = {
    "ad.PatchCore(": 'ad.PatchCore(backbone="squeezenet1_1", weights=None, ',
    "image_size=256, center_crop=224": "image_size=64, center_crop=None, num_workers=0",
    "reject=0.05": "reject=0.5",
    "reject = 0.1": "reject = 0.5",
}


def blocks(page):
    text = (ROOT / page).read_text()
    found = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for shown, smaller in SMALLER.items():
        found = [block.replace(shown, smaller) for block in found]
    return found


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "EVALUATORS", catalogue.EVALUATORS)  # the page adds to it
    for folder in ("data/mvtec", "elsewhere"):
        mvtec_tree(tmp_path / folder)
    image = tmp_path / "elsewhere/bottle/test/broken/000.png"
    (tmp_path / "part.png").write_bytes(image.read_bytes())
    names = {"__name__": "page"}
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)
    assert names["result"].map.ndim == 2
    if page == "docs/python.md":
        assert names["result"].mask.shape == names["result"].map.shape
        assert names["again"].metrics == names["run"].metrics
        assert "image_mean_score" in names["metrics"]
        assert bool(names["model"].fitted)
