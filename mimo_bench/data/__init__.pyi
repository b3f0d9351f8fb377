from .config import FILLED_IN, NAMED, Contents, Data, DigitsData, HuggingFaceData, Split, SyntheticData, locate
from .dataset import CPU, PAD, Dataset, Text, check_items, check_text
from .fingerprint import read_fingerprint
from .prepare import build_dataset, in_words, num_left_out, prepare
from .preview import Preview, preview
from .source import HELD_OUT, read_contents

__all__ = [
    "CPU",
    "FILLED_IN",
    "HELD_OUT",
    "NAMED",
    "PAD",
    "Contents",
    "Data",
    "Dataset",
    "DigitsData",
    "HuggingFaceData",
    "Preview",
    "Split",
    "SyntheticData",
    "Text",
    "build_dataset",
    "check_items",
    "check_text",
    "in_words",
    "locate",
    "num_left_out",
    "prepare",
    "preview",
    "read_contents",
    "read_fingerprint",
]
