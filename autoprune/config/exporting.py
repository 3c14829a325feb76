"""What an export is asked for: formats, batch, operator set. Values only, so that a wrong one is answered at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprune.config.layout import require_folder_place
from autoprune.errors import ConfigError, nearest

#: {format: the ending of its file}.
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "torchscript": ".torchscript", "safetensors": ".safetensors"}
#: An `--out` that ends like this is a file; everything else is a folder.
_FILE_ENDINGS = frozenset({*SUFFIXES.values(), ".pt", ".pth", ".ts"})
#: The lowest operator set that torch's exporter writes without converting afterwards, which fails for many networks.
LOWEST_OPSET = 18
DYNAMIC = "dynamic"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to write, and how.

    Attributes:
        formats: keys of `SUFFIXES`, each once.
        out: a folder, or the file where there is one format; None for `export/` in the exported folder.
        batch: images of every later forward; None where that stays free.
        opset: of ONNX; None for the exporter's own.
        with_preprocessing: whether the file itself brings pixels to what the network was trained on.
    """

    formats: tuple[str, ...]
    out: Path | None = None
    batch: int | None = None
    opset: int | None = None
    with_preprocessing: bool = False

    def __post_init__(self) -> None:
        if not self.formats:
            raise ConfigError(f"Which format? Give --format, for example --format onnx. Known: {', '.join(SUFFIXES)}.")
        for name in self.formats:
            if name not in SUFFIXES:
                raise ConfigError(f"Unknown format {name!r}.{nearest(name, SUFFIXES)}")
        if self.batch is not None and self.batch < 1:
            raise ConfigError(f"--batch {self.batch} must be {DYNAMIC!r} or at least 1.")
        if self.opset is not None and "onnx" not in self.formats:
            raise ConfigError("--opset is for ONNX alone. Leave it out, or add --format onnx.")
        if self.opset is not None and self.opset < LOWEST_OPSET:
            raise ConfigError(f"--opset {self.opset} is too old: torch's exporter writes {LOWEST_OPSET} or newer.")
        if self.with_preprocessing and "safetensors" in self.formats:
            raise ConfigError("A safetensors file holds weights and no forward. Leave --with-preprocessing out for it.")
        if self.out is not None and self._names_file and len(self.formats) > 1:
            raise ConfigError(f"--out {str(self.out)!r} is one file, but there are several formats. Name a folder.")
        if self.out is not None:
            require_folder_place(self.out.parent if self._names_file else self.out)

    def file(self, name: str, folder: Path) -> Path:
        """Returns where a format goes.

        Args:
            name: the format.
            folder: what was exported, for the default.
        """
        if self.out is not None and self._names_file:
            return self.out
        return (self.out or folder / "export") / f"model{SUFFIXES[name]}"

    @property
    def _names_file(self) -> bool:
        return self.out is not None and self.out.suffix in _FILE_ENDINGS and not self.out.is_dir()


def formats_from(texts: Sequence[str]) -> tuple[str, ...]:
    """Returns the formats of options that may each hold several, separated by commas."""
    names = (name.strip() for text in texts for name in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def batch_from(text: str) -> int | None:
    """Returns a number of images, or None for `dynamic`.

    Raises:
        ConfigError: it is neither.
    """
    if text == DYNAMIC:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"Cannot read --batch {text!r}. Write {DYNAMIC!r} or a number of images.") from error
