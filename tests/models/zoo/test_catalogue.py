from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.data import ArrayImages, load_data
from autoprune.data.images import preprocess
from autoprune.data.preprocessing import IMAGENET
from autoprune.errors import ModelError, PluginError, WeightsError
from autoprune.models.costing.conventions import tally
from autoprune.models.zoo.catalogue import build_model, family_names, model_info
from autoprune.models.zoo.families.cifar_vgg import CifarVgg
from autoprune.training import measure


def macs_of(model: nn.Module, shape: tuple[int, ...]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2


def params_of(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


# Parameters and convolution-and-linear MACs as published for these networks.
PUBLISHED = {
    "cifar/resnet20-a": (269_722, 40_551_040),
    "cifar/resnet56-a": (853_018, 125_485_696),
    "cifar/resnet110-a": (1_727_962, 252_887_680),
    "cifar/vgg16-512head": (14_991_946, 313_463_808),
    "cifar/resnet20-b": (272_474, 40_813_184),
    # EPruner and ACP print 6.17 M and about 1534 M; HRank 6.15 M and 1520 M.
    "cifar/googlenet": (6_166_250, 1_521_756_160),
    "cifar/densenet40": (1_019_722, 264_812_928),
    # HRank prints 1.04 M, which leaves norms out, and 282.00 M.
    "cifar/densenet40-24stem": (1_059_298, 282_917_328),
    "cifar/mobilenetv2": (2_296_922, 91_154_944),
    "cifar/densenet40-nobn": (1_002_586, 264_812_928),
    "cifar/resnet8": (78_186, 12_501_632),
}


@pytest.mark.parametrize("spec", PUBLISHED)
def test_a_family_has_the_published_cost(spec: str) -> None:
    params, macs = PUBLISHED[spec]
    model = build_model(spec)
    assert params_of(model) == params
    assert macs is None or macs_of(model, (3, 32, 32)) == macs


def test_googlenet_counts_what_epruner_implies() -> None:
    # 500.87 M are what 67.36 % leave. Its tool charges four per batch-norm element and one per element that a
    # convolution with bias puts out; here each of these is normalised, so that is one per batch-norm element more.
    counted = tally(build_model("cifar/googlenet"), (1, 3, 32, 32))
    dense = counted.by_convention()["+4/bn"] + counted.norm_elements
    assert dense * (1 - 0.6736) == pytest.approx(500.87e6, rel=1e-4)
    assert counted.params * (1 - 0.6420) == pytest.approx(2.22e6, rel=0.01)


def test_a_vgg_of_the_published_pruned_widths_has_the_published_parameters() -> None:
    a, b, c, d, e, f, g, h, i, j, k, m, n = [11, 32, 68, 66, 125, 113, 113, 218, 121, 94, 60, 27, 512]
    widths = [a, b, None, c, d, None, e, f, g, None, h, i, j, None, k, m, n]
    assert params_of(CifarVgg(hidden=512, widths=widths)) == 1_404_457


@pytest.mark.parametrize("spec", [name for name in family_names() if not name.startswith("detection/")])
def test_every_family_classifies_images_of_its_shape(spec: str) -> None:
    info = model_info(spec)
    model = build_model(spec, classes=7)
    assert not model.training
    assert info.input_shape is not None
    assert info.preprocessing is not None
    assert info.preprocessing.channels == info.input_shape[0]
    with torch.no_grad():
        assert model(torch.rand(2, *info.input_shape)).shape[:2] == (2, 7)


@pytest.fixture(scope="module")
def cifar_test(data_root: Path) -> ArrayImages:
    test = load_data("cifar10", root=data_root).test
    assert isinstance(test, ArrayImages)
    return test


@pytest.mark.data
@pytest.mark.parametrize(
    ("spec", "file"),
    [
        ("cifar/resnet20-a", "resnet20_a_cifar10.pt"),
        ("cifar/resnet56-a", "resnet56_a_cifar10.pt"),
        ("cifar/resnet20-b", "resnet20_b_cifar10.pt"),
        ("cifar/resnet56-b", "resnet56_b_cifar10.pt"),
        ("cifar/densenet40-nobn", "densenet40_k12_nobn_cifar10.pt"),
        ("cifar/resnet8", "resnet8_cifar10.pt"),
    ],
)
def test_public_weights_load_and_reach_their_accuracy(
    spec: str, file: str, weights_root: Path, cifar_test: ArrayImages
) -> None:
    model = build_model(spec, weights=weights_root / file)
    preprocessing = model_info(spec).preprocessing
    assert preprocessing is not None
    images = replace(cifar_test, preprocessing=preprocessing)
    # All of them are above 87 % on the whole test set; another preprocessing or padding costs far more than that.
    assert measure(model, images, range(100)).accuracy > 0.8


def test_option_a_shortcuts_pad_a_quarter_of_the_new_width_on_each_side() -> None:
    model = build_model("cifar/resnet20-a")
    x = torch.randn(1, 16, 4, 4)
    y = model.get_submodule("layer2.0.downsample")(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_torchvision_networks_are_built_without_weights_for_any_number_of_classes() -> None:
    model = build_model("torchvision/squeezenet1_1", classes=3)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert model_info("torchvision/squeezenet1_1").input_shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cifar/resnet20-c", "Unknown model 'cifar/resnet20-c'. Did you mean 'cifar/resnet20-"),
        ("resnet20", "Unknown model"),
        (":net", r"Cannot read the model ':net'. Write package.module:factory.$"),
        ("mine:", r"Cannot read the model 'mine:'. Write package.module:factory.$"),
        ("torchvision/resnet5O", "Did you mean 'torchvision/resnet50'"),
        ("torchvision/zzzz", "torchvision has no network 'zzzz'"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        build_model(spec)
    assert "\n" not in str(caught.value)


def test_building_a_network_leaves_the_callers_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    build_model("cifar/resnet8")
    assert torch.equal(torch.get_rng_state(), before)


def test_no_class_at_all_is_refused() -> None:
    with pytest.raises(ModelError, match="0 classes"):
        build_model("cifar/resnet20-a", classes=0)


def make_tiny(num_classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))


def make_text() -> str:
    return "not a network"


def make_trouble() -> nn.Module:
    raise RuntimeError("out of luck")


def test_a_factory_is_called_with_the_classes_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    model = build_model("test_catalogue:make_tiny", classes=6)
    assert model(torch.zeros(1, 3, 2, 2)).shape == (1, 6)
    assert not model.training
    assert build_model("test_catalogue:make_tiny")(torch.zeros(1, 12)).shape == (1, 4)


def test_a_factory_that_fails_or_gives_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    with pytest.raises(PluginError, match=r"returned a str, not a torch\.nn\.Module"):
        build_model("test_catalogue:make_text")
    with pytest.raises(PluginError, match="RuntimeError: out of luck"):
        build_model("test_catalogue:make_trouble")


def test_segmentation_weights_with_an_auxiliary_head_load_into_the_network_without(tmp_path: Path) -> None:
    import torchvision

    made = torchvision.models.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=3)
    state = {**made.state_dict(), "aux_classifier.0.weight": torch.ones(2)}
    torch.save(state, tmp_path / "weights.pt")
    found = build_model("torchvision/lraspp_mobilenet_v3_large", classes=3, weights=tmp_path / "weights.pt")
    assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())
    torch.save({**state, "head.weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"1 unexpected: head\.weight"):
        build_model("torchvision/lraspp_mobilenet_v3_large", classes=3, weights=tmp_path / "other.pt")


@pytest.mark.parametrize(("name", "heads"), [("googlenet", ("aux1", "aux2")), ("inception_v3", ("AuxLogits",))])
def test_an_inception_with_torchvisions_weights_sees_the_pixels_they_were_trained_on(
    name: str, heads: tuple[str, ...], tmp_path: Path
) -> None:
    import torchvision

    # As torchvision builds it where it loads its own weights.
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, init_weights=False, transform_input=True).eval()
    assert all(any(key.startswith(f"{head}.") for key in theirs.state_dict()) for head in heads)
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    ours = build_model(f"torchvision/{name}", weights=tmp_path / "weights.pt")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 96, 96), dtype=np.uint8)
    preprocessing = model_info(f"torchvision/{name}").preprocessing
    assert preprocessing is not None
    images, usual = (preprocess(torch.from_numpy(pixels), how) for how in (preprocessing, IMAGENET))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(usual), rtol=1e-3, atol=1e-4)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "b.pt"
    torch.save(build_model("cifar/resnet20-b").state_dict(), path)
    with pytest.raises(WeightsError, match=r"missing: linear\.weight.*unexpected: .*downsample"):
        build_model("cifar/resnet20-a", weights=path)
