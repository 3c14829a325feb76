from __future__ import annotations

import pytest
import torch

from autoprune.methods.activations import visit_maps
from autoprune.models.network import Role
from autoprune.models.tracing.tracer import trace
from autoprune.models.zoo.catalogue import build_model
from tests.models.toy_networks import NETWORKS, SHAPE, images, toy


def visited(name: str, **options):
    model = toy(name)
    network = trace(model, torch.zeros(1, *SHAPE))
    found: dict[tuple[int, int], list[torch.Tensor]] = {}
    visit_maps(
        model,
        network,
        images(6),
        lambda group, place, maps: found.setdefault((group, place), []).append(maps.clone()),
        batch=4,
        **options,
    )
    return model, network, {key: torch.cat(maps) for key, maps in found.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_group_has_maps_of_its_width_for_every_image(name):
    _, network, found = visited(name)
    # Queries and keys of attention without heads are read by a product alone, which is no place.
    read = [group for group in range(len(network.groups)) if network.layers_of(group, Role.CONSUMES)]
    assert sorted(found) == [(group, 0) for group in read]
    assert len(read) == len(network.groups) - (name == "one head")
    for (group, _), maps in found.items():
        assert maps.shape[:2] == (6, network.groups[group].width)


def test_a_map_is_the_output_of_the_relu():
    model, network, found = visited("plain")
    seen = {}
    for index in (0, 2, 3):
        # The first unit's map is read before the max pool that follows it.
        model.layers[index].register_forward_hook(
            lambda _, args, out, index=index: seen.update({index: out.flatten(2)})
        )
    with torch.no_grad():
        model(images(6))
    for index in (0, 2, 3):
        torch.testing.assert_close(found[network.index[f"layers.{index}.0"], 0], seen[index])


def test_a_residual_stream_is_visited_after_the_stem_and_after_every_block():
    model, network, found = visited("residual with channel maps", every_place=True)
    seen = []
    for index in (0, 1, 2, 3):
        model.layers[index].register_forward_hook(lambda _, args, out: seen.append(out.flatten(2)))
    with torch.no_grad():
        model(images(6))
    stream = network.index["layers.0.0"]
    places = [maps for (group, _), maps in sorted(found.items()) if group == stream]
    # Option A: the six channels of the first stage are the channels 2 to 7 of the ten of the second.
    expected = [seen[0], seen[1], seen[2][:, 2:8], seen[3][:, 2:8]]
    assert len(places) == 4
    for maps, wanted in zip(places, expected, strict=True):
        torch.testing.assert_close(maps, wanted)


def test_a_flattened_map_has_as_many_positions_as_the_linear_layer_reads_of_a_channel():
    _, network, found = visited("flattened")
    assert found[network.index["conv2"], 0].shape == (6, 8, 9)


def test_without_a_relu_the_input_of_the_first_consumer_is_the_map():
    model, network, found = visited("chunks")
    seen = {}
    model.last.register_forward_hook(lambda _, args, out: seen.update(read=args[0].flatten(2)))
    with torch.no_grad():
        model(images(6))
    torch.testing.assert_close(found[network.index["both"], 0], seen["read"])


def test_the_maps_of_a_detector_are_those_of_its_layers_on_the_images_as_it_sees_them():
    """Its own forward would resize one image after the other and run its layers on them all."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model("detection/ssd-vgg-small", classes=3).eval()
    batch = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network = trace(model, batch[:1])
    seen: dict[int, int] = {}

    def visit(group, place, maps):
        assert maps.shape[1] == network.groups[group].width
        seen[group] = seen.get(group, 0) + len(maps)

    visit_maps(model, network, batch, visit, batch=2)
    assert seen
    assert set(seen.values()) == {3}
