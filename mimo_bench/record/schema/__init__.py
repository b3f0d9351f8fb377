"""Schema of the record of a run. People and programs read the same `run.json`.

Names carry their units; unknown is null, never a guess and never NaN. Fields may be added within a schema version. A
reader skips those that it does not know.
"""

from __future__ import annotations

from mimo_bench.record.schema.base import SCHEMA_VERSION, Count, Finite, Mode, Seconds, Status
from mimo_bench.record.schema.communication import (
    Account,
    Communication,
    LinkSpeed,
    RankAccount,
    RankAccountOf,
    RankCommunication,
)
from mimo_bench.record.schema.history import Comparison, ExpectedFailure, HistoryComparison, Quantity
from mimo_bench.record.schema.layout import LayoutRecord, ModuleGrid, RankRecord
from mimo_bench.record.schema.memory import (
    Comparing,
    DeviceProcess,
    DeviceState,
    Energy,
    Memory,
    MemoryParts,
    ModuleMemory,
    RankEnergy,
    RankMemory,
    RankMemoryOf,
)
from mimo_bench.record.schema.parity import (
    AsTimed,
    Check,
    Difference,
    EvaluationResult,
    Noise,
    OptimizerDifferences,
    ParameterDifference,
    Parity,
    ReferenceVerdict,
    Tolerance,
    VariantName,
)
from mimo_bench.record.schema.run import (
    HASH_OF_MEASURING_VERSION_1,
    MEASURING_VERSION,
    Device,
    Environment,
    Interval,
    Ranked,
    Resumption,
    RunRecord,
)
from mimo_bench.record.schema.timing import Launch, Loading, ModuleTiming, PhaseSeconds, RankLoading, Timing

__all__ = [
    "HASH_OF_MEASURING_VERSION_1",
    "MEASURING_VERSION",
    "SCHEMA_VERSION",
    "Account",
    "AsTimed",
    "Check",
    "Communication",
    "Comparing",
    "Comparison",
    "Count",
    "Device",
    "DeviceProcess",
    "DeviceState",
    "Difference",
    "Energy",
    "Environment",
    "EvaluationResult",
    "ExpectedFailure",
    "Finite",
    "HistoryComparison",
    "Interval",
    "Launch",
    "LayoutRecord",
    "LinkSpeed",
    "Loading",
    "Memory",
    "MemoryParts",
    "Mode",
    "ModuleGrid",
    "ModuleMemory",
    "ModuleTiming",
    "Noise",
    "OptimizerDifferences",
    "ParameterDifference",
    "Parity",
    "PhaseSeconds",
    "Quantity",
    "RankAccount",
    "RankAccountOf",
    "RankCommunication",
    "RankEnergy",
    "RankLoading",
    "RankMemory",
    "RankMemoryOf",
    "RankRecord",
    "Ranked",
    "ReferenceVerdict",
    "Resumption",
    "RunRecord",
    "Seconds",
    "Status",
    "Timing",
    "Tolerance",
    "VariantName",
]
