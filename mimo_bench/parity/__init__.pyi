from .compare import Bounds
from .diagnose import LayoutFacts
from .faults.catalogue import KNOWN, SLOW, Planting, fault, find_fault, known_faults
from .faults.context import FaultContext, encoders, replace_attribute
from .faults.sites import Site
from .fingerprints import FINGERPRINT, Fingerprint, Mismatch, compare_fingerprints
from .probes.fingerprint import fingerprint, jitter_weights
from .probes.gradients import GRADIENTS, GradientProbe
from .probes.outcome import OUTCOME, OUTCOME_STEPS, OutcomeProbe, other_setting
from .probes.sketch import SketchProbe
from .probes.trace import Trace
from .tolerance import (
    LATE_LIMITS,
    Variant,
    parameter_bounds,
    parity_variants,
    rounded_variants,
)
from .trace import TRACE, TraceRecord, first_difference
from .verdict import (
    MEASURED,
    Measured,
    ParityChecks,
    TimedBounds,
    judge,
    judge_as_timed,
    judge_baseline,
    judge_baseline_as_timed,
    judge_noise,
    judge_reference,
)

__all__ = [
    "FINGERPRINT",
    "GRADIENTS",
    "KNOWN",
    "LATE_LIMITS",
    "MEASURED",
    "OUTCOME",
    "OUTCOME_STEPS",
    "SLOW",
    "TRACE",
    "Bounds",
    "FaultContext",
    "Fingerprint",
    "GradientProbe",
    "LayoutFacts",
    "Measured",
    "Mismatch",
    "OutcomeProbe",
    "ParityChecks",
    "Planting",
    "Site",
    "SketchProbe",
    "TimedBounds",
    "Trace",
    "TraceRecord",
    "Variant",
    "compare_fingerprints",
    "encoders",
    "fault",
    "find_fault",
    "fingerprint",
    "first_difference",
    "jitter_weights",
    "judge",
    "judge_as_timed",
    "judge_baseline",
    "judge_baseline_as_timed",
    "judge_noise",
    "judge_reference",
    "known_faults",
    "other_setting",
    "parameter_bounds",
    "parity_variants",
    "replace_attribute",
    "rounded_variants",
]
