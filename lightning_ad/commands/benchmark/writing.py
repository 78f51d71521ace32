"""The table of a benchmark as Markdown, CSV and LaTeX: metrics in one file, costs in another."""

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from string import ascii_lowercase

from lightning_ad.commands.benchmark.table import COSTS, Estimate, Row, Table
from lightning_ad.evaluation import METRIC_NAMES
from lightning_ad.evaluation.catalogue import oracle
from lightning_ad.system.files import replacing
from lightning_ad.system.names import printable
from lightning_ad.system.spreadsheets import spreadsheet_text, write_csv

LATEX = {  # how characters that LaTeX would obey are written
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}
PLACE = ["data", "category", "method", "runs"]
Lines = list[list[str]]  # the cells of each line, the header first


def write_tables(folder: Path, table: Table) -> list[Path]:
    """Writes `metrics` and `costs`, each as .md, .csv and .tex, and returns the files.

    `metrics` depend on nothing but the runs' results, to the last digit.
    """
    remarks = notes(table)
    metrics = shown_metrics(table.rows)
    costs = shown_costs(table.rows)
    texts = {
        "metrics.md": _markdown(metrics, remarks),
        "metrics.csv": _csv(_full_metrics(table.rows)),
        "metrics.tex": _latex(metrics, remarks),
        "costs.md": _markdown(costs, table.environment),
        "costs.csv": _csv(_full_costs(table.rows)),
        "costs.tex": _latex(costs, []),
    }
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(text)
    return [folder / name for name in texts]


def shown_metrics(rows: Sequence[Row]) -> Lines:
    """Returns the metrics to three digits, with ± between a mean and its interval.

    The letter of a footnote (`notes`) stands behind a number that has one.
    """
    header = list(PLACE)
    for name in METRIC_NAMES:
        title = name.replace("_", " ").replace("pixel AUPRO", "AUPRO")
        header.append(f"{title} {oracle(name)}".rstrip())
    lines = [header]
    for row in rows:
        lines.append([*_place(row), *_shown_cells(row, _footnotes(rows))])
    return lines


def _shown_cells(row: Row, footnotes: Sequence[str]) -> list[str]:
    cells = []
    for name in METRIC_NAMES:
        cell = _shown(row.metrics.get(name))
        if cell and name in row.footnotes:
            letter = ascii_lowercase[footnotes.index(row.footnotes[name])]
            cell = f"{cell} ({letter})"
        cells.append(cell)
    return cells


def _footnotes(rows: Sequence[Row]) -> list[str]:
    """Returns the footnotes of published numbers, in the order in which they come."""
    found: list[str] = []
    for row in rows:
        found += [row.footnotes[name] for name in METRIC_NAMES if name in row.footnotes]
    return list(dict.fromkeys(found))


def shown_costs(rows: Sequence[Row]) -> Lines:
    """Returns what the measured runs cost, to three digits."""
    return [[*PLACE, *COSTS.values()], *_cost_lines(rows, "{:.3g}".format)]


def notes(table: Table) -> list[str]:
    """Returns what to say below the metrics: footnotes, sources, missing categories, caveats."""
    intervals: list[str] = []
    most_runs = max((row.runs for row in table.rows), default=0)
    if most_runs > 1:
        wide = "; of two seeds it is wide" if any(row.runs == 2 for row in table.rows) else ""
        intervals = [f"±: half of the 95 % interval of Student's t over the seeds{wide}"]
    sources: list[str] = []
    incomplete: list[str] = []
    for row in table.rows:
        if not row.runs:
            sources.append(f"{row.method}, published: {row.note}")
        elif row.note:
            incomplete.append(f"{row.data}, {row.configuration}: mean of {row.note}")
    footnotes: list[str] = []
    for letter, text in zip(ascii_lowercase, _footnotes(table.rows), strict=False):
        footnotes.append(f"({letter}) {text}")
    return list(dict.fromkeys([*intervals, *footnotes, *incomplete, *sources, *table.caveats]))


def _full_metrics(rows: Sequence[Row]) -> Lines:
    """Returns the metrics with all digits, and both ends of their intervals."""
    header = list(PLACE)
    for name in METRIC_NAMES:
        header += [name, f"{name} low", f"{name} high"]
    lines = [[*header, "note"]]
    for row in rows:
        cells = _place(row)
        for name in METRIC_NAMES:
            cells += _full(row.metrics.get(name))
        footnotes = [f"{name}: {text}" for name, text in row.footnotes.items()]
        lines.append([*cells, "; ".join([row.note, *footnotes])])
    return lines


def _full(estimate: Estimate | None) -> list[str]:
    if estimate is None:
        return ["", "", ""]
    mean, half = estimate
    if half is None:
        return [repr(mean), "", ""]
    return [repr(mean), repr(max(0.0, mean - half)), repr(min(1.0, mean + half))]


def _full_costs(rows: Sequence[Row]) -> Lines:
    return [[*PLACE, *COSTS], *_cost_lines(rows, repr)]


def _cost_lines(rows: Sequence[Row], form: Callable[[float], str]) -> Lines:
    lines: Lines = []
    for row in rows:
        if not row.costs:  # a published number
            continue
        cells = _place(row)
        for name in COSTS:
            value = row.costs[name]
            cells.append("" if math.isnan(value) else form(value))
        lines.append(cells)
    return lines


def _place(row: Row) -> list[str]:
    kind = row.configuration if row.runs else "published"
    method = row.method
    if kind != row.method.lower():
        method = f"{row.method} ({kind})"
    return [row.data, row.category, method, str(row.runs or "")]


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    if estimate.half is None:
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} ± {estimate.half:.3f}"


def _csv(lines: Lines) -> str:
    """Returns the lines as CSV, with the names of data as texts that no spreadsheet computes."""
    rows = []
    for line in lines:
        names = [spreadsheet_text(cell) for cell in line[: len(PLACE)]]
        rows.append([*names, *line[len(PLACE) :]])
    text = io.StringIO()
    write_csv(text, rows)
    return text.getvalue()


def _markdown(lines: Lines, remarks: Sequence[str]) -> str:
    header, *rest = lines
    rule = ["---"] * len(PLACE) + ["---:"] * (len(header) - len(PLACE))
    text = ""
    for line in [header, rule, *rest]:
        escaped = " | ".join(_one_line(cell).replace("|", r"\|") for cell in line)
        text += f"| {escaped} |\n"
    for remark in remarks:
        text += f"\n- {_one_line(remark)}"
    return text + "\n"


def _latex(lines: Lines, remarks: Sequence[str]) -> str:
    r"""Returns a tabular with the rules of booktabs, for \input; remarks are comments."""
    header, *rest = lines
    columns = "l" * len(PLACE) + "r" * (len(header) - len(PLACE))
    parts = [
        *(f"% {_one_line(remark)}" for remark in remarks),
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_line(header),
        r"\midrule",
        *map(_latex_line, rest),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(parts) + "\n"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex_cell, cells)) + r" \\"


def _latex_cell(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())
