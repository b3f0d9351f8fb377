from .config import FILLED_IN, NAMED, Contents, Data, DigitsData, HuggingFaceData, Split, SyntheticData, locate
from .contents import HELD_OUT, read_contents
from .dataset import CPU, PAD, Dataset, Text
from .fingerprint import read_fingerprint
from .fitting import check_items, check_text
from .prepare import in_words, num_left_out, prepare
from .registry import build_dataset

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
