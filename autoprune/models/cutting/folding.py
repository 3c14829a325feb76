"""Networks made ready to be scored: the same outputs, but for rounding, with fewer passes over memory.

Batch norms are folded into the convolutions in front of them and run no more, ReLUs overwrite what they read, and on a
CPU channels lie last. It is for scoring only: one gradient step on folded weights ruins a reconstructed network (see
`models.reduction.reconstruction`). A forward may do what does not go with one of these (view channels that no longer
lie together, read a ReLU's input again), so each is tried on the dense network first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.devices import rounding
from autoprune.models.cutting.surgery import named_tensor
from autoprune.models.modules.replicas import replicate
from autoprune.models.network import LayerCall, LayerKind, TracedNetwork
from autoprune.tasks.detectors import raw_outputs


@dataclass(frozen=True, slots=True)
class Form:
    """How a network is run where only its outputs count.

    Attributes:
        folded: whether batch norms are folded.
        in_place: whether ReLU modules overwrite what they read.
        channels_last: whether the channels of a pixel lie together, in images and weights.
    """

    folded: bool = False
    in_place: bool = False
    channels_last: bool = False

    @property
    def layout(self) -> torch.memory_format:
        """The memory layout of images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def put_on(self, model: nn.Module, network: TracedNetwork) -> nn.Module:
        """Brings a network into this form, in place, and returns it.

        Args:
            model: in eval mode: the dense network or a cut one, with tensors that may be written to.
            network: the trace of the dense one.
        """
        if self.folded:
            fold_norms(model, network)
        if self.in_place:
            for module in model.modules():
                if type(module) is nn.ReLU:
                    module.inplace = True
        return model.to(memory_format=self.layout)


@torch.no_grad()
def fastest_form(model: nn.Module, network: TracedNetwork, images: Tensor) -> Form:
    """Returns the fastest form in which the dense network still puts out what it does.

    Args:
        model: the dense network, in eval mode; not changed.
        network: its trace.
        images: (B, C, H, W) a few, on its device.
    """
    form, wanted = Form(), tree_leaves(raw_outputs(model, images))
    steps: list[dict[str, bool]] = [{"folded": True}, {"in_place": True}]
    if images.device.type == "cpu":
        steps.append({"channels_last": True})
    for step in steps:
        tried = replace(form, **step)
        try:
            ready = tried.put_on(replicate(model, {}, {}), network)
            found = tree_leaves(raw_outputs(ready, images.clone(memory_format=tried.layout)))
        except RuntimeError:  # such as the weight of a 3d convolution, which has no channels last in this sense
            continue
        if same_outputs(found, wanted):
            form = tried
    return form


def same_outputs(found: Sequence[object], wanted: Sequence[object]) -> bool:
    """Returns whether two networks put out the same tensors, but for rounding."""
    return len(found) == len(wanted) and all(map(_alike, found, wanted))


def _alike(found: object, wanted: object) -> bool:
    if not isinstance(found, Tensor) or not isinstance(wanted, Tensor) or found.shape != wanted.shape:
        return False
    return found.numel() == 0 or bool((found - wanted).abs().max() <= rounding(found.device) * wanted.abs().max())


class PassingNorm2d(nn.BatchNorm2d):
    """A batch norm whose scale and shift are in the convolution in front of it."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns the input."""
        return input


@torch.no_grad()
def fold_norms(model: nn.Module, network: TracedNetwork) -> nn.Module:
    """Folds, in place, every batch norm that alone reads a convolution into it; returns the model in eval mode."""
    for conv, norm in _pairs(model, network):
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
        bias = mean.new_zeros(len(mean)) if conv.bias is None else conv.bias
        shift = (bias.double() - mean.double()) * scale + norm.bias.double()
        conv.weight.copy_(conv.weight.double() * scale.view(-1, 1, 1, 1))
        conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
        norm.__class__ = PassingNorm2d
    return model


def _pairs(model: nn.Module, network: TracedNetwork) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    modules = dict(model.named_modules(remove_duplicate=False))
    for call in network.calls:
        if call.norm is None or call.reused or call.norm in network.repeated_norms:
            continue
        conv, norm = modules.get(call.layer), modules.get(call.norm.rpartition(".")[0])
        # Of another class, they may do anything else as well: a weight norm, a layer whose channels are all gone.
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats:
            yield conv, norm


def folded_weight(model: nn.Module, call: LayerCall) -> Tensor:
    """Returns the (o, n, kernel area) weight of a layer with the scale of its batch norm folded in.

    Of a transposed convolution o is the number of its outputs too, and n that of inputs one of them reads.
    """
    weight = output_first(named_tensor(model, call.weight).detach(), call)
    if call.norm is None:
        return weight
    norm = model.get_submodule(call.norm.rpartition(".")[0])
    if not isinstance(norm, nn.modules.batchnorm._NormBase) or norm.running_var is None:
        return weight  # a norm called as a function: its parameters have no common home
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight * scale.detach()[:, None, None]


def output_first(weight: Tensor, call: LayerCall) -> Tensor:
    """Returns the weight of a layer as (o, n, kernel area): its o filters, each over the n inputs that it reads."""
    flat = weight.reshape(weight.shape[0], weight.shape[1], -1)
    if call.kind is not LayerKind.TRANSPOSED:
        return flat
    # (inputs, outputs of one group, area): the inputs of every convolution group lie one behind the other.
    return flat.reshape(call.groups, -1, *flat.shape[1:]).transpose(1, 2).flatten(0, 1)
