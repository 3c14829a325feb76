from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from autoprune.config.layout import STRUCTURE, WEIGHTS
from autoprune.errors import ModelError, RunError
from autoprune.models.storage.saved import load
from autoprune.models.zoo.catalogue import model_info
from tests.models.saved_cut import saved_cut
from tests.models.toy_networks import Chain, settled, toy, unit

ROOT = Path(__file__).parents[3]
#: A factory that knows nothing of heads that can be cut.
TRANSFORMER = "tests.models.attention_networks:vision_transformer"


@pytest.mark.parametrize("spec", [
    "cifar/resnet20-a", "cifar/resnet20-b", "cifar/vgg16", "cifar/densenet40-nobn", "torchvision/resnet18",
    "torchvision/mobilenet_v3_small", TRANSFORMER,
])  # fmt: skip
def test_a_loaded_model_is_the_saved_one_to_the_last_bit(tmp_path, spec):
    small, shape = saved_cut(tmp_path, spec)
    again = load(tmp_path)
    assert not again.training
    x = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(small(x), again(x))
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in small.state_dict().items()
    }
    again.train()(x).sum().backward()


@pytest.mark.parametrize("spec", ["cifar/resnet20-a", "torchvision/resnet18", TRANSFORMER])
def test_a_fresh_process_needs_nothing_but_the_folder(tmp_path, spec):
    small, shape = saved_cut(tmp_path, spec)
    x = torch.randn(2, *shape)
    torch.save(x, tmp_path / "x.pt")
    script = (
        "import sys, torch; torch.set_num_threads(1); from autoprune.models.storage.saved import load;"
        "x = torch.load(sys.argv[1] + '/x.pt'); model = load(sys.argv[1]);"
        "torch.save(model(x).detach(), sys.argv[1] + '/y.pt')"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=ROOT, timeout=120)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "y.pt"), small(x))


def test_a_run_folder_stands_for_its_incumbent(tmp_path):
    small, shape = saved_cut(tmp_path / "incumbent", None)
    x = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(load(tmp_path, model=toy("plain"))(x), small(x))


def test_nothing_is_pickled(tmp_path):
    saved_cut(tmp_path, None)
    assert sorted(item.name for item in tmp_path.iterdir()) == [WEIGHTS, STRUCTURE]
    assert json.loads((tmp_path / STRUCTURE).read_text())["format"] == 1
    assert (tmp_path / WEIGHTS).read_bytes()[8:9] == b"{"


@pytest.mark.parametrize(
    "name", ["residual with channel maps", "reused layers", "functional weights", "hidden references"]
)
def test_a_network_object_is_loaded_into_its_like(tmp_path, name):
    small, shape = saved_cut(tmp_path, None, name=name)
    x = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(small(x), load(tmp_path, model=toy(name, seed=5))(x))
    with pytest.raises(ModelError, match=r"was searched from a network object. Give it to autoprune.load"):
        load(tmp_path)


def test_loading_leaves_the_given_network_alone(tmp_path):
    saved_cut(tmp_path, None)
    model = toy("plain")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load(tmp_path, model=model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class Scaled(nn.Module):
    """Multiplies channels by a buffer that no state dict holds, and positions by another."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 1, 6).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("window", torch.rand(1, 1, 1, 12), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale * self.window


def scaled() -> nn.Module:
    torch.manual_seed(0)
    return settled(Chain(nn.Sequential(unit(3, 6), Scaled(), unit(6, 5)), 5))


def test_a_cut_buffer_is_saved_though_the_dense_one_is_not(tmp_path):
    model = scaled()
    small, shape = saved_cut(tmp_path, None, model=model)
    names = set(load_file(tmp_path / WEIGHTS))
    assert "layers.1.scale" in names
    assert "layers.1.window" not in names
    x = torch.randn(2, *shape)
    loaded = load(tmp_path, model=model)
    with torch.no_grad():
        assert torch.equal(small(x), loaded(x))
    assert "layers.1.scale" not in model.state_dict()
    assert set(loaded.state_dict()) == names


class TestBrokenFolders:
    """Every broken file is one clear error."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        saved_cut(tmp_path, None)
        return tmp_path

    def edit(self, folder: Path, **values: object) -> None:
        path = folder / STRUCTURE
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def test_no_folder(self, tmp_path):
        with pytest.raises(RunError, match=r"nowhere' holds no saved network: neither structure.json nor incumbent/"):
            load(tmp_path / "nowhere")
        with pytest.raises(RunError, match=r"The folder of a saved network is a int, not a path"):
            load(5)

    def test_a_factory_in_place_of_the_network(self, folder):
        with pytest.raises(ModelError, match=r"The model is a function, not a network. Give an instance"):
            load(folder, model=lambda: toy("plain"))

    @pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"null", b'"x"', b"[" * 100_000])
    def test_a_structure_that_is_no_object(self, folder, text):
        (folder / STRUCTURE).write_bytes(text)
        with pytest.raises(RunError, match=r"structure.json .*Make it again"):
            load(folder)

    @pytest.mark.parametrize("values", [
        {"widths": [1]}, {"maps": 3}, {"class_names": 5}, {"input_shape": ["x"]}, {"input_shape": None},
        {"model": 5}, {"model": ["a"]}, {"classes": "ten"}, {"classes": True}, {"kept": {"a": 1}},
        {"widths": {"a": "b"}}, {"input_shape": [3, 10**6, 10**6]},
        {"class_names": [1, 2]}, {"input_shape": [3, -1, 4]}, {"preprocessing": 7}, {"cost": {"macs": "x"}},
    ])  # fmt: skip
    def test_a_field_of_another_type(self, folder, values):
        self.edit(folder, **values)
        with pytest.raises(RunError, match=r"structure.json: '[a-z_]+' must be"):
            load(folder, model=toy("plain"))

    def test_another_format(self, folder):
        self.edit(folder, format=2)
        with pytest.raises(RunError, match="has format 2; this version reads 1"):
            load(folder)

    def test_a_missing_field(self, folder):
        values = json.loads((folder / STRUCTURE).read_text())
        del values["kept"]
        (folder / STRUCTURE).write_text(json.dumps(values))
        with pytest.raises(RunError, match="lacks the key 'kept'"):
            load(folder)

    @pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
    def test_weights_that_are_none(self, folder, content):
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(RunError, match=r"model.safetensors.* cannot be read|are not those that were saved"):
            load(folder, model=toy("plain"))

    def test_a_bit_of_the_weights_that_has_flipped(self, folder):
        content = bytearray((folder / WEIGHTS).read_bytes())
        content[-50] ^= 0x40
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(RunError, match=r"model.safetensors' are not those that were saved: their SHA-256 is anoth"):
            load(folder, model=toy("plain"))
        # Folders that were written before the digest was load as before.
        self.edit(folder, weights_sha256=None)
        load(folder, model=toy("plain"))
        values = json.loads((folder / STRUCTURE).read_text())
        del values["weights_sha256"]
        (folder / STRUCTURE).write_text(json.dumps(values))
        load(folder, model=toy("plain"))

    def test_widths_that_contradict_the_kept_channels(self, folder):
        widths = json.loads((folder / STRUCTURE).read_text())["widths"]
        name = next(iter(widths))
        for wrong in ({**widths, name: widths[name] + 1}, {**widths, "nowhere": 2}, {}):
            self.edit(folder, widths=wrong)
            with pytest.raises(RunError, match=r"structure.json: 'widths' and 'kept' contradict each other"):
                load(folder, model=toy("plain"))

    def test_weights_cut_short(self, folder):
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
        with pytest.raises(RunError, match="cannot be read"):
            load(folder, model=toy("plain"))

    def test_no_weights(self, folder):
        (folder / WEIGHTS).unlink()
        with pytest.raises(RunError, match="cannot be read"):
            load(folder, model=toy("plain"))

    def test_weights_of_another_network(self, folder):
        with pytest.raises(RunError, match="do not fit the network: they "):
            load(folder, model=toy("concatenation"))

    @pytest.mark.parametrize("maps", [
        {"layers.2.shortcut": 5}, {"layers.2.shortcut": [[0, 99], 2]}, {"layers.2.shortcut": ["abc", 2]},
        {"layers.2.shortcut": [[0], "x", 3]}, {}, {"nowhere": [[0], 1]}, {"layers.2.shortcut": [[0, 1], 3]},
    ])  # fmt: skip
    def test_maps_that_fit_nowhere(self, tmp_path, maps):
        saved_cut(tmp_path, None, name="residual with channel maps")
        self.edit(tmp_path, maps=maps)
        with pytest.raises(RunError, match="channel map"):
            load(tmp_path, model=toy("residual with channel maps"))

    @pytest.mark.parametrize("change", ["a smaller tensor", "a scalar", "integers"])
    def test_tensors_that_fit_no_layer(self, folder, change):
        from safetensors.torch import load_file, save_file

        state = load_file(folder / WEIGHTS)
        name = "layers.2.0.weight"
        changed = {
            "a smaller tensor": state[name][:, :1].contiguous(),
            "a scalar": torch.tensor(1.0),
            "integers": state[name].to(torch.int32),
        }
        save_file({**state, name: changed[change]}, folder / WEIGHTS)
        self.edit(folder, weights_sha256=None)
        with pytest.raises(RunError, match="do not fit the network"):
            load(folder, model=toy("plain"))


def test_the_default_shape_of_a_family_is_that_of_the_tests():
    assert model_info("cifar/resnet20-a").input_shape == (3, 32, 32)
