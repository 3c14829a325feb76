"""What `autoprune check-proxy` does: check, import what is heavy, call, show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.cli.work import driven, shown


def check_proxy(given: Mapping[str, Any], *, asked: Mapping[str, Any], as_json: bool) -> int:
    """Compares cheap scores with a finetune, shows the table and returns the exit code."""
    from autoprune.config.options import check_options
    from autoprune.strategies import strategy_names

    options = check_options(given, strategies=strategy_names())
    from autoprune.searching.experiments.proxies import ProxyOptions, check_proxies
    from autoprune.searching.inputs.options import SearchOptions

    wanted = ProxyOptions(**asked)
    report = driven(lambda observer: check_proxies(SearchOptions(**options), wanted, observer))
    return shown(report, _show, as_json=as_json)


def _show(report: Mapping[str, Any]) -> None:
    from autoprune.cli.render import show_table
    from autoprune.report.formats import epochs

    finetune = report["finetune"]
    rows = [
        (
            row["name"],
            _number(row["seconds"], "{:.2f} s"),
            _number(row["share"], "{:.1%}"),
            _number(row["tau"], "{:+.2f}"),
            "-" if row["low"] is None else f"{row['low']:+.2f} to {row['high']:+.2f}",
            _number(row["tau_better_half"], "{:+.2f}"),
        )
        for row in report["proxies"]
    ]
    show_table(
        f"{report['structures']} structures within {' and '.join(report['budget'])}",
        ("score after", "time", "of the finetune", "tau", "90 % interval", "better half"),
        rows,
    )
    print(
        f"Kendall's tau with the accuracy after {epochs(finetune['epochs'])} of finetuning, "
        f"{finetune['lowest']:.2%} to {finetune['highest']:.2%},\n"
        f"on {finetune['images']:,} images held out for this alone "
        f"(sampling error {finetune['sampling_error']:.2%})."
    )
    if finetune["highest"] - finetune["lowest"] < 4 * finetune["sampling_error"]:
        print("The finetuned networks hardly differ beyond that error: these data cannot tell good scores from bad.")
    ceiling = finetune["as_score"]
    if ceiling is not None and ceiling["tau"] is not None:
        print(
            f"The finetune itself with another seed, on the images of the scores, has a tau of {ceiling['tau']:+.2f} "
            f"({ceiling['low']:+.2f} to {ceiling['high']:+.2f}): ask no more of a score."
        )
    for failure in report["failures"]:
        print(f"Failed: structure {failure}")
    if report["recommended"] is not None:
        print(f"The cheapest score with a tau of {report['min_tau']:g} or more: {report['recommended']}.")
    elif ceiling is not None and ceiling["tau"] is not None and ceiling["tau"] < report["min_tau"]:
        print(f"Nothing reaches a tau of {report['min_tau']:g} on these images: give more of them that score.")
    else:
        print(f"No score reaches a tau of {report['min_tau']:g}: finetune longer before you choose, or search more.")
    print(f"The measurements are in {report['out']}.")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
