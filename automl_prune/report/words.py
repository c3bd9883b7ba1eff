"""A search in Markdown: what was ordered, what came out next to the controls, and at what cost."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from automl_prune.report.numbers import amount, quality, share, title
from automl_prune.report.told import ARMS, LATENCY, Told, key

Rows = Sequence[Sequence[object]]


def markdown(told: Told, pictures: Mapping[str, str]) -> str:
    """The report.

    Args:
        told: The search.
        pictures: Captions by file name, in order.
    """
    search = told.search
    parts = [
        f"# {_plain(search['name'] or search['id'])}",
        _facts(told),
        "## Networks",
        _networks(told),
        *(f"![{_plain(caption)}]({file})\n\n*{_plain(caption)}.*" for file, caption in pictures.items()),
        *_latency(told),
        "## Trials",
        _counted(told),
        *_cost(told),
        "`trials.csv` holds every trial with its widths; `search.json` and `best.json` are what the service told.",
    ]
    return "\n\n".join(parts) + "\n"


def table(headings: Sequence[str], rows: Rows) -> str:
    """A Markdown table, its first column to the left and numbers to the right."""
    lines = [headings, ["---", *["--:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(_plain(cell) for cell in line)} |" for line in lines)


def _facts(told: Told) -> str:
    search, spec = told.search, told.search["spec"]
    made = (told.result or {}).get("provenance", {})
    preset = made.get("preset") or spec["strategy"].get("preset")
    strategy = spec["strategy"]["name"] + (f", {preset}" if preset not in (None, "default") else "")
    splits = search["info"].get("splits", {})
    images = ", ".join(f"{name} {splits[name]['size']:,}" for name in ("fit", "select", "report") if name in splits)
    facts: dict[str, Any] = {
        "search": search["id"],
        "state": f"{search['state']}: {search['state_reason']}" if search["state_reason"] else search["state"],
        "space": spec["search_space"]["name"],
        "strategy": f"{strategy}, seed {spec['seed']}",
        "dataset": f"{spec['dataset']['name']} ({images} images)" if images else spec["dataset"]["name"],
        "weights": spec["weights"] or "trained by the service",
        "budgets": ", ".join(_budget(item) for item in search["info"].get("budgets", spec["budgets"])),
        "counted": made.get("convention"),
        "started, finished": f"{search['started_at']}, {search['finished_at'] or 'not yet'}",
        "versions": ", ".join(f"{name} {of}" for name, of in made.get("versions", {}).items()) or None,
        "mind": (told.result or {}).get("splits", {}).get("select_seen_by_weights"),
    }
    return table(["", ""], [(name, value) for name, value in facts.items() if value is not None]).replace("--:", "---", 1)


def _budget(item: Mapping[str, Any]) -> str:
    signs = {"min": "≥", "max": "≤", "min_ratio": "≥ of full:", "max_ratio": "≤ of full:"}
    return " and ".join(f"{title(key(item))} {signs[s]} {amount(item[s])}" for s in signs if item.get(s) is not None)


def _networks(told: Told) -> str:
    rows = list(told.networks())
    metric, score = title(told.metric), told.metric
    if not rows:
        best = told.search["best"]
        found = f"best so far: {quality(score, best['metrics'].get(score))} (trial {best['number']})" if best else "no score"
        return f"There is no result; the search is {told.search['state']}, {found}."
    named = ["macs", "params", *(name for name in rows[0].costs if name.startswith(f"{LATENCY}@"))]
    headings = ["network", f"{metric}, search", f"{metric}, report, before", "after recovery"]
    headings += [part for name in named for part in (title(name), "of full")]
    full = rows[0].costs
    return table(
        headings,
        [
            (
                row.name,
                *(quality(score, value) for value in (row.searched, row.before, row.report)),
                *(part for n in named for part in (amount(row.costs.get(n)), share(row.costs.get(n), full.get(n)))),
            )
            for row in rows
        ],
    )


def _latency(told: Told) -> Iterator[str]:
    if not told.devices:
        return
    yield "## Latency"
    rows = []
    for name, about in told.devices.items():
        how, check = about["conditions"], about["check"]
        said = f"{how['runtime']} {about['version']}, batch {how['batch']}, threads {how['threads']}, {how['dtype']}"
        errors = (share(check["mape"], 1), share(check["worst"], 1))
        fit = (f"{check['r2']:.3f}", f"{check['rank_correlation']:.3f}")
        rows.append([name, said, amount(about["full_ms"]), *errors, *fit])
    yield table(["device", "conditions", "full network, ms", "MAPE", "worst", "R²", "rank correlation"], rows)
    yield from (_checked(name, about) for name, about in told.devices.items())
    best = (told.result or {}).get("metrics", {}).get("latency", {})
    yield from (
        f"The best network takes {amount(found['measured_ms'])} ms on {name} as measured; "
        f"{amount(found['predicted_ms'])} ms were predicted.{_error(found)}"
        for name, found in best.items()
    )


def _error(found: Mapping[str, Any]) -> str:
    if "error" not in found:
        return ""
    return f" The measurement has a standard error of {share(found['error'], 1)} (timings: {found['timings']})."


def _checked(name: str, about: Mapping[str, Any]) -> str:
    check = about["check"]
    said = (
        f"On {name}, {about['timed']:,} measurements, of which {about.get('unsettled', 0):,} did not settle; predictions "
        f"checked on {len(check['measured'])} networks"
    )
    if about["trusted"]:
        return f"{said}."
    miss = f"they miss by more than {share(about['tolerance'], 1)}"
    return f"{said}. Every candidate was measured, as {miss if check['mape'] > about['tolerance'] else 'these are too few'}."


def _counted(told: Told) -> str:
    states = Counter((t["arm"], t["state"]) for t in told.trials)
    shown = sorted({state for _, state in states})
    arms = [arm for arm in dict.fromkeys([*ARMS, *(a for a, _ in states)]) if any(a == arm for a, _ in states)]
    return table(["arm", *shown], [(arm, *(states[arm, state] for state in shown)) for arm in arms])


def _cost(told: Told) -> Iterator[str]:
    spent = (told.result or {}).get("provenance", {}).get("search_cost")
    if spent:
        rows = [
            (arm, *(f"{row[name]:,.0f}" for name in ("evaluations", "images", "seconds", "cpu_seconds")))
            for arm, row in [*spent["by_arm"].items(), ("all", spent)]
        ]
        yield table(["cost", "evaluations", "images", "seconds of workers", "CPU seconds"], rows)
        known = spent.get("measured_before", 0)
        reused = f" Besides, {known:,} measurements of earlier searches were used." if known else ""
        yield f"From start to end {spent['wall_seconds']:,.0f} s.{_overhead(spent.get('executor'))}{reused}"


def _overhead(executor: Mapping[str, Any] | None) -> str:
    if not executor or executor["median_overhead_seconds"] is None:
        return ""
    return (
        f" Besides evaluation a trial took {executor['median_overhead_seconds']:.2g} s from its start to its record "
        f"(median of {executor['trials']:,}, {executor['kind']} executor), {executor['overhead_seconds']:,.1f} s in all."
    )


def _plain(text: object) -> str:
    """A cell's text: what would end it, begin a tag or break the line is put differently."""
    said = "".join(c if c.isprintable() else " " for c in str(text))
    return re.sub(r"[\\`*_\[\]|<>]", r"\\\g<0>", said)
