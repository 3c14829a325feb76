"""The latency that a budget speaks of: a table of layers measured once, calibrated and checked on cut networks.

Every distinct layer call is timed alone at a grid of widths, all in turns, and the fastest pass counts: noise only ever
adds. What is no layer is fitted to a few really cut networks (`_calibration`); others, which the fit has not seen, tell
how wrong predictions are. All of it is recorded with the search: a resumed one predicts the same numbers.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.core.cost import AxisWidth
from autoprune.core.forms import FloatArray
from autoprune.core.latency import LatencyForm, LayerTable
from autoprune.core.seeds import generator
from autoprune.core.structure import Structure
from autoprune.devices import is_gpu, machine
from autoprune.errors import ModelError, RunError
from autoprune.models.costing.layer_calls import CalledLayer, LayerShape, layer_calls
from autoprune.models.cutting.surgery import cut, random_kept
from autoprune.models.network import TracedNetwork
from autoprune.searching.latency.timing import STEADY, Effort, spread_of, timed

#: Widths that are measured of an axis that is cut: of a layer's only one, and of each of two.
_ALONE, _PAIRED = 9, 5
#: Of the layers, and of the networks, each all together.
LAYERS = Effort(warm_up=3, repeats=15, most_repeats=60, seconds=20.0)
NETWORKS = Effort(warm_up=3, repeats=15, most_repeats=200, seconds=10.0)
#: Networks that the rest is fitted to, and others that predictions are checked on.
_FITTED, _CHECKED = 6, 5
#: Calls of a layer at a time on a GPU, where waiting for one would take longer than the call.
_GPU_CALLS = 20
#: What a scale that is off by one weighs, as a relative error of one network.
_PRIOR = 0.3


@dataclass(frozen=True, slots=True)
class Setting:
    """Where latency is measured.

    Attributes:
        device: as torch names it.
        machine: name of the processor and the GPU.
        threads: of torch.
        batch: images of a forward pass.
        torch: its version.
    """

    device: str
    machine: str
    threads: int
    batch: int
    torch: str

    @classmethod
    def here(cls, device: str, *, threads: int, batch: int) -> Setting:
        """Returns the setting of this machine."""
        return cls(device, machine(device), threads, batch, torch.__version__)


@dataclass(frozen=True, slots=True)
class Check:
    """One really cut network, in nanoseconds of a forward pass.

    Attributes:
        predicted: from the table.
        measured: the fastest pass.
    """

    predicted: int
    measured: int

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted / max(1, self.measured) - 1


@dataclass(frozen=True)
class LatencyRecord:
    """What was measured: enough to predict the same latencies again.

    Attributes:
        setting: where.
        points: {`LayerShape.key`: nanoseconds}.
        scale: of the layers' times inside a network.
        per_element: nanoseconds for each element that a layer writes.
        constant: nanoseconds of everything else.
        checks: networks that the fit has not seen.
        spread: half the interquartile range of the passes as a share of their median, in the median of all.
    """

    setting: Setting
    points: Mapping[str, float]
    scale: float
    per_element: float
    constant: float
    checks: tuple[Check, ...]
    spread: float

    @property
    def steady(self) -> bool:
        """Whether the machine was quiet enough for the figures to mean something."""
        return self.spread <= STEADY

    @property
    def error(self) -> float:
        """Median of the relative errors without their signs, over networks that the fit has not seen."""
        return statistics.median(abs(check.error) for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> LatencyRecord:
        """Returns the record that a ledger holds.

        Raises:
            RunError: it holds something else.
        """
        try:
            setting = Setting(**values["setting"])
            checks = tuple(Check(int(one["predicted"]), int(one["measured"])) for one in values["checks"])
            points = {str(key): float(time) for key, time in values["points"].items()}
            numbers = [float(values[name]) for name in ("scale", "per_element", "constant", "spread")]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"The recorded latencies cannot be read ({error!r}). Search anew.") from error
        if not all(np.isfinite(value) and value >= 0 for value in (*numbers, *points.values())) or not checks:
            raise RunError("The recorded latencies are no times. Search anew.")
        scale, per_element, constant, spread = numbers
        return cls(setting, points, scale, per_element, constant, checks, spread)


class LatencyMeter:
    """Measures networks of one trace in one setting, and predicts them."""

    def __init__(self, model: nn.Module, network: TracedNetwork, images: torch.Tensor, setting: Setting) -> None:
        """Reads the layers' shapes.

        Args:
            model: the dense network, in eval mode, on the CPU.
            network: its trace.
            images: (1, C, H, W) an image; the batch repeats it.
            setting: where to measure.
        """
        self._model, self._network, self.setting = model, network, setting
        self._images = images.repeat(setting.batch, *[1] * (images.dim() - 1))

    @cached_property
    def layers(self) -> tuple[CalledLayer, ...]:
        """The calls of a forward pass of the batch."""
        found = layer_calls(self._model, self._network, self._images)
        if not found:
            raise ModelError("The network has no layer whose latency could be measured. Use another budget.")
        return found

    def points(self) -> tuple[LayerShape, ...]:
        """Returns every call that the tables need, each once."""
        return tuple(dict.fromkeys(shape for layer in self.layers for shape in itertools.chain(*self._grid(layer)[2])))

    def form(self, points: Mapping[str, float]) -> LatencyForm:
        """Returns the form of the layers alone, from measured points.

        Raises:
            RunError: a point is missing.
        """
        tables = []
        for layer in self.layers:
            rows, columns, shapes = self._grid(layer)
            try:
                times = np.array([[points[shape.key] for shape in line] for line in shapes])
            except KeyError as error:
                raise RunError(f"The recorded latencies lack {error.args[0]!r}. Search anew.") from error
            tables.append(LayerTable(layer.inner, layer.out, rows, columns, times, layer.written))
        return LatencyForm.of(tables, len(self._network.groups))

    def predicting(self, record: LatencyRecord) -> LatencyForm:
        """Returns the form of whole networks that a record describes."""
        layers = self.form(record.points)
        return layers.calibrated(scale=record.scale, per_element=record.per_element, constant=record.constant)

    def time_points(self, shapes: Sequence[LayerShape]) -> tuple[dict[str, float], float]:
        """Returns {key: nanoseconds} of layers run alone, and the median spread of their passes."""
        if not shapes:
            return {}, 0.0
        memory = torch.randn(max(max(shape.size) for shape in shapes), device=self.setting.device)
        effort = replace(LAYERS, calls=_GPU_CALLS) if is_gpu(self.setting.device) else LAYERS
        with torch.inference_mode():
            seconds = timed({shape.key: shape.call(memory) for shape in shapes}, effort, device=self.setting.device)
        return _fastest(seconds), statistics.median(spread_of(values) for values in seconds.values())

    def time_networks(self, structures: Mapping[str, Structure]) -> tuple[dict[str, float], float]:
        """Returns {name: nanoseconds} of forward passes of really cut networks, and the median spread of the passes."""
        rng = np.random.default_rng(0)
        images = self._images.to(self.setting.device)
        passes = {}
        for name, structure in structures.items():
            kept = random_kept(self._network, structure, rng)
            network = cut(self._model, self._network, kept).eval().to(self.setting.device)
            passes[name] = partial(network, images)
        with torch.inference_mode():
            seconds = timed(passes, NETWORKS, device=self.setting.device)
        return _fastest(seconds), statistics.median(spread_of(values) for values in seconds.values())

    def measured(self, known: Mapping[str, float], *, seed: int) -> LatencyRecord:
        """Returns the record of this setting.

        Args:
            known: points that were measured before.
            seed: of the structures that the fit and the check are made on.
        """
        needed = self.points()
        missing = [shape for shape in needed if shape.key not in known]
        fresh, spread = self.time_points(missing)
        points = {shape.key: {**known, **fresh}[shape.key] for shape in needed}
        layers = self.form(points)
        structures = self._structures(seed)
        times, spread_of_networks = self.time_networks(structures)
        names = list(structures)
        widths = np.array([structures[name].widths for name in names], dtype=np.float64)
        seen = np.array([times[name] for name in names])
        scale, per_element, constant = _calibration(layers, widths[:_FITTED], seen[:_FITTED])
        form = layers.calibrated(scale=scale, per_element=per_element, constant=constant)
        predicted = np.ceil(form.relaxed(widths))
        checks = [Check(int(guess), int(time)) for guess, time in zip(predicted, seen, strict=True)][_FITTED:]
        return LatencyRecord(
            self.setting, points, scale, per_element, constant, tuple(checks), max(spread, spread_of_networks)
        )

    def _structures(self, seed: int) -> dict[str, Structure]:
        """Returns the dense network, uniform ones and random ones: first those to fit to, then those to check."""
        rng = generator(seed, "latency")
        dense = np.array([group.width for group in self._network.groups])
        shares = [1.0, 0.75, 0.5, 0.25]
        points = [np.full(len(dense), share) for share in shares]
        points += [rng.uniform(0.1, 1.0, len(dense)) for _ in range(_FITTED + _CHECKED - len(shares))]
        widths = [np.clip(np.rint(point * dense), 1, dense).astype(int).tolist() for point in points]
        return {str(index): Structure(tuple(row)) for index, row in enumerate(widths)}

    def _grid(self, layer: CalledLayer) -> tuple[list[int], list[int], list[list[LayerShape]]]:
        """Returns the input widths, the output widths and the calls that a layer's table is made of."""
        least = [1] * len(self._network.groups)
        dense = [group.width for group in self._network.groups]
        if layer.shape.groups == 0:
            # A depthwise layer has one width; its table has one column.
            times = max(1, layer.shape.out // layer.shape.inner)
            rows = _spread(layer.inner, least, dense, count=_ALONE, step=1)
            return rows, [layer.shape.out], [[layer.at(width, times * width)] for width in rows]
        count = _PAIRED if layer.inner.groups and layer.out.groups else _ALONE
        step = max(1, layer.shape.groups)
        rows = _spread(layer.inner, least, dense, count=count, step=step)
        columns = _spread(layer.out, least, dense, count=count, step=step)
        return rows, columns, [[layer.at(row, column) for column in columns] for row in rows]


def _spread(axis: AxisWidth, least: Sequence[int], dense: Sequence[int], *, count: int, step: int) -> list[int]:
    """Returns at most `count` widths of an axis, multiples of `step`, evenly spread over the logarithm."""
    low, high = axis.of(least), axis.of(dense)
    if low >= high:
        return [high]
    wished = np.rint(np.geomspace(low, high, count) / step) * step
    return sorted({int(np.clip(width, step, high)) for width in wished} | {high})


def _fastest(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: 1e9 * min(values) for name, values in seconds.items()}


def _calibration(layers: LatencyForm, widths: FloatArray, times: FloatArray) -> tuple[float, float, float]:
    """Returns (scale, per_element, constant), none below 0, of the least relative squared error.

    What a layer takes alone it should take in a network: a scale off 1 is charged for. Of three numbers, every subset
    is fitted, and of the fits without a negative number the best is taken.
    """
    times_of_layers, elements = layers.parts(widths)
    seen = np.column_stack([times_of_layers, elements, np.ones(len(times))]) / times[:, None]
    rows = np.vstack([seen, [_PRIOR, 0.0, 0.0]])
    wanted = np.append(np.ones(len(times)), _PRIOR)
    best, least = np.zeros(3), np.inf
    for chosen in itertools.product([False, True], repeat=3):
        picked, fit = np.flatnonzero(chosen), np.zeros(3)
        if len(picked):
            fit[picked] = np.linalg.lstsq(rows[:, picked], wanted, rcond=None)[0]
        error = float(((rows @ fit - wanted) ** 2).sum())
        if (fit >= 0).all() and error < least:
            best, least = fit, error
    return float(best[0]), float(best[1]), float(best[2])
