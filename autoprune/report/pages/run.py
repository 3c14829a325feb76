"""The report of a run: one page that needs neither network nor server, for a manager or a paper.

Every text that comes from a run goes through `escape`, whatever it claims to be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autoprune.core.resources import RESOURCES
from autoprune.report import formats
from autoprune.report.pages.frame import filled
from autoprune.report.pages.front import embed, front_data, marks_of
from autoprune.report.pages.front_script import SCRIPT
from autoprune.report.pages.markup import Counter, Draw, escape, figure, fill_page, meter, section, table
from autoprune.report.pages.sections import latency_section, making_section, seeds_section
from autoprune.report.pages.style import FRONT
from autoprune.report.pictures import figures
from autoprune.report.pictures.front import front_figure
from autoprune.report.pictures.svg import Drawing
from autoprune.report.records.run import FINETUNE, PRUNE, SEARCH, TRAIN, RunRecord

Numbers = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
#: {key: name, how it is written} of the costs in the table of networks.
_COSTS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("macs", "MACs", formats.count),
    ("flops", "FLOPs", formats.count),
    ("retained_flops", "kept", formats.share),
    ("params", "parameters", formats.count),
    ("retained_params", "kept", formats.share),
)
_KINDS = {SEARCH: "Search", PRUNE: "Pruning by one method", TRAIN: "Training", FINETUNE: "Finetuning"}


def report_page(record: RunRecord, numbers: Numbers, rows: Rows) -> str:
    """Returns the report as HTML.

    Args:
        record: the run.
        numbers: of `records.numbers.numbers_of`.
        rows: of its candidates, `records.run.rows_of`.
    """
    count = Counter()
    sections = [
        _header(numbers),
        _tiles(numbers),
        _networks(numbers),
        seeds_section(numbers["over_seeds"]),
        _front(record, numbers, rows, count),
        _progress(numbers, rows, count),
        _training(numbers, count),
        _widths(numbers, count),
        _layers(numbers, count),
        _strategies(numbers),
        _agreement(numbers, count),
        latency_section(numbers),
        making_section(numbers),
        "<footer>Written by autoprune. FLOPs are two per multiply-accumulate of convolutions and linear layers, for "
        "one image.</footer>",
    ]
    title = f"{_name(numbers)}: autoprune report"
    return fill_page(title, "\n".join(part for part in sections if part))


def drawings(record: RunRecord, numbers: Numbers, rows: Rows) -> dict[str, Drawing]:
    """Returns {file name: picture} of what the run has: `front.svg`, `progress.svg`, `widths.svg` and others."""
    found: dict[str, Draw | None] = {
        "front.svg": _draw_front(record, numbers, rows),
        "progress.svg": _draw_progress(numbers, rows) or _draw_training(numbers),
        "widths.svg": _draw_widths(numbers),
        "layers.svg": _draw_layers(numbers),
        "rungs.svg": _draw_agreement(numbers),
    }
    return {name: draw(figures.WIDE) for name, draw in found.items() if draw is not None}


def _name(numbers: Numbers) -> str:
    return f"{numbers['model'] or 'network'} on {numbers['data'] or 'unknown data'}"


def _network(numbers: Numbers, name: str) -> Mapping[str, Any]:
    return next((row for row in numbers["networks"] if row["name"] == name), {})


def _result(numbers: Numbers) -> Mapping[str, Any]:
    networks = numbers["networks"]
    last: Mapping[str, Any] = networks[-1] if networks else {}
    return last if last.get("name") in ("incumbent", "pruned", "trained") else {}


def _header(numbers: Numbers) -> str:
    parts = [_KINDS[numbers["kind"]]]
    if numbers["budget"]:
        parts.append(f"budget {' and '.join(map(str, numbers['budget']))}")
    if numbers["method"]:
        parts.append(f"method {numbers['method']['name']}")
    if numbers["scope"]:
        parts.append(f"scope {numbers['scope']}")
    if numbers["candidates"]:
        parts.append(f"{numbers['candidates']:,} candidates by {numbers['strategy']}")
    if numbers["seed"] is not None:
        parts.append(f"seed {numbers['seed']}")
    return (
        f"<header><h1>{escape(_name(numbers))}</h1><p>{escape(', '.join(parts))}</p>"
        f'<p class="lead">{escape(_lead(numbers))}</p></header>'
    )


def _lead(numbers: Numbers) -> str:
    """Returns the result in a sentence or two."""
    result, gains = _result(numbers), numbers["gains"]
    if numbers["interrupted"]:
        return "The run has not ended yet: what is here is what it has found so far; nothing has been tested."
    if not result or result.get("accuracy") is None:
        return f"The test set has not been touched: there is no final {numbers['metric']} to tell."
    named = "" if numbers["metric"] == "accuracy" else f" {numbers['metric']}"
    reached = formats.accuracy(result["accuracy"]) + named
    if result["name"] == "trained":
        before = "" if gains["before"] is None else f", {formats.points(gains['before'])} points against before"
        trained = formats.epochs(numbers["finetune_epochs"])
        return f"After {trained} the network reaches {reached} on the test set{before}."
    kept = f"{formats.share(result['retained_flops'])} of the FLOPs and {formats.share(result['retained_params'])}"
    text = f"The pruned network needs {kept} of the parameters of the dense one and reaches {reached} on the test set"
    against = [
        f"{formats.points(gains[name])} points against {label}"
        for name, label in (("dense", "the dense network"), ("uniform", "uniform widths at the same budget"))
        if gains[name] is not None
    ]
    return f"{text}: {' and '.join(against)}." if against else f"{text}."


def _tiles(numbers: Numbers) -> str:
    result, gains = _result(numbers), numbers["gains"]
    if not result:
        return ""
    tested = result["accuracy"] is not None
    against = next((name for name in ("dense", "before") if gains[name] is not None), None)
    found = [
        (
            formats.accuracy(result["accuracy"] if tested else result["holdout_accuracy"]),
            f"{'test' if tested else 'hold-out'} {numbers['metric']}",
            f"{formats.points(gains[against])} points against {against}" if against else "",
        )
    ]
    for key, name in (("flops", "FLOPs"), ("params", "parameters")):
        if result.get(key):
            share = result[f"retained_{key}"]
            label = name if share is None else f"of the dense {name}"
            found.append((formats.count(result[key]) if share is None else formats.share(share), label, ""))
            if share is not None:
                found[-1] = (*found[-1][:2], f"{formats.count(result[key])} {name}")
    if gains["uniform"] is not None:
        found.append((formats.points(gains["uniform"]), "points against uniform widths", "same budget, same treatment"))
    found += _speed_tile(numbers)
    if numbers["seconds"]:
        found.append((formats.duration(numbers["seconds"]), "in all", ""))
    tiles = (
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span><small>{escape(small)}</small></div>'
        for value, label, small in found
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _speed_tile(numbers: Numbers) -> list[tuple[str, str, str]]:
    rows = (numbers["latency"] or {}).get("rows", ())
    ratios = [(row["batch"], row["speedup"]) for row in rows if row["speedup"] and row["steady"]]
    if not ratios:
        return []
    batch, ratio = ratios[0]
    return [(f"{ratio:.1f}x", "as fast as dense", f"batch {batch}, measured on this machine")]


def _networks(numbers: Numbers) -> str:
    networks = numbers["networks"]
    before = any(row["accuracy_before_finetune"] is not None for row in networks)
    held = any(row["holdout_accuracy"] is not None for row in networks)
    columns = [(key, name, show) for key, name, show in _COSTS if any(row[key] for row in networks)]
    tests = f"test {numbers['metric']}"
    heads = ["network", *(["before finetuning"] if before else []), tests, *(["hold-out"] if held else [])]
    lines = []
    for row in networks:
        line = [escape(row["name"])]
        line += [formats.accuracy(row["accuracy_before_finetune"])] if before else []
        line += [formats.accuracy(row["accuracy"])]
        line += [formats.accuracy(row["holdout_accuracy"])] if held else []
        lines.append([*line, *(show(row[key]) for key, _, show in columns)])
    heads += [name for _, name, _ in columns]
    images = numbers["images"] or {}
    tested = any(row["accuracy"] is not None for row in networks)
    said = f"Tested at the end on {images['test']:,} images that nothing was chosen by." if images.get("test") else ""
    said = said if tested else "Nothing has been tested: only the hold-out is known."
    if before and len(networks) > 2 and numbers["finetune_epochs"]:
        said += f" Every pruned network was finetuned alike, for {formats.epochs(numbers['finetune_epochs'])}."
    strong = len(lines) - 1 if _result(numbers) else None
    return section("The result", escape(said), table(heads, lines, strong=strong)) if lines else ""


def _front_arguments(record: RunRecord, numbers: Numbers, rows: Rows) -> dict[str, Any]:
    summary = record.summary
    return front_data(
        rows,
        marks=marks_of(summary, [repeat.summary for repeat in record.repeats]),
        budget=[str(text) for text in summary.get("budget", ())],
        dense_widths=record.groups,
        resource=numbers["front_resource"],
        run=record.folder,
        metric=numbers["metric"],
    )


def _draw_front(record: RunRecord, numbers: Numbers, rows: Rows) -> Draw | None:
    if not rows:
        return None
    data = _front_arguments(record, numbers, rows)
    return lambda width: front_figure(
        rows,
        data["marks"],
        data["budgets"],
        resource=numbers["front_resource"],
        width=width,
        metric=numbers["metric"],
    )


def _front(record: RunRecord, numbers: Numbers, rows: Rows, count: Counter) -> str:
    draw = _draw_front(record, numbers, rows)
    if draw is None:
        return ""
    data = _front_arguments(record, numbers, rows)
    metric = numbers["metric"]
    apart = any(abs(row["score"] - row["accuracy"]) > 1e-9 for row in rows)
    said = f"; the score, the mean probability of the right class, tells networks of equal {metric} apart" * apart
    caption = count(
        f"Hold-out {metric} of every candidate against its cost. The line rises along the {len(numbers['front'])} that "
        f"no other beats in both score and cost{said}. It does not fall to those whose {metric} a cheaper one has."
    )
    if record.repeats:
        caption += (
            f" Bars: what this search and {len(record.repeats)} with other seeds measured of the same structure; at "
            "uniform and incumbent, what each of them reached."
        )
    cost = RESOURCES[numbers["front_resource"]].share_of
    labelled = f'aria-label="{escape(f"Hold-out {metric} against {cost}")}"'
    parts = {"DATA": embed(data), "SCRIPT": SCRIPT, "LABELLED": labelled, "CAPTION": caption}
    content = filled(FRONT, parts)
    static = f"<noscript>{figure(draw, 'The same picture without JavaScript.')}</noscript>"
    said = "Each point is a network that was really cut and then measured on hold-out images."
    return section(f"{formats.leading(metric)} against cost", said, static + content)


def _draw_progress(numbers: Numbers, rows: Rows) -> Draw | None:
    if not numbers["progress"]:
        return None
    top = numbers["progress"][-1]["level"]
    order = {row["id"]: index for index, row in enumerate(rows, start=1)}
    scores = [(order[row["id"]], row["score"]) for row in rows if row["level"] == top]
    return lambda width: figures.progress_figure(numbers["progress"], scores, width=width, rungs=numbers["rungs"])


def _progress(numbers: Numbers, rows: Rows, count: Counter) -> str:
    draw = _draw_progress(numbers, rows)
    if draw is None:
        return ""
    last = numbers["progress"][-1]
    reached = next(step for step in numbers["progress"] if step["incumbent"] == last["incumbent"])
    said = (
        f"The incumbent (candidate {last['incumbent']}) was found after {reached['candidates']} of "
        f"{last['candidates']} candidates; the front ends with a hypervolume of {last['hypervolume']:.4f}."
    )
    cost = RESOURCES[numbers["front_resource"]].share_of
    caption = count(
        "The score of the best candidate so far (line) and of each candidate on the last rung (points), and the area "
        f"that the front dominates over score and kept {cost}. Only scores of the highest rung are drawn: those of "
        "different rungs do not compare."
    )
    return section("Progress of the search", said, figure(draw, caption))


def _draw_training(numbers: Numbers) -> Draw | None:
    history = numbers["history"]
    return (lambda width: figures.training_figure(history, width=width, metric=numbers["metric"])) if history else None


def _training(numbers: Numbers, count: Counter) -> str:
    draw = _draw_training(numbers)
    if draw is None:
        return ""
    metric = formats.leading(numbers["metric"])
    caption = count(f"{metric} on images that were not trained on, and the training loss, after every epoch.")
    return section("Progress of the training", "", figure(draw, caption))


def _draw_widths(numbers: Numbers) -> Draw | None:
    widths = numbers["widths"]
    if not widths:
        return None
    dense, kept, uniform = (
        {row["group"]: row[key] for row in widths if row[key] is not None} for key in ("dense", "kept", "uniform")
    )
    return lambda width: figures.widths_figure(dense, kept, uniform, width=width)


def _widths(numbers: Numbers, count: Counter) -> str:
    draw = _draw_widths(numbers)
    if draw is None:
        return ""
    widths = numbers["widths"]
    share = sum(row["kept"] for row in widths) / sum(row["dense"] for row in widths)
    least = min(widths, key=lambda row: row["kept"] / row["dense"])
    most = max(widths, key=lambda row: row["kept"] / row["dense"])
    said = (
        f"Of {sum(row['dense'] for row in widths):,} prunable channels in {len(widths)} groups {formats.share(share)} "
        f"remain: least in {least['group']} ({least['kept']} of {least['dense']}), most in {most['group']} "
        f"({most['kept']} of {most['dense']})."
    )
    listed = [
        [escape(row["group"]), str(row["dense"]), str(row["kept"] or "removed"), meter(row["kept"] / row["dense"])]
        for row in widths
    ]
    details = (
        "<details class=card><summary>As a table</summary>"
        f"{table(['group', 'dense', 'kept', 'share'], listed)}</details>"
    )
    caption = count("Channels of every prunable group in the order of the network, before and after.")
    return section("What was kept of each layer", escape(said), figure(draw, caption) + details)


def _draw_layers(numbers: Numbers) -> Draw | None:
    layers = numbers["layers"]
    return (lambda width: figures.layers_figure(layers, width=width)) if layers else None


def _layers(numbers: Numbers, count: Counter) -> str:
    draw = _draw_layers(numbers)
    if draw is None:
        return ""
    layers = numbers["layers"]
    saved = sorted(layers, key=lambda layer: layer["pruned"] - layer["dense"])[:3]
    total = sum(layer["dense"] - layer["pruned"] for layer in layers)
    names = ", ".join(f"{layer['name']} ({formats.count(layer['dense'] - layer['pruned'])})" for layer in saved)
    said = f"{formats.count(total)} multiply-accumulates an image are saved, most of them in {names}." if total else ""
    merged = len(figures.merged_layers(layers)) < len(layers)
    what = "block of layers" if merged else "convolution and linear layer"
    caption = count(f"Multiply-accumulates of every {what} in the order of the network, dense and pruned.")
    return section("Where the FLOPs went", escape(said), figure(draw, caption))


def _strategies(numbers: Numbers) -> str:
    found = numbers["strategies"]
    if not found:
        return ""
    heads = ["proposed by", "candidates", "failed", "last rung", "best hold-out", "best score", "on the front"]
    lines = [
        [
            escape(one["name"]),
            str(one["proposed"]),
            str(one["failed"]),
            str(one["finished"]),
            formats.accuracy(one["best_accuracy"]),
            "-" if one["best_score"] is None else f"{one['best_score']:.4f}",
            f"{one['front']} of {len(numbers['front'])}{meter(one['front_share'], figure=False)}",
        ]
        for one in found
    ]
    said = (
        "Candidates that each strategy or heuristic proposed, how many reached the last rung, the best of these, and "
        "its share of the front."
    )
    return section("Who found what", said, table(heads, lines))


def _draw_agreement(numbers: Numbers) -> Draw | None:
    agreement = numbers["agreement"]
    if agreement is None or len(agreement["candidates"]) < 2:
        return None
    incumbent = numbers["progress"][-1]["incumbent"] if numbers["progress"] else None
    return lambda width: figures.rungs_figure(agreement, incumbent=incumbent, width=width)


def _agreement(numbers: Numbers, count: Counter) -> str:
    draw = _draw_agreement(numbers)
    if draw is None:
        return ""
    agreement = numbers["agreement"]
    tau = "is not defined: all scores are equal" if agreement["tau"] is None else f"is {agreement['tau']:+.2f}"
    said = (
        f"Kendall's tau between the first rung ({agreement['first']}) and the last ({agreement['last']}) {tau}, over "
        f"{agreement['pairs']:,} pairs of the {len(agreement['candidates'])} candidates that were scored on both. "
        "Only the better ones by the first rung were scored on both: over all candidates ranks usually agree more."
    )
    caption = count("What the cheap estimate said of a candidate, and what the dearest one says.")
    return section("How well the cheap estimate foretold the dear one", escape(said), figure(draw, caption))
