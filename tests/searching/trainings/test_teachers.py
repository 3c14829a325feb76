"""Teachers that are named: whose weights, and how they read images that were normalised for others."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from autoprune.data.images import preprocess
from autoprune.data.preprocessing import Preprocessing
from autoprune.data.sources import load_data
from autoprune.errors import ConfigError
from autoprune.models.zoo.catalogue import build_model, model_info
from autoprune.searching.trainings.teachers import Renormalised, named_teacher

OURS = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
THEIRS = Preprocessing(mean=(0.48, 0.46, 0.41), std=(0.23, 0.22, 0.5))


def test_a_teacher_reads_pixels_as_it_was_trained_to():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 4, 3)
    pixels = torch.randint(0, 256, (2, 3, 6, 6), dtype=torch.uint8)
    answer = Renormalised(network, given=OURS, own=THEIRS)(preprocess(pixels, OURS))
    torch.testing.assert_close(answer, network(preprocess(pixels, THEIRS)))


def test_a_teacher_of_images_with_other_channels_is_refused():
    grey = Preprocessing(mean=(0.5,), std=(0.5,))
    with pytest.raises(ConfigError, match="reads images of 1 channels, and those to train on have 3"):
        Renormalised(torch.nn.Conv2d(1, 4, 3), given=OURS, own=grey)


def test_only_a_teacher_that_wants_other_pixels_is_wrapped(tmp_path, monkeypatch):
    data = load_data("digits")
    save_file(build_model("digits/resnet").state_dict(), tmp_path / "weights.safetensors")
    given = data.preprocessing
    assert given is not None
    wanted = {"same": given, "unknown": None, "other": Preprocessing(mean=(0.1,), std=(0.3,))}
    wrapped = {}
    for name, own in wanted.items():
        info = replace(model_info("digits/resnet"), preprocessing=own)
        monkeypatch.setattr("autoprune.searching.trainings.teachers.model_info", lambda _, info=info: info)
        teacher = named_teacher(tmp_path / "weights.safetensors", model="digits/resnet", data=data)
        wrapped[name] = isinstance(teacher, Renormalised)
    assert wrapped == {"same": False, "unknown": False, "other": True}


def test_a_weights_file_of_a_network_without_a_name_is_asked_about(tmp_path):
    with pytest.raises(ConfigError, match="--teacher-model"):
        named_teacher(tmp_path / "weights.pt", model=None, data=load_data("digits"))
