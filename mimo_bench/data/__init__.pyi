from .config import Contents, Data, DigitsData, FILLED_IN, HuggingFaceData, NAMED, Split, SyntheticData, locate
from .dataset import CPU, Dataset, PAD, Text, check_items, check_text
from .fingerprint import read_fingerprint
from .prepare import build_dataset, in_words, num_left_out, prepare
from .source import HELD_OUT, read_contents

__all__ = [
    "CPU",
    "Contents",
    "Data",
    "Dataset",
    "DigitsData",
    "FILLED_IN",
    "HELD_OUT",
    "HuggingFaceData",
    "NAMED",
    "PAD",
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
    "read_contents",
    "read_fingerprint",
]
