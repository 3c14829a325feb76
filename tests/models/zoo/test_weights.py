from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autoprune.errors import WeightsError
from autoprune.models.zoo.weights import load_weights, sha256_of, state_fingerprint


def network(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
        lambda state: {"model": OrderedDict((f"module.{name}", value) for name, value in state.items())},
        lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}, "epoch": 3},
        lambda state: {f"module.net._orig_mod.{name}": value for name, value in state.items()},
        lambda state: {**{f"module.{name}": value for name, value in state.items()}, "n_averaged": torch.tensor(3)},
        lambda state: {"net": state, "acc": 93.1},
        lambda state: {"ema": state, "optimizer": {"state": {}, "lr": 0.1}},
    ],
)
def test_a_state_dict_loads_whatever_it_is_wrapped_in(wrap, tmp_path: Path) -> None:
    source, target = network(), network()
    path = tmp_path / "weights.pt"
    torch.save(wrap(source.state_dict()), path)
    load_weights(target, path)
    assert state_fingerprint(target) == state_fingerprint(source)


def test_safetensors_load(tmp_path: Path) -> None:
    source, target = network(), network()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    load_weights(target, tmp_path / "weights.safetensors")
    assert state_fingerprint(target) == state_fingerprint(source)


def test_only_the_batch_counters_may_be_missing(tmp_path: Path) -> None:
    state = network().state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "old.pt")
    load_weights(network(), tmp_path / "old.pt")
    del state["1.running_mean"]
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match=r"1 missing: 1\.running_mean\."):
        load_weights(network(), tmp_path / "bad.pt")


def test_a_mismatch_names_three_keys_of_each_kind_and_both_shapes(tmp_path: Path) -> None:
    state = network(5).state_dict() | {"extra": torch.zeros(1)}
    del state["3.bias"]
    torch.save(state, tmp_path / "w.pt")
    message = (
        r"1 missing: 3\.bias; 1 unexpected: extra; 7 of another shape: 0\.weight \(file 5x3x3x3, model 4x3x3x3\), "
        r".* and 4 more\. Check that the model named"
    )
    with pytest.raises(WeightsError, match=message):
        load_weights(network(4), tmp_path / "w.pt")


def test_a_mismatch_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = network(4)
    before = state_fingerprint(model)
    torch.save(network(5).state_dict(), tmp_path / "w.pt")
    with pytest.raises(WeightsError):
        load_weights(model, tmp_path / "w.pt")
    assert state_fingerprint(model) == before


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = network().state_dict()
    state["3.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"'3\.weight' holds values that are not finite"):
        load_weights(network(), tmp_path / "w.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"No weights file at .*nowhere\.pt"):
        load_weights(network(), tmp_path / "nowhere.pt")


def test_a_prefix_stays_where_the_model_has_it_and_hides_nothing_that_is_missing(tmp_path: Path) -> None:
    def inner() -> nn.Module:
        return nn.Sequential(OrderedDict(model=network()))

    source, target = inner(), inner()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert state_fingerprint(target) == state_fingerprint(source)
    state = {f"model.{name}": value for name, value in network().state_dict().items() if name != "3.bias"}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"does not fit the model: 1 missing: 3\.bias\. "):
        load_weights(network(), tmp_path / "w.pt")


def test_of_several_state_dicts_none_is_taken_by_chance(tmp_path: Path) -> None:
    torch.save({"student": network().state_dict(), "teacher": network().state_dict()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="student, teacher are no tensors"):
        load_weights(network(), tmp_path / "w.pt")


def _bytes(network: nn.Module, path: Path, *, legacy: bool = False) -> bytes:
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("w.pt", lambda _: b"", "it is empty"),
        ("w.pt", lambda _: b"hello world, this is text\n", "It is not a file that torch.save wrote"),
        ("w.pt", lambda path: _bytes(network(), path)[:900], "It seems truncated"),
        ("w.pt", lambda path: _bytes(network(), path, legacy=True)[:200], "It seems truncated"),
        ("w.safetensors", lambda _: b"hello", "it is no whole .safetensors file"),
        ("w.safetensors", lambda path: _bytes(network(), path), "give it a name that ends in .pt"),
    ],
)
def test_what_a_file_is_that_cannot_be_read_is_said_in_our_words(name, content, reason, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content(path))
    with pytest.raises(WeightsError, match=reason) as caught:
        load_weights(network(), path)
    assert "Error" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_a_torchscript_archive_is_not_run_and_nobody_is_told_to_load_it_unsafely(tmp_path: Path) -> None:
    torch.jit.script(network()).save(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"is a TorchScript archive.* Save its `state_dict\(\)`") as caught:
        load_weights(network(), tmp_path / "w.pt")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 50])
def test_a_corrupt_file_is_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="Cannot read the weights file") as caught:
        load_weights(network(), tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_truncated_file_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith(".pt"):
        torch.save(network().state_dict(), path)
    else:
        save_file(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WeightsError, match="Cannot read the weights file") as caught:
        load_weights(network(), path)
    assert "\n" not in str(caught.value)


class Stranger:
    """A class that a safe load must not construct."""


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_code_is_refused(legacy: bool, tmp_path: Path) -> None:
    content = {"state_dict": network().state_dict(), "stranger": Stranger()}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="loading it would run code") as caught:
        load_weights(network(), tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, torch.zeros(3)])
def test_a_file_without_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="state"):
        load_weights(network(), tmp_path / "w.pt")


def test_the_fingerprint_changes_with_every_value_name_and_shape() -> None:
    torch.manual_seed(0)
    model = network()
    first = state_fingerprint(model)
    assert state_fingerprint(model) == first
    with torch.no_grad():
        model[3].bias[0] += 1e-6
    assert state_fingerprint(model) != first
    assert state_fingerprint(nn.Sequential(*list(model)[1:])) != state_fingerprint(model)


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(WeightsError, match="Cannot read"):
        sha256_of(tmp_path / "missing")
