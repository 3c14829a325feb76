"""What `autoprune export` does: check, import what is heavy, call, show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.cli.work import driven, shown
from autoprune.config.layout import saved_folder


def export(directory: Path, formats: Sequence[str], *, settings: Mapping[str, Any], batch: str, as_json: bool) -> int:
    """Exports a saved network, shows how far each file deviates from it and returns the exit code."""
    from autoprune.config.exporting import ExportOptions, batch_from, formats_from

    options = ExportOptions(formats_from(formats), batch=batch_from(batch), **settings)
    saved_folder(directory)
    from autoprune.searching.delivery.exporting import export_saved

    entries = driven(lambda observer: export_saved(directory, options, observer))
    return shown({"directory": str(directory), "exports": entries}, _show, as_json=as_json)


def _show(report: Mapping[str, Any]) -> None:
    from autoprune.cli.render import show_table

    entries = report["exports"]
    rows = [
        (
            entry["path"],
            f"{entry['bytes'] / 1e6:.2f}",
            " x ".join(map(str, entry["input"]["shape"])),
            f"{entry['check']['max_deviation']:.1e}",
            ", ".join(map(str, entry["check"]["batches"])),
        )
        for entry in entries
    ]
    show_table("exported", ("file", "MB", "input", "largest deviation", "compared at batch"), rows)
    for values in dict.fromkeys(entry["input"]["values"] for entry in entries):
        print(
            f"\nThe input is {values}. Mean, std, widths and the comparison lie beside each file, with .json after it."
        )
    if any(entry["kind"] == "torchscript" for entry in entries):
        print("TorchScript is deprecated by torch: prefer torch-export where its reader allows it.")
