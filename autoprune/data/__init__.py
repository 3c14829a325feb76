"""Images, mostly with labels: what networks are calibrated, scored and trained on."""

from autoprune.data.augment import augment
from autoprune.data.bundle import DataBundle, as_images, bundle_from
from autoprune.data.dataset_images import DatasetImages
from autoprune.data.images import ArrayImages, FolderImages, Images, preprocess
from autoprune.data.preprocessing import Augmentation, Preprocessing
from autoprune.data.sources import data_names, load_data
from autoprune.data.splits import Split, split_train, stratified_order

__all__ = [
    "ArrayImages",
    "Augmentation",
    "DataBundle",
    "DatasetImages",
    "FolderImages",
    "Images",
    "Preprocessing",
    "Split",
    "as_images",
    "augment",
    "bundle_from",
    "data_names",
    "load_data",
    "preprocess",
    "split_train",
    "stratified_order",
]
