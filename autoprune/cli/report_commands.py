"""What `autoprune pick`, `report` and `compare` do: check, import what is heavy, call, show."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.cli.work import driven, shown
from autoprune.config.layout import INCUMBENT, LEDGER, SUMMARY, TRAINING, require_folder_place
from autoprune.errors import ConfigError

if TYPE_CHECKING:
    from autoprune.searching.delivery.second_process import Aside


def pick(
    run: Path,
    chosen: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    out: Path | None,
    finetune_epochs: float,
    as_json: bool,
) -> int:
    """Saves a candidate of a search, hands it to MLflow, and shows what became of it.

    Args:
        run: the run folder.
        chosen: arguments of `Choice`.
        wanted: arguments of `Registration`.
        out: where to save it.
        finetune_epochs: of the network.
        as_json: whether to print JSON.
    """
    if all(value is None for value in chosen.values()):
        raise ConfigError("Which candidate? Name it with --id, or ask with --budget or --min-accuracy.")
    from autoprune.searching.inputs.run_folder import RunFolder

    RunFolder(run).require_search()
    require_folder_place(out)
    if out is not None:
        _require_no_run(out)
    if not 0 <= finetune_epochs < float("inf"):
        raise ConfigError(f"--finetune-epochs is {finetune_epochs:g}, but must be a finite number of at least 0.")
    if chosen["budget"] is not None:
        from autoprune.core.budget import Budget

        Budget.parse_limit(chosen["budget"])
    # Before torch is imported. The network is small and the machine perhaps busy: threads that wait for one another
    # actively took 16.5 s of processor time where 6.6 s suffice.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from autoprune.searching.delivery.second_process import Aside

    with nullcontext() if wanted["no_mlflow"] else Aside() as aside:
        entry = _picked(run, chosen, wanted, out=out, finetune_epochs=finetune_epochs, aside=aside)
    from autoprune.cli.render import show_pick

    return shown(entry, show_pick, as_json=as_json)


def _require_no_run(out: Path) -> None:
    """Refuses the folder of a run and that of its best network, which `evaluate`, `export` and `report` would lose."""
    place = out.resolve()
    for folder in (place, *([place.parent] if place.name == INCUMBENT else [])):
        if any((folder / name).exists() for name in (LEDGER, SUMMARY, TRAINING)):
            raise ConfigError(f"{str(out)!r} belongs to a run. Name another folder with --out.")


def _picked(
    run: Path,
    chosen: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    out: Path | None,
    finetune_epochs: float,
    aside: Aside | None,
) -> dict[str, Any]:
    from autoprune.searching.delivery.picking import Choice, pick
    from autoprune.searching.delivery.registering import Registration

    choice, registration = Choice(**chosen), Registration(**wanted)
    return driven(
        lambda observer: pick(
            run,
            choice,
            observer=observer,
            out=out,
            finetune_epochs=finetune_epochs,
            registration=registration,
            aside=aside,
        )
    )


def report(
    run: Path,
    *,
    out: Path | None,
    latency: bool,
    repeats: Sequence[Path],
    optuna: Path | None,
    tensorboard: Path | None,
    as_json: bool,
) -> int:
    """Writes the report of a run and says where it is."""
    from autoprune.searching.inputs.run_folder import RunFolder

    for folder in (run, *repeats):
        RunFolder(folder).require_run()
    if optuna is not None:
        from autoprune.report.dashboards.optuna_study import require_place

        require_place(optuna)
    from autoprune.searching.inspection.reporting import write_report

    numbers = driven(
        lambda observer: write_report(
            run, observer, out=out, latency=latency, repeats=repeats, optuna=optuna, tensorboard=tensorboard
        )
    )
    return shown(numbers, _show_report, as_json=as_json)


def compare(runs: Sequence[Path], *, out: Path | None, as_json: bool) -> int:
    """Writes a page of several runs and shows their table."""
    if len(runs) < 2:
        raise ConfigError("A comparison needs two runs or more: autoprune compare RUN RUN ...")
    from autoprune.searching.inputs.run_folder import RunFolder

    for run in runs:
        RunFolder(run).require_run()
    from autoprune.searching.inspection.reporting import write_comparison

    return shown(write_comparison(runs, out=out), _show_comparison, as_json=as_json)


def _show_report(numbers: Mapping[str, Any]) -> None:
    from autoprune.cli.render import show_table
    from autoprune.report.formats import milliseconds

    agreement, latency = numbers["agreement"], numbers["latency"]
    if agreement and agreement["tau"] is not None:
        print(
            f"Kendall's tau of the first rung against the last: {agreement['tau']:+.2f} over {agreement['pairs']:,} "
            f"pairs of {len(agreement['candidates'])} candidates"
        )
    if latency:
        rows = [
            (
                row["device"],
                str(row["batch"]),
                milliseconds(row["dense"]),
                milliseconds(row["pruned"]),
                "-" if row["speedup"] is None else f"{row['speedup']:.2f}",
            )
            for row in latency["rows"]
        ]
        threads = f"{latency['threads']} thread{'s' if latency['threads'] != 1 else ''}"
        show_table(f"latency, {threads}", ("device", "batch", "dense", "pruned", "times as fast"), rows)
        if not all(row["steady"] for row in latency["rows"]):
            print("  The passes differed widely: the machine was busy, and an idle one would tell more.")
        print()
    _show_seeds(numbers["over_seeds"])
    for note in numbers["notes"]:
        if "left out" in note:
            print(f"Note: {note}")
    print(f"The report is in {numbers['page']}.")
    if numbers["pictures"]:
        places = [Path(picture) for picture in numbers["pictures"]]
        endings = " and ".join(dict.fromkeys(place.suffix for place in places))
        print(
            f"Its pictures are in {places[0].parent}: {', '.join(dict.fromkeys(p.stem for p in places))} ({endings})."
        )
    if "study" in numbers:
        print(f"The Optuna study {numbers['study']}: optuna-dashboard {shlex.quote(numbers['optuna'])}")
    if "tensorboard" in numbers:
        print(f"TensorBoard: tensorboard --logdir {shlex.quote(numbers['tensorboard'])}")


def _show_seeds(groups: Sequence[Mapping[str, Any]]) -> None:
    from autoprune.cli.render import show_table
    from autoprune.report.records.repeats import HEADINGS, seed_lines

    for group in groups:
        title = f"{group['model']} on {group['data']}, {' and '.join(group['budget'])}: {len(group['seeds'])} seeds"
        show_table(title, HEADINGS, seed_lines(group))
        print()


def _show_comparison(found: Mapping[str, Any]) -> None:
    from autoprune.cli.render import show_table
    from autoprune.report.pages.comparison import HEADINGS, comparison_lines

    show_table(f"{len(found['runs'])} runs", HEADINGS, comparison_lines(found["runs"]))
    print()
    _show_seeds(found["over_seeds"])
    print(f"The page is in {found['page']}.")
