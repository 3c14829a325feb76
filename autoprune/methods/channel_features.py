"""What a channel of a group looks like, over all layers that make it: the features that ASCP clusters.

A filter is folded with the batch norm that alone reads it: gamma / sqrt(var + eps) times the weights, and the bias
beta - gamma mu / sqrt(var + eps) that comes out of it. Only so do filters compare that act alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.cost import FloatArray
from autoprune.methods.clusters import compressed
from autoprune.methods.softly import ChannelAxis, GroupAxes, Mask
from autoprune.models.network import LayerCall
from autoprune.models.surgery import named_tensors


@torch.no_grad()
def group_features(model: nn.Module, group: GroupAxes) -> FloatArray:
    """Returns (N, at most N) features, those of all member layers side by side.

    Folded filters and biases of the producers and of depthwise filters that follow, then what else follows: scale and
    shift of further batch norms, slopes.
    """
    tensors, places = named_tensors(model), {axis.name: axis for axis in group.makers}
    parts, folded = [], set()
    for call in group.calls:
        axis, norm = places[call.weight], _norm_of(model, call)
        scale, shift = _folding(norm, tensors[call.bias] if call.bias is not None else None)
        rows = axis.rows(tensors[call.weight]).flatten(1).double()
        index = torch.from_numpy(axis.positions).to(rows.device)
        parts.append(_per_channel(rows if scale is None else rows * scale[index][:, None], axis))
        if shift is not None:
            parts.append(_per_channel(shift[index][:, None], axis))
        folded.update({call.weight, call.bias})
        if norm is not None and call.norm is not None:
            folded.update(f"{call.norm.rpartition('.')[0]}.{leaf}" for leaf in ("weight", "bias"))
    for axis in group.makers:
        if axis.name not in folded and not _is_statistic(axis):
            rows = axis.rows(_effective(model, axis.name, tensors)).double()
            parts.append(_per_channel(rows.reshape(len(axis.positions), -1), axis))
    return compressed(np.concatenate(parts, axis=1)) if parts else np.zeros((group.width, 1))


@torch.no_grad()
def silence(model: nn.Module, group: GroupAxes, channels: Mask) -> None:
    """Makes channels zero: through the scale and shift of their batch norms, through the filters where there is none.

    A zero filter before a batch norm would have its gradient inflated by 1 / sqrt(eps); a zero scale has not.
    """
    tensors = named_tensors(model)
    normed = {name for call in group.calls if _norm_of(model, call) is not None for name in (call.weight, call.bias)}
    for axis in group.makers:
        if axis.name not in normed and not _is_statistic(axis):
            axis.clear(tensors[axis.name], channels)


def _is_statistic(axis: ChannelAxis) -> bool:
    return axis.name.rpartition(".")[2] in ("running_mean", "running_var")


def _norm_of(model: nn.Module, call: LayerCall) -> nn.Module | None:
    if call.norm is None:
        return None
    module = model.get_submodule(call.norm.rpartition(".")[0])
    # A norm that is called as a function has no module: its parameters count as themselves.
    known = isinstance(module, nn.modules.batchnorm._NormBase) and module.running_var is not None
    return module if known else None


def _folding(norm: Any, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Returns the scale and the shift, per position, of a layer with its batch norm folded in."""
    if norm is None:
        return None, None if bias is None else bias.double()
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    mean = norm.running_mean.double() - (0.0 if bias is None else bias.double())
    return scale, norm.bias.double() - mean * scale


def _effective(model: nn.Module, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Returns a parameter; of a batch norm its scale or shift with the running statistics folded in."""
    prefix, _, leaf = name.rpartition(".")
    module: Any = model.get_submodule(prefix)
    is_norm = isinstance(module, nn.modules.batchnorm._NormBase)
    if not is_norm or module.running_var is None or module.weight is None:
        return tensors[name]
    scale, shift = _folding(module, None)
    chosen = scale if leaf == "weight" else shift
    assert chosen is not None
    return chosen


def _per_channel(rows: Tensor, axis: ChannelAxis) -> FloatArray:
    """Returns (N, d) the rows of each channel side by side; of uneven axes only each channel's norm."""
    if axis.is_even:
        return np.asarray(rows.reshape(axis.width, -1).cpu().numpy(), dtype=np.float64)
    energy = np.zeros((axis.width, 1))
    np.add.at(energy[:, 0], axis.channels, rows.pow(2).sum(1).cpu().numpy())
    norms: FloatArray = np.sqrt(energy)
    return norms
