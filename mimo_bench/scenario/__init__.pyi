from .load import find_config, load_scenario
from .scenario import (
    Evaluation,
    LayoutCase,
    LoaderTable,
    Scenario,
    Steps,
    earlier_hash_of_content,
    hash_of_content,
    hash_of_layout,
    hash_of_shared,
    shared_content,
    without_places,
)
from .training import PARTS, Training

__all__ = [
    "PARTS",
    "Evaluation",
    "LayoutCase",
    "LoaderTable",
    "Scenario",
    "Steps",
    "Training",
    "earlier_hash_of_content",
    "find_config",
    "hash_of_content",
    "hash_of_layout",
    "hash_of_shared",
    "load_scenario",
    "shared_content",
    "without_places",
]
