"""Reports on finished runs: the folder is read, layers are counted, latency is measured where asked, pages are written.

What the folder says is checked only as far as a page needs it: a summary that cannot be shown is one clear line.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.config.layout import FRONT_HTML, saved_folder
from autoprune.errors import AutopruneError, ConfigError, RunError
from autoprune.report.dashboards.optuna_study import write_study
from autoprune.report.dashboards.tensorboard import write_events
from autoprune.report.files import atomic_write_bytes, atomic_write_text
from autoprune.report.observer import Observer
from autoprune.report.pages.comparison import comparison, comparison_page
from autoprune.report.pages.front import front_data, marks_of, write_front_html
from autoprune.report.pages.run import drawings, report_page
from autoprune.report.pictures.png import png
from autoprune.report.pictures.svg import Drawing
from autoprune.report.records.numbers import numbers_of
from autoprune.report.records.repeats import over_seeds, require_repeats, with_ranges
from autoprune.report.records.run import RunRecord, evaluations_of, require_search, rows_of
from autoprune.searching.inputs.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

REPORT, COMPARISON = "report.html", "compare.html"
#: Batches that latency is measured at: one image as on a device, and enough to fill one.
BATCHES = (1, 32)

Shown = tuple[dict[str, Any], list[dict[str, Any]]]


def write_report(
    run: Path,
    observer: Observer,
    *,
    out: Path | None = None,
    latency: bool = False,
    repeats: Sequence[Path] = (),
    optuna: Path | None = None,
    tensorboard: Path | None = None,
) -> dict[str, Any]:
    """Returns the numbers behind the report of a run, having written the page and its pictures.

    Args:
        run: the folder of a search, of a pruning or of a training.
        observer: hears of the stages.
        out: the page; `RUN/report.html` if None. The pictures lie in a folder of its name beside it.
        latency: whether to measure dense and pruned network on this machine.
        repeats: folders of the same search with other seeds, for error bars: on the page, and in `RUN/front.html`.
        optuna: a journal of Optuna studies to add the search to.
        tensorboard: a folder of TensorBoard's logs to add it to.

    Raises:
        RunError: the folder cannot be read, or a file cannot be written.
        ConfigError: `out` cannot be a page, a repeat is none, or what is asked for needs a search.
    """
    page = _page(out or run / REPORT)
    record = RunFolder(run).record()
    if repeats or optuna is not None or tensorboard is not None:
        require_search(record)
    with _fitting(run):
        layers, notes = _layers(run, record)
    record = replace(record, layers=layers, notes=notes)
    if latency:
        found, missing = _latency(run, observer)
        record = replace(record, latency=found, notes=(*record.notes, *missing))
    with _fitting(run, *repeats):
        record = replace(record, repeats=tuple(RunFolder(repeat).record() for repeat in repeats))
        numbers, rows = _repeated(record)
        markup = report_page(record, numbers, rows)
        pictures = _pictures(drawings(record, numbers, rows))
        if repeats:
            _write_front(run, record, rows)
    folder = page.with_suffix("")
    _make(folder if pictures else page.parent)
    for name, picture in pictures.items():
        atomic_write_bytes(folder / name, picture)
    atomic_write_text(page, markup)
    with _fitting(run):
        # Last: they refuse to hold a search twice, and whatever failed before can be asked for again.
        logs = _to_dashboards(record, rows, numbers["progress"], optuna=optuna, tensorboard=tensorboard)
    return {**numbers, "page": str(page), "pictures": [str(folder / name) for name in pictures], **logs}


def write_comparison(runs: Sequence[Path], *, out: Path | None = None) -> dict[str, Any]:
    """Returns a row a run, and the progress and front of each, having written the page that shows them.

    Args:
        runs: two or more run folders.
        out: the page; `compare.html` in the working directory if None.

    Raises:
        RunError: a folder cannot be read, or the page cannot be written.
        ConfigError: there is nothing to compare, or `out` cannot be a page.
    """
    if len(runs) < 2:
        raise ConfigError("A comparison needs two runs or more: autoprune compare RUN RUN ...")
    page = _page(out or Path(COMPARISON))
    shown: list[Shown] = []
    for run in runs:
        with _fitting(run):
            shown.append(_shown(RunFolder(run).record()))
    with _fitting(*runs):
        markup, found = comparison_page(shown), comparison([numbers for numbers, _ in shown])
    _make(page.parent)
    atomic_write_text(page, markup)
    for row, (numbers, rows) in zip(found, shown, strict=True):
        kept = ("id", "accuracy", "score", "macs", "params", "retained_flops", "proposed_by")
        row["front"] = [{key: one[key] for key in kept} for one in rows if one["front"]]
        row["progress"] = numbers["progress"]
    return {"runs": found, "over_seeds": over_seeds([numbers for numbers, _ in shown]), "page": str(page)}


def _repeated(record: RunRecord) -> Shown:
    """Returns numbers and rows of a run, with what its repeats add to them."""
    numbers, rows = _shown(record)
    others = [_shown(repeat) for repeat in record.repeats]
    require_repeats(numbers, [more for more, _ in others])
    numbers["over_seeds"] = over_seeds([numbers, *(more for more, _ in others)])
    return numbers, with_ranges(rows, [more for _, more in others])


def _write_front(run: Path, record: RunRecord, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the page of the front anew, with error bars."""
    write_front_html(
        run / FRONT_HTML,
        front_data(
            rows,
            marks=marks_of(record.summary, [repeat.summary for repeat in record.repeats]),
            budget=[str(text) for text in record.summary.get("budget", ())],
            dense_widths=record.groups,
            resource=record.front_resource,
            title=f"{record.summary.get('model')} on {record.summary.get('data')}",
            run=str(run),
            metric=str(record.summary.get("metric") or "accuracy"),
        ),
    )


def _to_dashboards(
    record: RunRecord,
    rows: Sequence[Mapping[str, Any]],
    steps: Sequence[Mapping[str, Any]],
    *,
    optuna: Path | None,
    tensorboard: Path | None,
) -> dict[str, str]:
    """Adds a search to what dashboards read, to all that is named or to nothing; returns where it is."""
    found: dict[str, str] = {}
    events = None if tensorboard is None else write_events(tensorboard, record, rows, steps)
    if optuna is not None:
        try:
            found |= {"optuna": str(optuna), "study": write_study(optuna, record, rows)}
        except BaseException:
            if events is not None:
                shutil.rmtree(events, ignore_errors=True)
            raise
    return found | ({} if tensorboard is None else {"tensorboard": str(tensorboard)})


def _pictures(found: Mapping[str, Drawing]) -> dict[str, bytes]:
    """Returns {file name: content}: every picture as SVG and, where matplotlib is there to draw it, as PNG."""
    files = {name: drawing.file().encode() for name, drawing in found.items()}
    with suppress(ImportError):
        files |= {str(Path(name).with_suffix(".png")): png(drawing) for name, drawing in found.items()}
    return files


def _shown(record: RunRecord) -> Shown:
    evaluations = evaluations_of(record)
    rows = rows_of(record, evaluations)
    return numbers_of(record, evaluations, rows), rows


@contextmanager
def _fitting(*runs: Path) -> Iterator[None]:
    """Turns what a file of unexpected content breaks into one clear line."""
    try:
        yield
    except AutopruneError:  # some are ValueErrors, too, and clear as they are
        raise
    except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
        names = " or ".join(repr(str(run)) for run in runs)
        raise RunError(
            f"What {names} says does not fit together ({type(error).__name__}: {error}). Was it written by this "
            "version of autoprune?"
        ) from error


def _page(path: Path) -> Path:
    if path.is_dir():
        raise ConfigError(f"--out {str(path)!r} is a folder. Name a file, for example {str(path / REPORT)!r}.")
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {str(path)!r} is no page. Name a file that ends in .html.")
    return path


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot make the folder {str(folder)!r}: {error.strerror}. Name another with --out.") from error


def _layers(run: Path, record: RunRecord) -> tuple[tuple[Mapping[str, Any], ...], tuple[str, ...]]:
    """Returns the MACs of every layer, dense, uniform and pruned; or nothing and a note why not."""
    if not record.widths:
        return (), ()
    # Tracing takes a second, but torch must not be needed by those who compare runs.
    from autoprune.searching.inspection.layer_costs import layer_costs

    uniform = (record.summary.get("uniform") or {}).get("widths")
    try:
        return tuple(layer_costs(run, record, uniform)), ()
    except AutopruneError as error:
        return (), (f"What each layer costs is left out: {error}",)


def _latency(run: Path, observer: Observer) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the measured latencies, and a note where the dense network is missing."""
    from autoprune.models.storage.saved import load, read_saved
    from autoprune.searching.inputs.dense import dense_network
    from autoprune.searching.latency.forward import measure_latency

    folder = saved_folder(run)
    saved = read_saved(folder)
    observer.stage(f"Loading {folder}")
    networks: dict[str, nn.Module] = {"pruned": load(folder)}
    notes: tuple[str, ...] = ()
    try:
        networks["dense"] = dense_network(folder, saved, None, observer, otherwise="")
    except AutopruneError:
        notes = ("The dense network was not found, so that its latency is left out.",)
    observer.stage("Measuring latency")
    return measure_latency(networks, saved.input_shape, batches=BATCHES), notes
