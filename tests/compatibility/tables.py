"""The results of the matrix as tables of docs/compatibility.md, and what they say of smdaemon's own table of releases."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- matrix: written by `make compatibility` -->", "<!-- end of matrix -->"

Results = dict[str, Any]


def write_page(results: Results) -> None:
    """Put the tables between the marks of the page."""
    PAGE.write_text(with_tables(PAGE.read_text(), results))


def with_tables(page: str, results: Results) -> str:
    """The text of the page with the tables of `results`."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no place between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{rendered(results)}\n{END}{after}"


def rendered(results: Results) -> str:
    """All tables, as Markdown."""
    tensorflows = list(next(iter(results["read"].values())))
    by_function = (
        "The same by function: the releases that run smdaemon's exports for the default target, how far an answer is from JAX's at most (of "
        "the greatest answer), and the releases that run jax2tf's exports."
    )
    known = (
        "What each release knows, found by modules that are too new for it. A release that does not tell its StableHLO was given one small "
        "function in version after version."
    )
    parts = [
        f"{results['date']}, TensorFlow {', '.join(tensorflows)}; exported by {_exporters(results)}.",
        "How many exports of each kind give JAX's answers in each release. `for` is `serving_tensorflow`.",
        _counts(results, tensorflows),
        by_function,
        _functions(results, tensorflows),
        known,
        _known(results, tensorflows),
    ]
    return "\n\n".join(parts) + "\n"


def contradictions(results: Results) -> list[str]:
    """What the results say against smdaemon's table, in words."""
    wrong = []
    known = {target["tensorflow"]: target for target in targets(results)}
    for tensorflow, outcomes in _read_of(results, "probes").items():
        release = _release(tensorflow)
        convention, told, _ = _knowledge(outcomes)
        target = known[release]
        if target["calling_convention"] != convention:
            wrong.append(f"{tensorflow} knows calling convention {convention}")
        if told and target["stablehlo"] != told:
            wrong.append(f"{tensorflow} says that its StableHLO is {told}")
    for export in results["exports"]:
        if export["way"] == "smdaemon":
            for tensorflow, outcomes in _read_of(results, export["name"]).items():
                for name, outcome in outcomes.items():
                    target = name.rpartition("/")[2]
                    if _number(target) <= _number(_release(tensorflow)) and not _runs(outcome):
                        wrong.append(f"{name} of {export['name']} in {tensorflow}: {outcome}")
    return wrong


def targets(results: Results) -> list[dict[str, Any]]:
    """The table of releases of smdaemon as it was when the results were measured."""
    found: list[dict[str, Any]] = _probes(results)["targets"]
    return found


def _counts(results: Results, tensorflows: list[str]) -> str:
    rows = [["exported by", "for", *tensorflows]]
    for export in results["exports"]:
        if export["way"] == "probes":
            continue
        read = _read_of(results, export["name"])
        refused = [name.rpartition("/")[2] for name in export["refused"]]
        targets = sorted({name.rpartition("/")[2] for outcomes in read.values() for name in outcomes} | set(refused))
        for target in targets:
            cells = []
            for tensorflow in tensorflows:
                own = [outcome for name, outcome in read[tensorflow].items() if name.endswith(f"/{target}")]
                cells.append(f"{sum(map(_runs, own))} of {len(own) + refused.count(target)}")
            rows.append([_exporter(export), target if export["way"] == "smdaemon" else "—", *cells])
    return _piped(rows)


def _functions(results: Results, tensorflows: list[str]) -> str:
    exports = [export for export in results["exports"] if export["way"] != "probes"]
    default = _probes(results)["default"]
    rows = [
        [
            "function",
            "smdaemon",
            "greatest difference",
            *(_exporter(each) for each in exports if each["way"] == "jax2tf"),
        ]
    ]
    names = dict.fromkeys(
        name.rpartition("/")[0] for outcomes in _read_of(results, exports[0]["name"]).values() for name in outcomes
    )
    for name in sorted(names):
        row = [name.replace("/", ", ")]
        ours: list[tuple[str, Any]] = []
        theirs = []
        for export in exports:
            target = default if export["way"] == "smdaemon" else "itself"
            read = _read_of(results, export["name"])
            outcomes = [(tensorflow, read[tensorflow].get(f"{name}/{target}", "refused")) for tensorflow in tensorflows]
            if export["way"] == "smdaemon":
                ours += outcomes
            else:
                theirs.append(_where(outcomes, tensorflows))
        differences = [outcome for _, outcome in ours if _runs(outcome)]
        worst = max(differences, default=None)
        row += [_where(ours, tensorflows), "—" if worst is None else f"{worst:.0e}" if worst else "0", *theirs]
        rows.append(row)
    return _piped(rows)


def _where(outcomes: list[tuple[str, Any]], tensorflows: list[str]) -> str:
    """The releases in which all outcomes are good."""
    good = [
        each for each in tensorflows if all(_runs(outcome) for tensorflow, outcome in outcomes if tensorflow == each)
    ]
    return "all" if good == tensorflows else ", ".join(good) or "none"


def _known(results: Results, tensorflows: list[str]) -> str:
    known = {target["tensorflow"]: target for target in targets(results)}
    rows = [["TensorFlow", "calling convention", "StableHLO", "smdaemon writes"]]
    for tensorflow in tensorflows:
        convention, told, tried = _knowledge(_read_of(results, "probes")[tensorflow])
        target = known[_release(tensorflow)]
        rows.append(
            [tensorflow, str(convention), told or tried, f"{target['calling_convention']} and {target['stablehlo']}"]
        )
    return _piped(rows)


def _knowledge(outcomes: dict[str, Any]) -> tuple[int, str, str]:
    """The calling convention and the StableHLO that a release says it has, and which StableHLO it ran, in words."""
    convention, told, ran, failed = 0, "", "none", ""
    for name, outcome in sorted(outcomes.items(), key=lambda item: _number(item[0].rpartition("/")[2])):
        words, version = str(outcome), name.rpartition("/")[2]
        if match := re.search(r"calling convention \d+, at most (\d+)", words):
            convention = int(match[1])
            continue
        if match := re.search(r"StableHLO too new for ([\d.]+)", words):
            told = match[1]
        if not failed:
            ran, failed = (version, "") if _runs(outcome) else (ran, version)
    return convention, told, f"runs {ran}, not {failed}"


def _exporters(results: Results) -> str:
    versions = dict.fromkeys(
        f"jax {each['versions']['jax']} with flax {each['versions']['flax']} on Python {each['versions']['python']}"
        for each in results["exports"]
    )
    return " and by ".join(versions)


def _exporter(export: dict[str, Any]) -> str:
    return f"{export['way']}, jax {export['versions']['jax']}"


def _probes(results: Results) -> dict[str, Any]:
    return next(export for export in results["exports"] if export["way"] == "probes")


def _read_of(results: Results, name: str) -> dict[str, dict[str, Any]]:
    read: dict[str, dict[str, Any]] = results["read"][name]
    return read


def _runs(outcome: Any) -> bool:
    return isinstance(outcome, float | int)


def _release(tensorflow: str) -> str:
    return tensorflow.rpartition(".")[0]


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _piped(rows: list[list[str]]) -> str:
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])
