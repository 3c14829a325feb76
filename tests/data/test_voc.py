from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autoprune.data import Preprocessing, load_data
from autoprune.data.annotations import from_arrays, to_arrays
from autoprune.data.augment import augment_boxed
from autoprune.data.boxes import Boxes
from autoprune.data.preprocessing import Augmentation, unit_range
from autoprune.data.voc import read_voc
from autoprune.errors import DataError
from tests.voc_folders import annotation, write_image, write_split, write_voc


def load(folder: Path, size: tuple[int, int] = (32, 32)):
    return load_data(f"voc:{folder}", preprocessing=unit_range(size))


def test_images_and_boxes_are_stretched_to_the_networks_size(tmp_path: Path) -> None:
    year = tmp_path / "VOCdevkit" / "VOC2007"
    write_image(year, "wide", [("red", 10, 20, 50, 40, False), ("blue", 60, 0, 100, 30, True)], width=100, height=50)
    for split in ("trainval", "test"):
        write_split(year, split, ["wide"])
    data = load(tmp_path, (40, 20))
    assert data.classes == ("blue", "red")
    assert data.input_shape == (3, 40, 20)
    assert data.task.name == "detection"
    target = data.train.annotations.targets([0], torch.device("cpu"))[0]
    assert target["boxes"].tolist() == [[2, 16, 10, 32], [12, 0, 20, 24]]
    assert target["labels"].tolist() == [2, 1]
    assert target["difficult"].tolist() == [False, True]
    red = data.train.take([0])[0, :, 18:30, 4:8]
    assert torch.allclose(red.mean((1, 2)), torch.tensor([220, 40, 30]) / 255, atol=0.03)


@pytest.mark.parametrize("inside", ["VOCdevkit/VOC2007", "VOC2012", "."])
def test_the_folder_may_be_any_level_of_the_layout(inside: str, tmp_path: Path) -> None:
    made = write_voc(tmp_path / "made")
    place = tmp_path / "given" / inside
    place.parent.mkdir(parents=True, exist_ok=True)
    made.rename(place)
    data = load(tmp_path / "given")
    assert (len(data.train), len(data.test)) == (12, 6)


def test_years_are_joined_and_a_test_list_without_annotations_is_none(tmp_path: Path) -> None:
    write_voc(tmp_path)
    later = tmp_path / "VOCdevkit" / "VOC2012"
    write_image(later, "a", [("red", 1, 1, 20, 20, False)])
    write_split(later, "train", ["a"])
    write_split(later, "test", ["secret"])
    data = load(tmp_path)
    assert (len(data.train), len(data.test)) == (13, 6)


def test_without_a_test_split_networks_are_tested_on_val(tmp_path: Path) -> None:
    year = write_voc(tmp_path)
    write_split(year, "train", ["000000", "000001"])
    write_split(year, "val", ["000002"])
    (year / "ImageSets" / "Main" / "test.txt").unlink()
    data = load(tmp_path)
    assert (len(data.train), len(data.test)) == (2, 1)


def test_a_relative_folder_is_looked_for_under_the_data_root(tmp_path: Path) -> None:
    write_voc(tmp_path / "cells")
    assert len(load_data("voc:cells", root=tmp_path).train) == 12


def test_boxes_without_area_are_left_out_and_told_of(tmp_path: Path, caplog) -> None:
    year = write_voc(tmp_path)
    (year / "Annotations" / "000003.xml").write_text(
        annotation([("red", 30, 30, 30, 30, False), ("red", 1, 1, 9, 9, False)])
    )
    with caplog.at_level(logging.WARNING):
        data = load(tmp_path)
    assert "1 boxes" in caplog.text
    assert "000003" in caplog.text
    assert len(data.train.annotations.targets([3], torch.device("cpu"))[0]["boxes"]) == 1


def test_boxes_end_where_the_image_ends(tmp_path: Path) -> None:
    year = write_voc(tmp_path)
    (year / "Annotations" / "000000.xml").write_text(annotation([("red", -5, 10, 90, 60, False)]))
    assert load(tmp_path, (64, 64)).train.annotations.corners[0].tolist() == [0, 10, 64, 60]


def test_named_classes_choose_boxes_and_their_numbers(tmp_path: Path) -> None:
    write_voc(tmp_path)
    splits = read_voc(tmp_path, ["red"])
    assert splits.classes == ("red",)


def broken_xml(year: Path) -> None:
    (year / "Annotations" / "000002.xml").write_text("<annotation><object>")


def entities(year: Path) -> None:
    text = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation>&x;</annotation>'
    (year / "Annotations" / "000002.xml").write_text(text)


def nameless(year: Path) -> None:
    (year / "Annotations" / "000002.xml").write_text("<annotation><object><name/></object></annotation>")


def wordy(year: Path) -> None:
    text = annotation([("red", 1, 2, 30, 40, False)]).replace(">30<", ">thirty<")
    (year / "Annotations" / "000002.xml").write_text(text)


def unannotated(year: Path) -> None:
    (year / "Annotations" / "000002.xml").unlink()


def imageless(year: Path) -> None:
    (year / "JPEGImages" / "000002.jpg").unlink()


def listless(year: Path) -> None:
    write_split(year, "trainval", [])


def escaping(year: Path) -> None:
    write_split(year, "trainval", ["../../secret"])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (broken_xml, "000002.xml is broken XML"),
        (entities, "000002.xml declares a document type"),
        (nameless, "000002.xml: `name` is missing"),
        (wordy, "000002.xml: .*'thirty'"),
        (unannotated, "000002.xml cannot be read"),
        (imageless, "000002.jpg of the split 'trainval' is missing"),
        (listless, "split 'trainval' .* has no image"),
        (escaping, "which is a path"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(damage, words: str, tmp_path: Path) -> None:
    damage(write_voc(tmp_path))
    with pytest.raises(DataError, match=words) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_of_another_layout_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected .*VOCdevkit.VOC2007"):
        load(tmp_path)


def test_an_image_of_another_size_than_its_boxes_were_measured_in_is_named(tmp_path: Path) -> None:
    year = write_voc(tmp_path)
    Image.new("RGB", (20, 30)).save(year / "JPEGImages" / "000004.jpg")
    data = load(tmp_path)
    with pytest.raises(DataError, match=r"000004.jpg has 20x30 pixels, but its annotation says 64x64"):
        data.train.take([4])


def test_a_size_that_the_annotation_does_not_give_is_read_off_the_image(tmp_path: Path) -> None:
    year = write_voc(tmp_path)
    text = (year / "Annotations" / "000000.xml").read_text()
    (year / "Annotations" / "000000.xml").write_text(text.replace("<width>64</width>", "<width>0</width>"))
    assert read_voc(tmp_path).train[0].width == 64


def test_images_are_decoded_once(tmp_path: Path) -> None:
    year = write_voc(tmp_path)
    data = load(tmp_path)
    first = data.train.take([1, 0, 1])
    for path in (year / "JPEGImages").iterdir():
        path.unlink()
    assert torch.equal(first, data.train.take([1, 0, 1]))


def test_mirrored_boxes_stay_on_their_objects(tmp_path: Path) -> None:
    write_voc(tmp_path)
    data = load(tmp_path, (64, 64))
    index = np.arange(8)
    images, targets = data.train.pixels_at(index), data.train.annotations.targets(index, torch.device("cpu"))
    chance = torch.Generator().manual_seed(1)
    varied, moved = augment_boxed(images, targets, Augmentation(flip=True), chance)
    assert not all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(targets, moved, strict=True))
    colours = torch.tensor([[30, 60, 220], [220, 40, 30]]).float()
    for image, target in zip(varied.float(), moved, strict=True):
        for box, label in zip(target["boxes"].round().int().tolist(), target["labels"].tolist(), strict=True):
            inside = image[:, box[1] + 3 : box[3] - 3, box[0] + 3 : box[2] - 3].mean((1, 2))
            assert torch.allclose(inside, colours[label - 1], atol=12)
    recoloured, same = augment_boxed(images, targets, Augmentation(colour=0.5), chance)
    assert recoloured.dtype == torch.uint8
    assert not torch.equal(recoloured, images)
    assert same is targets


def test_boxes_of_chosen_images_come_in_their_order_and_through_arrays() -> None:
    corners = np.array([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]], dtype=np.float32)
    boxes = Boxes(np.array([0, 2, 2, 3]), corners, np.array([1, 0, 1]), np.array([False, True, False]))
    assert boxes.rarest_classes().tolist() == [0, 0, 1]
    chosen = boxes.select([2, 1, 0])
    assert chosen.corners[:, 2].tolist() == [3, 1, 2]
    assert chosen.starts.tolist() == [0, 1, 1, 3]
    again = from_arrays(to_arrays(chosen, "holdout"), "holdout")
    assert again is not None
    assert again.select([2, 1, 0]).corners.tolist() == corners.tolist()
    with pytest.raises(DataError, match="no area"):
        Boxes(np.array([0, 1]), np.zeros((1, 4), dtype=np.float32), np.array([0]), np.array([False]))


def test_images_for_which_no_size_is_asked_have_that_of_ssd300(tmp_path: Path) -> None:
    write_voc(tmp_path)
    assert load_data(f"voc:{tmp_path}").input_shape == (3, 300, 300)
    plain = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert load_data(f"voc:{tmp_path}", preprocessing=plain).input_shape == (3, 300, 300)
