from .collectives import METHODS
from .diff import are_named, first_difference, relative
from .errors import (
    CheckpointError,
    DataError,
    FaultError,
    HistoryError,
    LaunchError,
    LayoutError,
    MimoBenchError,
    RecordError,
    ScenarioError,
    TrainingError,
    UsageError,
    WeightsError,
)
from .explain import NonNegativeFloat, NonNegativeInt, PositiveInt, Share, Table, explain
from .field_docs import Described, descriptions
from .files import LOCK_FILE, is_temporary, locked, naming, new_directory, sweep, sync_directory, write_atomically
from .rng import GOLDEN, LAST_SHIFT, MANTISSA_BITS, MIX, first_of, start_of
from .text import choices, counted

__all__ = [
    "GOLDEN",
    "LAST_SHIFT",
    "LOCK_FILE",
    "MANTISSA_BITS",
    "METHODS",
    "MIX",
    "CheckpointError",
    "DataError",
    "Described",
    "FaultError",
    "HistoryError",
    "LaunchError",
    "LayoutError",
    "MimoBenchError",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveInt",
    "RecordError",
    "ScenarioError",
    "Share",
    "Table",
    "TrainingError",
    "UsageError",
    "WeightsError",
    "are_named",
    "choices",
    "counted",
    "descriptions",
    "explain",
    "first_difference",
    "first_of",
    "is_temporary",
    "locked",
    "naming",
    "new_directory",
    "relative",
    "start_of",
    "sweep",
    "sync_directory",
    "write_atomically",
]
