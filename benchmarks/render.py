"""A report as a table on a terminal, and all kept reports as the tables of README.md."""

import json
from pathlib import Path

from benchmarks.harness import Check, Report, Row

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE / "README.md"
BEGIN, END = "<!-- results: written by `python -m benchmarks --write-readme` -->", "<!-- end of results -->"
_MANY = 50

Table = list[list[str]]


def text(report: Report) -> str:
    """The report for a terminal."""
    lines = [f"{report.title}  ({report.name}, {report.date}, {_machine(report)})"]
    lines += [f"! {remark}" for remark in _remarks(report)]
    lines += ["", *_aligned(_rows(report.findings.rows))]
    if report.findings.checks:
        lines += ["", *_aligned(_checks(report.findings.checks))]
    return "\n".join([*lines, "", *(f"- {note}" for note in report.findings.notes), ""])


def write_readme() -> None:
    """Put the tables of all kept reports between the marks of README.md."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    kept = [Report.from_json(json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json"))]
    body = "\n".join(_markdown(report) for report in kept) or "Nothing was kept yet.\n"
    README.write_text(f"{before}{BEGIN}\n\n{body}\n{END}{after}")


def _markdown(report: Report) -> str:
    lines = [f"### {report.title} (`{report.name}`)", "", f"{report.date}, {_machine(report)}.", ""]
    lines += [f"**{remark}**\n" for remark in _remarks(report)]
    if report.findings.checks:
        lines += [*_piped(_checks(report.findings.checks)), ""]
    lines += [*_piped(_rows(report.findings.rows)), ""]
    return "\n".join([*lines, *(f"- {note}" for note in report.findings.notes), ""])


def _machine(report: Report) -> str:
    machine, versions = report.machine, report.versions
    disks = ", ".join(f"{name}: {kind}" for name, kind in machine["filesystems"].items())
    tensorflow = versions.get("tensorflow-cpu") or versions.get("tensorflow")
    software = f"Python {versions['python']}, numpy {versions.get('numpy')}"
    if tensorflow:
        software += f", TensorFlow {tensorflow}"
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['kernel']}, {disks}; {software}"


def _remarks(report: Report) -> list[str]:
    """What a reader must know before the figures."""
    remarks = []
    if report.quick:
        remarks.append("a quick run: everything is small, the figures say nothing")
    if not report.idle["was_idle"]:
        remarks.append(f"the machine was not idle: {report.idle['busy_before']:.0%} busy before the benchmark")
    if report.idle["others_during"] > 0.05:
        remarks.append(f"others used {report.idle['others_during']:.1%} of the processor meanwhile")
    if report.idle["stolen_during"] > 0.01:
        remarks.append(f"the hypervisor took {report.idle['stolen_during']:.1%} of the processor meanwhile")
    return remarks


def _rows(rows: list[Row]) -> Table:
    """Median, lowest and highest; the 99th percentile where there are samples enough, a rate where there are bytes."""
    tails, rates = any(len(row.samples) >= _MANY for row in rows), any(row.nbytes for row in rows)
    table = [["measured", "median", "lowest", "highest"]]
    table[0] += ["99 %"] * tails + ["GB/s"] * rates + ["samples"]
    for row in rows:
        cells = [row.name, f"{_number(row.median)} {row.unit}", _number(min(row.samples)), _number(max(row.samples))]
        if tails:
            cells.append(_number(row.percentile(99)) if len(row.samples) >= _MANY else "")
        if rates:
            cells.append(f"{row.nbytes / row.median / 1e9:.2f}" if row.nbytes else "")
        table.append([*cells, str(len(row.samples))])
    return table


def _checks(checks: list[Check]) -> Table:
    table = [["promise", "measured", "target", ""]]
    for check in checks:
        sign = ">=" if check.at_least else "<="
        unit = check.unit if check.unit == "x" else f" {check.unit}"
        table.append([check.claim, _number(check.measured) + unit, f"{sign} {check.target:g}{unit}", check.verdict])
    return table


def _number(value: float) -> str:
    """Three digits that mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.995 else f"{value:.3g}"


def _aligned(table: Table) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        first, *rest = (
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return lines


def _piped(table: Table) -> list[str]:
    head, *body = ("| " + " | ".join(cells) + " |" for cells in table)
    return [head, "|---" + "|---:" * (len(table[0]) - 1) + "|", *body]
