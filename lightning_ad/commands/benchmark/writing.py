"""The table of a benchmark as Markdown, CSV and LaTeX: metrics in one file, costs in another."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning_ad.commands.benchmark.table import COSTS, Estimate, Row
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.evaluation.catalogue import oracle
from lightning_ad.system.files import replacing

PLACE = ["data", "category", "method", "runs"]


def write_tables(
    folder: Path,
    rows: Sequence[Row],
    reservations: Sequence[str],
    circumstances: Sequence[str] = (),
) -> list[Path]:
    """Writes `metrics` and `costs`, each as .md, .csv and .tex, with the reservations about the ones and the
    circumstances of the others; the files.

    What is in `metrics` depends on nothing but the runs' results, to the last digit.
    """
    metrics, costs = shown_metrics(rows, "±"), shown_costs(rows)
    texts = {
        "metrics.md": _markdown(metrics)
        + "".join(f"\n- {line}" for line in notes(rows, reservations))
        + "\n",
        "metrics.csv": _csv([_csv_head(), *map(_csv_row, rows)]),
        "metrics.tex": _latex(
            shown_metrics(rows, r"$\pm$"), [f"% {line}" for line in notes(rows, reservations)]
        ),
        "costs.md": _markdown(costs) + "".join(f"\n- {line}" for line in circumstances) + "\n",
        "costs.csv": _csv(
            [[*PLACE, *COSTS], *([*_place(r), *_values(r, repr)] for r in rows if r.costs)]
        ),
        "costs.tex": _latex(costs, []),
    }
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(text)
    return [folder / name for name in texts]


def shown_metrics(rows: Sequence[Row], between: str) -> list[list[str]]:
    """Head and lines of the metrics, to three digits; `between` a mean and half its interval."""
    names = [
        f"{name.replace('_', ' ').replace('pixel AUPRO', 'AUPRO')} {oracle(name)}".rstrip()
        for name in METRIC_NAMES
    ]
    lines = [
        [*_place(r), *(_shown(r.metrics.get(name), between) for name in METRIC_NAMES)] for r in rows
    ]
    return [[*PLACE, *names], *lines]


def shown_costs(rows: Sequence[Row]) -> list[list[str]]:
    """Head and lines of what runs cost, of the measured ones."""
    return [
        [*PLACE, *COSTS.values()],
        *([*_place(r), *_values(r, "{:.3g}".format)] for r in rows if r.costs),
    ]


def notes(rows: Sequence[Row], reservations: Sequence[str]) -> list[str]:
    """What is to be said below the table: sources of the published numbers, missing categories, reservations."""
    sources = dict.fromkeys(f"{r.method}, published: {r.note}" for r in rows if not r.runs)
    missing = dict.fromkeys(
        f"{r.data}, {r.configuration}: mean of {r.note}" for r in rows if r.runs and r.note
    )
    several = max((r.runs for r in rows), default=0) > 1
    wide = "; of two seeds it is wide" if any(r.runs == 2 for r in rows) else ""
    explained = (
        [f"±: half of the 95 % interval of Student's t over the seeds{wide}"] if several else []
    )
    return [*explained, *missing, *sources, *reservations]


def _place(row: Row) -> list[str]:
    told = row.configuration if row.runs else "published"
    named = row.method if told == row.method.lower() else f"{row.method} ({told})"
    return [row.data, row.category, named, str(row.runs or "")]


def _shown(found: Estimate | None, between: str) -> str:
    if found is None:
        return ""
    return f"{found.mean:.3f}" + ("" if found.half is None else f" {between} {found.half:.3f}")


def _values(row: Row, text: Callable[[float], str]) -> list[str]:
    return ["" if math.isnan(row.costs[name]) else text(row.costs[name]) for name in COSTS]


def _csv_head() -> list[str]:
    ends = [[name, f"{name} low", f"{name} high"] for name in METRIC_NAMES]
    return [*PLACE, *(column for three in ends for column in three), "note"]


def _csv_row(row: Row) -> list[str]:
    cells = _place(row)
    for name in METRIC_NAMES:
        found = row.metrics.get(name)
        half = None if found is None else found.half
        cells += ["" if found is None else repr(found.mean)]
        ends = (
            []
            if found is None or half is None
            else [max(0.0, found.mean - half), min(1.0, found.mean + half)]
        )
        cells += [repr(end) for end in ends] or ["", ""]
    return [*cells, row.note]


def _csv(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    rule = ["---"] * len(PLACE) + ["---:"] * (len(head) - len(PLACE))
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *rest]) + "\n"


def _latex(lines: Sequence[Sequence[str]], comments: Sequence[str]) -> str:
    r"""A tabular with booktabs' rules; for \input."""
    head, *rest = lines
    columns = "l" * len(PLACE) + "r" * (len(head) - len(PLACE))
    body = [
        " & ".join(cell if "$" in cell else _escaped(cell) for cell in line) + r" \\"
        for line in rest
    ]
    top = " & ".join(map(_escaped, head)) + r" \\"
    parts = [*comments, rf"\begin{{tabular}}{{{columns}}}", r"\toprule", top, r"\midrule", *body]
    return "\n".join([*parts, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    return "".join("\\" + c if c in "&%$#_{}" else c for c in text)
