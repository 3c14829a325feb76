"""Networks of timm (PyTorch Image Models) by name. The only module that knows the package."""

from __future__ import annotations

from torch import nn

from autoprune.data.preprocessing import Preprocessing
from autoprune.errors import ConfigError, ModelError, nearest, one_line

try:
    import timm
except ImportError as error:
    raise ConfigError("timm/NAME needs a package that is not installed: pip install 'autoprune[timm]'") from error

#: One of each common family that torchvision does not have, and some that it has and timm builds otherwise.
COMMON = (
    "resnet50d", "resnetv2_50", "resnest50d", "seresnet50", "ecaresnet50d", "skresnet50", "res2net50_26w_4s", "dla60",
    "gernet_s", "regnety_008", "cspresnet50", "cspdarknet53", "darknet53", "vovnet39a", "hrnet_w18_small", "dpn68",
    "densenet121", "inception_v4", "inception_resnet_v2", "xception41", "nfnet_l0", "repvgg_a2", "mobileone_s1",
    "mobilenetv3_large_100", "mobilenetv4_conv_small", "efficientnet_b0", "tf_efficientnetv2_b0", "ghostnet_100",
    "lcnet_100", "fbnetc_100", "tinynet_a", "rexnet_100", "hardcorenas_a", "convnext_tiny", "convnextv2_atto",
    "convmixer_768_32", "edgenext_small", "fastvit_t8", "efficientformer_l1", "mobilevit_s", "poolformer_s12",
    "mixer_b16_224", "resmlp_12_224", "gmlp_s16_224", "vit_small_patch16_224", "deit3_small_patch16_224",
    "beit_base_patch16_224", "cait_xxs24_224", "swin_tiny_patch4_window7_224", "pvt_v2_b0", "coat_lite_tiny",
    "levit_128s", "twins_svt_small", "maxvit_tiny_tf_224", "coatnet_0_rw_224", "focalnet_tiny_srf",
)  # fmt: skip


def require_known(name: str) -> None:
    """Raises ModelError where timm has no network of this name."""
    if not timm.is_model(name):
        hint = nearest(name, timm.list_models())
        hint = hint if hint.startswith(" Did") else " `timm.list_models()` names them."
        raise ModelError(f"timm has no network {name!r}.{hint}")


def input_of(name: str) -> tuple[tuple[int, int, int], Preprocessing]:
    """Returns the shape of one image and how a network's public weights expect it."""
    about = timm.get_pretrained_cfg(name, allow_unregistered=True)
    _, height, width = shape = tuple(about.input_size)
    return shape, Preprocessing(tuple(about.mean), tuple(about.std), (height, width))


def build(name: str, classes: int | None) -> nn.Module:
    """Returns a network with initial weights.

    Raises:
        ModelError: timm cannot build it.
    """
    try:
        model = timm.create_model(name, pretrained=False, **({} if classes is None else {"num_classes": classes}))
    except Exception as error:
        raise ModelError(f"timm cannot build {name!r}: {one_line(error)}") from error
    assert isinstance(model, nn.Module)
    return model
