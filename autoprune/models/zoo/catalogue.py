"""Networks by name: the shipped families, torchvision's classifiers and detectors, and a user's own factory."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from autoprune.data.preprocessing import CIFAR10, DIGITS, IMAGENET, RAW, Preprocessing, unit_range
from autoprune.data.scenes import SIDE as SCENE
from autoprune.errors import ModelError, PluginError, nearest, one_line
from autoprune.models.cutting.attention import adapt
from autoprune.models.modules.compiled import uncompiled
from autoprune.models.zoo.families.cifar_densenet import CifarDenseNet
from autoprune.models.zoo.families.cifar_googlenet import CifarGoogLeNet
from autoprune.models.zoo.families.cifar_mobilenet import CifarMobileNetV2
from autoprune.models.zoo.families.cifar_resnet import CifarResNet
from autoprune.models.zoo.families.cifar_vgg import CifarVgg
from autoprune.models.zoo.families.densenet import DenseNet40
from autoprune.models.zoo.families.digits_unet import DigitsUnet
from autoprune.models.zoo.families.digits_vit import DigitsVit
from autoprune.models.zoo.families.resnet8 import ResNet8
from autoprune.models.zoo.families.ssd import SIDE, ssd_vgg_small
from autoprune.models.zoo.weights import load_weights
from autoprune.plugins import call_factory, is_plugin

_TORCHVISION, _TIMM = "torchvision/", "timm/"
#: Parts of torchvision's own weights that only serve training: the networks are built without.
_AUXILIARY = ("aux_classifier.", "aux1.", "aux2.", "AuxLogits.")
#: {network of torchvision whose own weights were trained on other pixels than ImageNet's usual: side of its images}.
#: torchvision normalises as usual and undoes that in the forward (`transform_input`), where it loads them itself.
_INCEPTIONS = {"googlenet": 224, "inception_v3": 299}
#: Side of the images that a torchvision detector is meant for, by the beginning of its name.
_DETECTOR_SIDES = {"ssd300": 300, "ssdlite320": 320}
_DETECTOR_SIDE = 800
#: Side that torchvision's segmentation networks were measured at.
_SEGMENTER_SIDE = 520
_KINDS = ("", "segmentation", "detection")
_RESNET = re.compile(r"cifar/resnet(20|32|44|56|110)-([ab])")
_FAMILIES: dict[str, Callable[[int], nn.Module]] = {
    "cifar/vgg16": lambda classes: CifarVgg(classes=classes),
    "cifar/vgg16-512head": lambda classes: CifarVgg(classes=classes, hidden=512),
    "cifar/googlenet": lambda classes: CifarGoogLeNet(classes=classes),
    "cifar/densenet40": lambda classes: CifarDenseNet(classes=classes),
    "cifar/densenet40-24stem": lambda classes: CifarDenseNet(classes=classes, stem=24),
    "cifar/mobilenetv2": lambda classes: CifarMobileNetV2(classes=classes),
    "cifar/densenet40-nobn": lambda classes: DenseNet40(classes=classes),
    "cifar/resnet8": lambda classes: ResNet8(classes=classes),
    # Narrow in front and wide behind, like most networks: at 16/32/64 channels every structure did as well as the dense
    # one, at 8/12/16 uniform widths did as well as searched ones, and there was nothing to see.
    "digits/resnet": lambda classes: CifarResNet(
        blocks=3, option="b", classes=classes, widths=(4, 8, 32), in_channels=1
    ),
    "digits/vit": lambda classes: DigitsVit(classes=classes),
    "digits/unet": lambda classes: DigitsUnet(classes=classes),
    "detection/ssd-vgg-small": ssd_vgg_small,
}
#: Outputs of families that do not have ten: scenes have a background, too.
_CLASSES = {"digits/unet": 11}
#: The public option-A weights were trained with ImageNet's statistics, the option-B ones with CIFAR-10's.
_RESNET_PREPROCESSING = {"a": Preprocessing(IMAGENET.mean, IMAGENET.std), "b": CIFAR10}
_RAW_INPUT = ("cifar/densenet40-nobn", "cifar/resnet8")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a named network before it is built.

    Attributes:
        spec: the name.
        default_data: the data set it is meant for, or "" where nothing is known.
        input_shape: (channels, height, width) of one image; None where only the data can tell.
        preprocessing: what its public weights expect; None where only the data can tell.
    """

    spec: str
    default_data: str
    input_shape: tuple[int, int, int] | None
    preprocessing: Preprocessing | None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(height, width) of one image; None where only the data can tell."""
        return None if self.input_shape is None else self.input_shape[1:]


def family_names() -> tuple[str, ...]:
    """Returns the names of the shipped networks."""
    resnets = [f"cifar/resnet{depth}-{option}" for depth in (20, 32, 44, 56, 110) for option in "ab"]
    return (*resnets, *_FAMILIES)


def model_info(spec: str) -> ModelInfo:
    """Returns what is known of a network.

    Raises:
        ModelError: the name is unknown.
    """
    _require_known(spec)
    if spec == "digits/unet":
        return ModelInfo(spec, "digits-scenes", (1, SCENE, SCENE), DIGITS)
    if spec.startswith("digits/"):
        return ModelInfo(spec, "digits", (1, 8, 8), DIGITS)
    if spec.startswith("detection/"):
        return ModelInfo(spec, "", (3, SIDE, SIDE), unit_range((SIDE, SIDE)))
    if spec.startswith("cifar/"):
        match = _RESNET.fullmatch(spec)
        preprocessing = _RESNET_PREPROCESSING[match[2]] if match else RAW if spec in _RAW_INPUT else CIFAR10
        return ModelInfo(spec, "cifar10", (3, 32, 32), preprocessing)
    if spec.startswith(_TORCHVISION):
        name = spec.removeprefix(_TORCHVISION)
        if name in _torchvision_names("detection"):
            side = next((side for start, side in _DETECTOR_SIDES.items() if name.startswith(start)), _DETECTOR_SIDE)
            return ModelInfo(spec, "", (3, side, side), unit_range((side, side)))
        if name in _torchvision_names("segmentation"):
            size = (_SEGMENTER_SIDE, _SEGMENTER_SIDE)
            return ModelInfo(spec, "", (3, *size), Preprocessing(IMAGENET.mean, IMAGENET.std, size))
        side = _INCEPTIONS.get(name, 224)
        mean, std = ((0.5,) * 3, (0.5,) * 3) if name in _INCEPTIONS else (IMAGENET.mean, IMAGENET.std)
        return ModelInfo(spec, "", (3, side, side), Preprocessing(mean, std, (side, side)))
    if spec.startswith(_TIMM):
        from autoprune.models.zoo import timm_models

        return ModelInfo(spec, "", *timm_models.input_of(spec.removeprefix(_TIMM)))
    return ModelInfo(spec, "", None, None)


def build_model(spec: str, *, classes: int | None = None, weights: Path | None = None) -> nn.Module:
    """Returns a network in eval mode, with attention heads that can be cut.

    Args:
        spec: a name of `family_names()`, `torchvision/NAME`, or `package.module:factory`, which is called without
            arguments, or with `num_classes` if it takes that and `classes` is given.
        classes: outputs; None for the family's own number (10 or 11, or ImageNet's 1000 for torchvision). A detector
            gets one more, for the background.
        weights: a file to load; None leaves the initial weights.

    Raises:
        ModelError: the name is unknown or torchvision cannot build it.
        WeightsError: the file does not fit or cannot be read.
        PluginError: the factory is missing, raises, or returns no network.
    """
    _require_known(spec)
    if classes is not None and classes < 1:
        raise ModelError(f"A network with {classes} classes cannot be built. Give at least 1.")
    # Initial weights are drawn from torch's own generator, which is the caller's.
    with torch.random.fork_rng(devices=[]):
        model = _built(spec, classes)
    model = adapt(uncompiled(model), share=True)
    if weights is not None:
        load_weights(model, weights, unused=_AUXILIARY if spec.startswith(_TORCHVISION) else ())
    return model.eval()


def _built(spec: str, classes: int | None) -> nn.Module:
    """Returns a network as it is built, with initial weights."""
    if is_plugin(spec):
        return _from_factory(spec, classes)
    if spec.startswith(_TORCHVISION):
        return _from_torchvision(spec.removeprefix(_TORCHVISION), classes)
    if spec.startswith(_TIMM):
        from autoprune.models.zoo import timm_models

        return timm_models.build(spec.removeprefix(_TIMM), classes)
    return _from_family(spec, _CLASSES.get(spec, 10) if classes is None else classes)


def _from_family(spec: str, classes: int) -> nn.Module:
    match = _RESNET.fullmatch(spec)
    if match:
        return CifarResNet(blocks=(int(match[1]) - 2) // 6, option=match[2], classes=classes)
    return _FAMILIES[spec](classes)


def _from_torchvision(name: str, classes: int | None) -> nn.Module:
    import torchvision

    extra: dict[str, object] = {"num_classes": 1000 if classes is None else classes}
    if name in _INCEPTIONS:
        # Auxiliary heads only serve training from scratch, and return tuples in train mode.
        extra.update(aux_logits=False, init_weights=False)
    elif name in _torchvision_names("segmentation"):
        extra = {"num_classes": classes, "weights_backbone": None}
    elif name in _torchvision_names("detection"):
        # Left alone, it would download the weights of its backbone.
        extra = {"num_classes": None if classes is None else classes + 1, "weights_backbone": None}
    try:
        model = torchvision.models.get_model(name, weights=None, **extra)
    except Exception as error:
        raise ModelError(f"torchvision cannot build {name!r}: {one_line(error)}") from error
    assert isinstance(model, nn.Module)
    return model


def names_of(family: str) -> tuple[str, ...]:
    """Returns the full names of a family: torchvision's classifiers, `segmentation`, `detection`, or common `timm`.

    Raises:
        ConfigError: timm is not installed.
    """
    if family == "timm":
        from autoprune.models.zoo import timm_models

        return tuple(_TIMM + name for name in timm_models.COMMON)
    return tuple(_TORCHVISION + name for name in _torchvision_names("" if family == "torchvision" else family))


def _torchvision_names(*kinds: str) -> list[str]:
    """Returns the names of torchvision's networks in modules such as `detection`; "" is that of the classifiers."""
    import torchvision

    models = torchvision.models
    modules = [getattr(models, kind) if kind else models for kind in kinds]
    return [name for module in modules for name in models.list_models(module=module)]


def _from_factory(spec: str, classes: int | None) -> nn.Module:
    model = call_factory(spec, optional={} if classes is None else {"num_classes": classes})
    if not isinstance(model, nn.Module):
        raise PluginError(f"{spec!r} returned a {type(model).__name__}, not a torch.nn.Module.")
    return model


def _require_known(spec: str) -> None:
    if spec.startswith(_TORCHVISION):
        known = [_TORCHVISION + name for name in _torchvision_names(*_KINDS)]
        if spec not in known:
            hint = nearest(spec, known)
            hint = hint if hint.startswith(" Did") else " `torchvision.models.list_models()` names them."
            raise ModelError(f"torchvision has no network {spec.removeprefix(_TORCHVISION)!r}.{hint}")
    elif spec.startswith(_TIMM):
        from autoprune.models.zoo import timm_models

        timm_models.require_known(spec.removeprefix(_TIMM))
    elif ":" in spec and not is_plugin(spec):
        raise ModelError(f"Cannot read the model {spec!r}. Write package.module:factory.")
    elif not is_plugin(spec) and spec not in family_names():
        hint = nearest(spec, family_names())
        raise ModelError(
            f"Unknown model {spec!r}.{hint} Or write torchvision/NAME, timm/NAME or package.module:factory."
        )
