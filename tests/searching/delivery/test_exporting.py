"""Every exported file is the network, in the runtime that will read it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

import autoprune
from autoprune.cli.edge import run
from autoprune.config.exporting import SUFFIXES, ExportOptions, batch_from, formats_from
from autoprune.core.files import WRITER
from autoprune.errors import ConfigError, ModelError, RunError
from autoprune.models.cutting.attention import adapt
from autoprune.models.storage.exports.base import Exportable
from autoprune.plugins import resolve_attribute
from autoprune.searching.delivery import exporting
from tests.models.saved_cut import saved_cut
from tests.models.toy_networks import settled, toy

PREPROCESSING = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "size": None}


def vit() -> nn.Module:
    torch.manual_seed(3)
    sizes = {"image_size": 12, "patch_size": 4, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12}
    model = VisionTransformer(**sizes, num_classes=5)
    nn.init.normal_(model.heads.head.weight)  # torchvision starts it at zero, where everything agrees
    return model.eval()


class AnyArguments(nn.Module):
    """A network whose forward does not name what it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = toy("depthwise")

    def forward(self, *args: torch.Tensor, **_: object) -> torch.Tensor:
        return self.inner(*args)


class PartlyTraced(nn.Module):
    """A network whose first layers were recorded by `torch.jit.trace`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).eval()
        self.first = torch.jit.trace(first, torch.randn(1, 3, 12, 12))
        self.second, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.second(self.first(x))).mean((2, 3)))


class Bessel(nn.Module):
    """A network with an operation that ONNX lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = toy("depthwise")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(self.inner(x))


#: {network: (how it is made, to what it is exported)}; each exporter takes seconds.
NETWORKS = {
    "residual, option A": (lambda: toy("residual with channel maps"), tuple(SUFFIXES)),
    "vision transformer": (vit, ("onnx", "torch-export")),
    "depthwise": (lambda: toy("depthwise"), ("onnx", "torchscript", "safetensors")),
    "outputs in a dictionary": (lambda: toy("several heads"), ("torch-export",)),
    "any arguments": (AnyArguments, ("onnx", "torch-export", "torchscript")),
    "data parallel": (lambda: nn.DataParallel(toy("depthwise")).eval(), ("onnx", "torch-export")),
    "a forward that counts its images": (lambda: toy("fused heads"), ("onnx", "torch-export")),
    "partly traced": (lambda: PartlyTraced().eval(), ("onnx",)),
    "reused layers": (lambda: toy("reused layers"), ("safetensors",)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_agrees_with_its_file_at_every_batch(tmp_path, name):
    make, formats = NETWORKS[name]
    saved_cut(tmp_path, None, model=make())
    entries = autoprune.export(tmp_path, formats, model=make())
    assert [entry["kind"] for entry in entries] == list(formats)
    for entry in entries:
        assert entry["check"]["batches"] == [1, 2, 7]
        assert entry["check"]["max_deviation"] <= entry["check"]["tolerance"] < 0.01
        content = (tmp_path / "export" / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]


#: A network of somebody who has no autoprune.
MINE = """
import torch
from torch import nn


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.head((torch.relu(self.bn2(self.conv2(x))) + self.conv3(x)).mean((2, 3)))


def make():
    torch.manual_seed(0)
    return Mine().eval()
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The run folder of such a network, exported by the command; images and what the network says of them."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "their_network.py").write_text(MINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        (folder / "run").mkdir()
        model = settled(resolve_attribute("their_network:make")())
        small, shape = saved_cut(
            folder / "run/incumbent", "their_network:make", model=model, preprocessing=PREPROCESSING
        )
        formats = ["--format", "onnx,torch-export", "--format", "torchscript,safetensors"]
        assert run(["export", str(folder / "run"), *formats]) == 0
        x = torch.randn(3, *shape)
        torch.save(x, folder / "x.pt")
        with torch.no_grad():
            yield folder, x, small(x)


def test_onnx_runtime_reads_the_file_and_what_it_says_of_itself(mine):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, x, wanted = mine
    session = onnxruntime.InferenceSession(folder / "run/export/model.onnx")
    [found] = session.run(None, {"images": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-5)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["preprocessing"]) == {**PREPROCESSING, "in_file": False}
    assert "(pixel / 255 - mean) / std" in json.loads(about["input"])["values"]
    assert json.loads(about["class_names"]) == ["a", "b"]


def test_a_fresh_process_does_without_autoprune(mine):
    folder, _, wanted = mine
    export = folder / "run/export"
    assert sorted(item.name for item in export.glob("model.safetensors*")) == [
        "model.safetensors", "model.safetensors.json", "model.safetensors.py",
    ]  # fmt: skip
    (folder / "loader.py").write_text((export / "model.safetensors.py").read_text())
    script = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from their_network import Mine; from loader import load_pruned\n"
        "pruned = load_pruned(Mine(), 'run/export/model.safetensors')\n"
        "script = torch.jit.load('run/export/model.torchscript')\n"
        "program = torch.export.load('run/export/model.pt2').module()\n"
        "torch.save([model(torch.load('x.pt')).detach() for model in (pruned, script, program)], 'y.pt')\n"
        "assert not any(name.startswith('autoprune') for name in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=folder, env=environment, timeout=120)
    for found in torch.load(folder / "y.pt"):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


#: Networks of somebody who has no autoprune, which fix, count and share what is cut.
THEIRS = """
import torch
from torch import nn
from torch.nn import functional


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 12, 3, stride=3), nn.Linear(12, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attend(x)).mean(1))


class Torchs(Tokens):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True)

    def attend(self, x):
        return self.attention(x, x, x)[0]


class Counted(Tokens):
    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))

    def attend(self, x):
        q, k, v = (part(x).reshape(len(x), 16, self.num_heads, -1).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.same, self.norms = self.again, nn.ModuleList([self.norm, self.norm])
        self.up, self.head = nn.ConvTranspose2d(8, 6, 2, 2, groups=2), nn.Linear(6, 4)

    def forward(self, x):
        x = self.norms[1](self.same(torch.relu(self.norm(self.first(x)))))
        return self.head(torch.relu(self.up(x)).mean((2, 3)))
"""


def test_the_loader_knows_heads_and_layers_of_several_names(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(str(tmp_path))
    x, names = torch.randn(3, 3, 12, 12), ("Torchs", "Counted", "Named")
    for name in names:
        torch.manual_seed(0)
        model = adapt(resolve_attribute(f"theirs:{name}")())
        small, _ = saved_cut(tmp_path / name, f"theirs:{name}", model=settled(model))
        assert small.state_dict().keys() == model.state_dict().keys()
        autoprune.export(tmp_path / name, "safetensors", out=tmp_path / f"{name}.safetensors")
        with torch.no_grad():
            torch.save(small(x), tmp_path / f"{name}.pt")
    (tmp_path / "loader.py").write_text((tmp_path / "Torchs.safetensors.py").read_text())
    torch.save(x, tmp_path / "x.pt")
    script = (
        "import sys, torch, theirs; from loader import load_pruned; torch.set_num_threads(1)\n"
        f"for name in {names}:\n"
        "    pruned = load_pruned(getattr(theirs, name)(), f'{name}.safetensors')\n"
        "    torch.testing.assert_close(pruned(torch.load('x.pt')), torch.load(f'{name}.pt'))\n"
        "assert not any(name.startswith('autoprune') for name in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment, timeout=120)


def test_the_json_beside_says_what_the_command_prints(mine, capsys, tmp_path):
    folder = mine[0] / "run/incumbent"
    assert run(["export", str(folder), "--format", "torchscript", "--out", str(tmp_path), "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)["exports"]
    assert entry.pop("path") == str(tmp_path / "model.torchscript")
    beside = json.loads((tmp_path / "model.torchscript.json").read_text())
    assert beside == entry
    assert beside["format"] == 1
    assert WRITER in beside
    assert beside["input"]["shape"] == ["batch", 3, 12, 12]


def test_baked_preprocessing_takes_pixels(mine, tmp_path):
    run_folder = mine[0] / "run"
    [entry] = autoprune.export(run_folder, "torchscript", out=tmp_path / "a.pt", with_preprocessing=True)
    assert entry["preprocessing"]["in_file"]
    pixels = torch.randint(0, 256, (2, 3, 12, 12)).float()
    mean, std = (torch.tensor(PREPROCESSING[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        wanted = autoprune.load(run_folder / "incumbent")((pixels / 255 - mean) / std)
        found = torch.jit.load(tmp_path / "a.pt")(pixels)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_fixed_batch_and_operator_set_are_what_the_file_has(tmp_path):
    onnx = pytest.importorskip("onnx")
    saved_cut(tmp_path, None)
    [entry] = autoprune.export(tmp_path, "onnx", model=toy("plain"), batch=3, opset=20)
    assert entry["check"]["batches"] == [3]
    proto = onnx.load(tmp_path / "export/model.onnx")
    assert [side.dim_value for side in proto.graph.input[0].type.tensor_type.shape.dim] == [3, 3, 12, 12]
    assert {item.domain: item.version for item in proto.opset_import}[""] == 20


class Drifting(nn.Module):
    """Tells an eager call from an export, and answers differently."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = toy("plain")

    def forward(self, x):
        drift = 0.01 if torch.compiler.is_exporting() else 0.0
        return self.layers(x) + drift


def test_a_file_that_deviates_is_not_left_behind_and_an_older_one_stays(tmp_path):
    saved_cut(tmp_path, None, model=Drifting().eval())
    (tmp_path / "export").mkdir()
    (tmp_path / "export/model.pt2").write_text("older")
    with pytest.raises(ModelError, match=r"torch-export file deviates from the network by 0\.01 on 2 images"):
        autoprune.export(tmp_path, "torch-export", model=Drifting().eval())
    assert [item.name for item in (tmp_path / "export").iterdir()] == ["model.pt2"]
    assert (tmp_path / "export/model.pt2").read_text() == "older"


class BatchMinded(nn.Module):
    """Computes something else for more images."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = toy("plain")

    def forward(self, x):
        return self.layers(x) * (2 if len(x) > 3 else 1)


def test_a_forward_with_its_own_mind_about_batches_needs_a_fixed_one(tmp_path):
    model = BatchMinded().eval()
    saved_cut(tmp_path, None, model=model)
    with pytest.raises(ModelError, match="--batch N"):
        autoprune.export(tmp_path, "torchscript", model=model)
    [entry] = autoprune.export(tmp_path, "torchscript", model=model, batch=4)
    assert entry["check"]["batches"] == [4]


class DataMinded(BatchMinded):
    """Computes something else for brighter images."""

    def forward(self, x):
        return self.layers(x) * (2 if x.mean().item() > 3 else 1)


def test_a_forward_that_looks_at_its_images_is_refused_in_one_line(tmp_path, capfd):
    saved_cut(tmp_path, None, model=DataMinded().eval())
    with pytest.raises(ModelError, match="cannot be exported to torch-export: GuardOnDataDependentSymNode"):
        autoprune.export(tmp_path, "torch-export", model=DataMinded().eval())
    assert capfd.readouterr().err == ""


def test_what_onnx_lacks_is_named(tmp_path):
    saved_cut(tmp_path, None, model=Bessel().eval())
    with pytest.raises(ModelError, match=r"exported to onnx: DispatchError: No ONNX function .*bessel_j0"):
        autoprune.export(tmp_path, "onnx", model=Bessel().eval())


@pytest.mark.parametrize(("gives", "reason"), [
    (lambda x: [x.mean((1, 2, 3))], r"gives \[\(2,\)\] for 2 images"),
    (lambda x: [torch.full((len(x), 5), float("nan"))], "deviates from the network by nan"),
    (lambda x: 1 / 0, "fails on 2 images: ZeroDivisionError"),
])  # fmt: skip
def test_other_shapes_and_nan_and_failures_are_no_agreement(gives, reason):
    source = Exportable(toy("plain"), torch.randn(2, 3, 12, 12), True, {}, lambda: toy("plain"))
    with pytest.raises(ModelError, match=reason):
        exporting.compare(source, gives, "made up")


def test_absent_packages_are_named_with_the_extra(tmp_path, monkeypatch):
    saved_cut(tmp_path, None)
    monkeypatch.delitem(sys.modules, "autoprune.models.storage.exports.onnx_file", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"onnx is missing.*pip install 'autoprune\[onnx\]'"):
        autoprune.export(tmp_path, "onnx", model=toy("plain"))


@pytest.mark.parametrize(("arguments", "message"), [
    (["--format", "onxx"], r"Unknown format 'onxx'\. Did you mean 'onnx'\?"),
    ([], r"Which format\? Give --format"),
    (["--format", ","], r"Which format\?"),
    (["--format", "onnx", "--batch", "many"], "Cannot read --batch 'many'"),
    (["--format", "onnx", "--batch", "0"], "--batch 0 must be"),
    (["--format", "onnx", "--opset", "11"], "--opset 11 is too old"),
    (["--format", "torchscript", "--opset", "18"], "--opset is for ONNX alone"),
    (["--format", "safetensors", "--with-preprocessing"], "holds weights and no forward"),
    (["--format", "onnx,torchscript", "--out", "x.onnx"], "is one file, but there are several formats"),
    (["--format", "onnx"], "holds no saved network"),
])  # fmt: skip
def test_a_wrong_wish_is_answered_in_one_line(tmp_path, capsys, arguments, message):
    assert run(["export", str(tmp_path / "nowhere"), *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


@pytest.mark.parametrize("out", ["taken", "taken/folder", "taken/model.onnx"])
def test_a_place_that_is_no_folder_is_refused_before_anything_is_exported(tmp_path, out):
    (tmp_path / "taken").touch()
    with pytest.raises(ConfigError, match=r"The output folder '.*taken.*is a file\. Name another one with --out\.$"):
        ExportOptions(("onnx",), tmp_path / out)


def test_preprocessing_that_nobody_recorded_cannot_be_baked_in(tmp_path):
    saved_cut(tmp_path, None)
    with pytest.raises(ConfigError, match="does not say how its images are normalised"):
        autoprune.export(tmp_path, "torchscript", model=toy("plain"), with_preprocessing=True)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}'])
def test_a_broken_description_is_one_clear_error(tmp_path, content):
    saved_cut(tmp_path, None)
    (tmp_path / "structure.json").write_text(content)
    with pytest.raises(RunError, match=r"structure\.json"):
        autoprune.export(tmp_path, "torchscript", model=toy("plain"))


def test_wishes_are_read_as_people_write_them():
    assert formats_from(["onnx, torchscript", "onnx"]) == ("onnx", "torchscript")
    assert batch_from("dynamic") is None
    assert batch_from("8") == 8
    assert ExportOptions(("onnx",), Path("a/b.onnx")).file("onnx", Path("run")) == Path("a/b.onnx")
    assert ExportOptions(("onnx",), Path("a/v1.2")).file("onnx", Path("run")) == Path("a/v1.2/model.onnx")
    assert ExportOptions(("onnx",)).file("onnx", Path("run")) == Path("run/export/model.onnx")
