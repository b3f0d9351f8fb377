"""Device memory and energy."""

from __future__ import annotations

from mimo_bench.record.schema.base import Count, Entry, Finite, Seconds


class MemoryParts(Entry):
    """Contents of device memory; the parts of a rank add up to its peak within 2 %."""

    parameters_bytes: Count
    gradients_bytes: Count
    """Buffers in which gradients are summed and reduced."""
    optimizer_bytes: Count
    """Moments, and fp32 copies of bf16 weights."""
    activations_bytes: Count
    """Tensors that forward passes saved for backward passes."""
    workspace_bytes: Count
    """Everything else: temporaries at the peak, and batches that wait on the device."""


class RankMemory(Entry):
    """Device memory of one rank over the timed window."""

    device_uuid: str
    peak_allocated_bytes: Count
    peak_reserved_bytes: Count
    device_used_bytes: Count
    """Memory of the device in use at the end, by NVML: context, NCCL and other processes included."""
    fragmentation_bytes: Count | None = None
    """Reserved and not allocated memory, at the peak of the reserved memory."""
    parts: MemoryParts | None = None
    """Parts at the peak, measured in a repetition of the peak's step after the timed window."""
    busiest: str | None = None
    """Phase at the peak: `language backward`."""
    modules_parts: dict[str, MemoryParts] = {}
    """By module, each at its own peak: they need not add up."""


class RankMemoryOf(RankMemory):
    """Device memory with the rank that it belongs to."""

    rank: int
    modules: tuple[str, ...]
    predicted_peak_bytes: Count | None = None
    """Prediction of peak_allocated_bytes by `mimo-bench check`, from shapes alone."""


class ModuleMemory(Entry):
    """Device memory of the worst rank that hosts the module; a colocated peak cannot be split between modules."""

    peak_allocated_bytes: Count
    peak_reserved_bytes: Count
    parameters_bytes: Count | None = None
    gradients_bytes: Count | None = None
    optimizer_bytes: Count | None = None
    activations_bytes: Count | None = None
    """Most that the module's forward passes saved for its backward passes."""
    workspace_bytes: Count | None = None
    """Temporaries at the module's own peak."""


class DeviceState(Entry):
    """State of a device at one moment, by the driver."""

    temperature_celsius: Count | None = None
    sm_clock_mhz: Count | None = None
    memory_clock_mhz: Count | None = None
    power_watts: Finite | None = None
    throttle_reasons: tuple[str, ...] | None = None
    """Reasons for reduced clocks, except idleness and settings; null if the driver does not report them."""


class RankEnergy(Entry):
    """Energy that one rank's device used over the timed window."""

    device_uuid: str
    window_seconds: Seconds
    joules: Finite | None
    """Energy by the driver's counter; null for less than 10 s, as the counter's steps are too coarse."""
    before: DeviceState
    after: DeviceState


class Energy(Entry):
    """Energy that all devices of the layout used over the timed window."""

    joules_per_step: Finite | None
    average_watts: Finite | None
    """Sum over all devices."""
    reason: str | None = None
    """Reason why there is no figure; null if there is one."""
    devices: tuple[RankEnergy, ...] = ()


class DeviceProcess(Entry):
    """A process that holds memory of a device, by the driver."""

    device_uuid: str
    pid: int
    used_bytes: Count | None


class Memory(Entry):
    """Device memory of a layout over the timed window."""

    modules: dict[str, ModuleMemory]
    ranks: tuple[RankMemoryOf, ...]


class Comparing(Entry):
    """Device memory that parity mode takes besides the model, to compare full tensors with the baseline's."""

    extra_bytes: Count
    """Peak beyond what was allocated when the comparison began, on the rank that took most."""
    largest_tensor_bytes: Count
    """Size in fp32 of the largest full parameter of which this rank holds a part."""
