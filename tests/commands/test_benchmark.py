"""`lightning-ad benchmark`: cells, their table, and what survives."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from runs import ROOT, typed
from scipy import stats
from scripts import PATIENCE
from small import small_flags
from trees import mvtec_tree

from lightning_ad.commands.benchmark.cells import Cell, plan
from lightning_ad.commands.benchmark.page import write_page
from lightning_ad.commands.benchmark.slurm import job_array
from lightning_ad.commands.benchmark.table import COSTS, CellResult, Row, Table, caveats, rows
from lightning_ad.commands.benchmark.writing import notes, shown_metrics, write_tables
from lightning_ad.commands.train import train
from lightning_ad.errors import Preempted, UsageError
from lightning_ad.evaluation import METRIC_NAMES

METHODS, DATA = ROOT / "configs", ROOT / "configs/data"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = mvtec_tree(tmp_path_factory.mktemp("benchmark") / "mvtec", train=5)
    return mvtec_tree(root, "cable", train=5)


def planned(root, methods=("patchcore", "draem"), wanted="all", seeds=(0, 1), flags=()):
    files = [METHODS / f"{name}.yaml" for name in methods]
    return plan(files, [DATA / "mvtec.yaml"], wanted, seeds, ["--data.root", str(root), *flags])


def test_cells_by_category_method_and_seed(root):
    cells = planned(root)
    assert [cell.name for cell in cells] == [
        f"{method}-mvtec-{category}-seed{seed}"
        for category in ("bottle", "cable") for method in ("patchcore", "draem") for seed in (0, 1)
    ]  # fmt: skip
    assert cells[-1].flags[-4:] == ("--data.category", "cable", "--seed_everything", "1")


def test_flags_of_one_method_or_data_set(root):
    flags = [
        "--patchcore.model.coreset_ratio",
        "0.01",
        "--mvtec.data.image_size=64",
        "--draem.trainer.max_epochs",
        "1",
    ]
    patchcore, draem = planned(root, seeds=[0], wanted="cable", flags=flags)
    assert "--model.coreset_ratio" in patchcore.flags
    assert "--trainer.max_epochs" not in patchcore.flags
    assert "--trainer.max_epochs" in draem.flags
    assert "--model.coreset_ratio" not in draem.flags
    assert all(
        ("--data.image_size", "64") in zip(c.flags, c.flags[1:], strict=False)
        for c in (patchcore, draem)
    )


def test_wishes_that_cannot_be_met(root):
    known = [file.stem for file in sorted(METHODS.glob("*.yaml"))]
    for wish, message in (
        ({"wanted": None}, "has categories: add --categories all"),
        ({"wanted": "screw"}, r"no category 'screw' in .*bottle, cable"),
        ({"flags": ["--name", "x"]}, "--name is not for the cells"),
        ({"methods": ["patchcore", "patchcore"]}, "two files are called patchcore"),
        (
            {"flags": ["--padim.model.dimension", "9"]},
            "no method or data set 'padim' here; there is patchcore, draem",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            planned(root, **wish)
    for args, message in (
        (
            ["--methods", "patchcor", "--data", "mvtec"],
            rf"patchcor\.yaml, did you mean 'patchcore'; there is {', '.join(known)}$",
        ),
        (
            ["--methods", "patchcore", "--data", "mvtec", "--seeds", "0,0"],
            "--seeds: expected different numbers",
        ),
        (
            ["--methods", "patchcore", "--data", "demo", "--cell", "1"],
            "--cell: expected a number from 0 to 0, got 1",
        ),
        (
            ["--methods", "patchcore", "--data", "demo", "--devices", "0"],
            "--devices must be at least 1",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            typed("benchmark", *args, "--output", root / "none")


def test_a_cell_knows_what_it_was_run_with(root, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text((METHODS / "patchcore.yaml").read_text())
    (cell,) = plan(
        [config],
        [DATA / "mvtec.yaml"],
        "cable",
        [0],
        ["--data.root", str(root), "--model.patch_size", "3"],
    )
    before = json.dumps(cell.settings)
    assert cell.difference(before) is None
    moved = plan(
        [config],
        [DATA / "mvtec.yaml"],
        "cable",
        [0],
        ["--data.root", f"{root}/", "--model.patch_size", "3"],
    )
    assert moved[0].difference(before) is None
    (other,) = plan(
        [config],
        [DATA / "mvtec.yaml"],
        "cable",
        [0],
        ["--data.root", str(root), "--model.patch_size", "5"],
    )
    assert other.difference(before) == "--model.patch_size was 3, now it is 5"
    config.write_text(config.read_text() + "seed_everything: 3\n")
    assert cell.difference(before) == "mine.yaml holds other settings than it did"


def measured(metrics, layout="mvtec", method="PatchCore", **protocol):
    known = dict.fromkeys(METRIC_NAMES, 0.5) | metrics
    return CellResult(
        method,
        layout,
        known,
        dict(zip(COSTS, (10.0, 20.0, 1.5, 30.0), strict=True)),
        protocol,
        "cpu",
    )


def cells_of(name, values, category="bottle", **more):
    """The cells of several seeds, by their image AUROC."""
    return {
        Cell(name, "mvtec", category, seed, ()): measured({"image_AUROC": value}, **more)
        for seed, value in enumerate(values)
    }


def test_the_interval_is_that_of_student():
    values = [0.91, 0.94, 0.90]
    (row, *_) = rows(cells_of("patchcore", values))
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    found = row.metrics["image_AUROC"]
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(
        (low, high), abs=1e-12
    )
    assert rows(cells_of("patchcore", [0.9]))[0].metrics["image_AUROC"] == (0.9, None)


def test_means_over_categories_and_published_numbers_beside_them():
    results = cells_of("patchcore", [0.9, 0.8]) | cells_of("patchcore", [0.6, 0.7], "screw")
    table = rows(results)
    assert [(row.category, row.runs) for row in table] == [
        ("bottle", 2), ("bottle", 0), ("screw", 2), ("screw", 0), ("mean", 2), ("mean", 0),
    ]  # fmt: skip
    assert table[4].metrics["image_AUROC"].mean == pytest.approx(
        (0.75 + 0.75) / 2
    )  # each seed's mean is 0.75
    assert table[4].metrics["image_AUROC"].half == pytest.approx(0)
    assert table[1].metrics["image_AUROC"].mean == 1.0
    assert "Roth" in table[1].note
    # Not the published mean over all fifteen: that of bottle (100 %) and screw (97.0 %).
    assert table[5].metrics["image_AUROC"].mean == pytest.approx(0.985)
    one_lacks = rows(results | cells_of("padim", [0.9, 0.9], method="PaDiM"))
    assert (
        next(r for r in one_lacks if r.category == "mean" and r.method == "PaDiM").note
        == "1 of 2 categories"
    )


def test_what_was_measured_otherwise_is_a_caveat():
    results = cells_of("patchcore", [0.9], resize=[224, 224])
    results |= cells_of("draem", [0.9], resize=[256, 256])
    assert caveats(results) == [
        "mvtec, not measured alike: resize [224, 224] of patchcore, [256, 256] of draem"
    ]


def test_overridden_settings_are_caveats():
    """By the methods and data sets that share them; not what changes no metric (--trust)."""
    common = ("--data.image_size", "96", "--trust", "x")
    weights = ("--model.weights", "a/b.pth")
    train_list = ("--data.train_list", "c")
    runs = {
        ("padim", "mvtec"): weights,
        ("padim", "mtd"): weights + train_list,
        ("cfa", "mvtec"): (),
        ("cfa", "visa"): ("--model.k", "1"),
        ("draem", "mvtec"): weights,
        ("draem", "mtd"): weights + train_list,
    }
    cells = {}
    for (method, data), own in runs.items():
        for seed in (0, 1):
            cells[Cell(method, data, None, seed, (*common, *own))] = measured({})
    assert caveats(cells) == [
        "all: --data.image_size 96",
        "padim, draem: --model.weights b.pth",
        "mtd: --data.train_list c",
        "visa: --model.k 1",
    ]


def test_files_of_the_table(tmp_path):
    results = cells_of("patchcore", [0.9, 0.8]) | cells_of("a&b|c", [0.7, 0.7], method="<CFA>")
    table = Table(rows(results), ["x < y"], [])
    write_tables(tmp_path, table)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert float(lines[0]["image_AUROC"]) == pytest.approx(0.85, abs=1e-15)
    assert lines[0]["runs"] == "2"
    assert r"<CFA> (a&b\|c)" in (tmp_path / "metrics.md").read_text()
    tex = (tmp_path / "metrics.tex").read_text()
    assert r"a\&b|c" in tex
    assert r"0.850 $\pm$ " in tex
    assert tex.count("\\\\\n") == len(table.rows) + 1
    assert [line["fit_seconds"] for line in csv.DictReader((tmp_path / "costs.csv").open())] == [
        "10.0",
        "10.0",
    ]
    write_page(tmp_path / "index.html", "a <title>", table)
    page = (tmp_path / "index.html").read_text()
    assert "&lt;CFA&gt;" in page
    assert "<CFA>" not in page
    assert "x &lt; y" in page
    assert page.count("<circle") == 8


HOSTILE = [
    "\\input /etc/passwd ",
    "$\\write18{id}$",
    "=1+1",
    "a\n\\end{tabular}",
    "~^\x1b[2J\udcff",
]


def test_the_table_obeys_no_name_of_the_data(tmp_path):
    table = Table([Row("d", name, "PaDiM", "padim", 1, {}, {}) for name in HOSTILE], HOSTILE, [])
    write_tables(tmp_path, table)
    tex = (tmp_path / "metrics.tex").read_text(encoding="utf-8")
    commented = len(HOSTILE)
    first, *rest = tex.splitlines()[commented:]
    assert first.startswith(r"\begin{tabular}")
    assert not any(
        sign in "".join(rest) for sign in ("$\\write", r"\input", "\x1b", r"\end{tabular} &")
    )
    assert r"\textbackslash{}input /etc/passwd" in tex
    assert r"\$\textbackslash{}write18\{id\}\$" in tex
    with (tmp_path / "metrics.csv").open(newline="", errors="surrogateescape") as file:
        found = [line["category"] for line in csv.DictReader(file)]
    assert found == [f"'{name}" if name.startswith("=") else name for name in HOSTILE]
    assert len((tmp_path / "metrics.md").read_text().split("\n\n")[0].splitlines()) == 7


def test_a_job_array_has_what_was_typed(tmp_path, capsys):
    words = ["--methods", "patchcore,padim", "--data", "demo", "--seeds", "0,1", "--output"]
    words += [str(tmp_path), "--padim.model.dimension", "9"]
    assert typed("benchmark", *words, "--slurm") == 0
    script = capsys.readouterr().out
    assert "--array=0-3" in script
    command = f"lightning-ad benchmark {shlex.join(words)}"
    assert f"{command} --cell $SLURM_ARRAY_TASK_ID &" in script
    assert f"{command} --table_only" in script


def test_a_job_array_puts_itself_back_into_the_queue(tmp_path):
    script = job_array(
        ["lightning-ad", "benchmark", "--methods", "a b"], 6, str(tmp_path / "%a.txt")
    )
    assert "--array=0-5" in script
    for name, body in (
        ("scontrol", f'echo "$@" > {tmp_path}/requeued'),
        ("lightning-ad", f'echo "$@" > {tmp_path}/typed; exit 75'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": "4",
    }
    done = subprocess.run(["bash"], input=script, text=True, env=environment, timeout=PATIENCE)
    assert done.returncode == 75
    assert (tmp_path / "requeued").read_text() == "requeue 77_4\n"
    assert (tmp_path / "typed").read_text() == "benchmark --methods a b --cell 4\n"


def flags(root, output, methods="patchcore", seeds="0,1"):
    args = ["--methods", methods, "--data", "mvtec", "--categories", "cable", "--seeds", seeds]
    args += ["--output", str(output)]
    args += ["--data.root", str(root), "--data.image_size", "64", "--data.center_crop", "null"]
    for part in small_flags("PatchCore"):
        args.append(part.replace("--", "--patchcore.", 1) if part.startswith("--") else part)
    if "draem" in methods:
        args += ["--draem.data.image_size", "63"]  # which it refuses
    return [*args, "--data.num_workers", "0", "--trainer.accelerator", "cpu"]


@pytest.mark.distributed
def test_killed_and_continued_gives_the_same_table(
    root, tmp_path, monkeypatch, capfd, one_thread, served_training
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    args, folder = flags(root, tmp_path / "killed"), tmp_path / "killed/benchmark"
    command = [sys.executable, "-m", "lightning_ad", "benchmark", *args]
    options = {"cwd": ROOT, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    begun = subprocess.Popen(command, **options)
    wait_for(lambda: list(folder.glob("*seed0/version_0/config.yaml")))
    begun.send_signal(
        signal.SIGKILL
    )  # its cell is told to stop once it sees that nobody waits for it
    begun.communicate()
    teller = threading.Thread(
        target=lambda: (
            wait_for(lambda: list(folder.glob("*seed1/version_0/config.yaml"))),
            os.kill(os.getpid(), signal.SIGTERM),
        )
    )
    teller.start()
    with pytest.raises(Preempted, match="stopped: the same command goes on with what is left"):
        typed("benchmark", *args)
    teller.join()
    capfd.readouterr()
    assert typed("benchmark", *args) == 0
    assert "patchcore-mvtec-cable-seed0: finished before" in capfd.readouterr().out
    whole = flags(root, tmp_path / "whole")
    for cell in plan(
        [METHODS / "patchcore.yaml"], [DATA / "mvtec.yaml"], "cable", (0, 1), whole[10:]
    ):
        train([*cell.flags, "--output", str(tmp_path / "whole/benchmark"), "--name", cell.name])
    assert typed("benchmark", *whole, "--table_only") == 0
    capfd.readouterr()
    tables = [
        (tmp_path / name / "benchmark/metrics.csv").read_bytes() for name in ("whole", "killed")
    ]
    assert tables[0] == tables[1]
    assert tables[0].count(b"\n") == 3  # the head, patchcore, and what was published
    with pytest.raises(UsageError, match="is there with other settings"):
        typed("benchmark", *args, "--table_only", "--model.patch_size", "5")
    with pytest.raises(
        UsageError, match=r"patchcore on mvtec: there is no flag '--data\.imagesize', did you mean"
    ):
        typed("benchmark", *flags(root, tmp_path / "typo"), "--data.imagesize", "64")
    assert not (tmp_path / "typo").exists()
    # a cell that fails stops nothing, and is named
    assert typed("benchmark", *flags(root, tmp_path / "killed", "draem,patchcore", "0")) == 1
    said = capfd.readouterr()
    assert re.search(
        r"1 of 2 cells failed.*\n.*draem-mvtec-cable-seed0: .*multiples of 32", said.err
    )
    assert "PatchCore" in said.out


def wait_for(what, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)
    return Path


def test_published_numbers_of_another_definition_have_footnotes():
    results = cells_of("pfm", [0.9], method="PFM") | cells_of("patchcore", [0.8])
    table = Table(rows(results), [], [])
    lines = shown_metrics(table.rows)
    published = {line[2]: line for line in lines if "published" in line[2]}
    aupro = lines[0].index("AUPRO 0.30")
    pixels = lines[0].index("pixel AUROC")
    image = lines[0].index("image AUROC")
    assert published["PFM (published)"][aupro] == "0.954 (a)"
    assert published["PFM (published)"][pixels] == "0.984"
    assert published["PatchCore (published)"][pixels] == "0.986 (b)"
    assert published["PatchCore (published)"][image] == "1.000"
    below = notes(table)
    assert any(note.startswith("(a) PRO of the authors' code, not AUPRO") for note in below)
    assert any(note.startswith("(b) on masks that the released code erodes") for note in below)
