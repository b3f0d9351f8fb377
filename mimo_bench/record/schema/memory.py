"""Device memory and energy."""

from __future__ import annotations

from mimo_bench.record.schema.base import Count, Entry, Finite, Seconds


class MemoryParts(Entry):
    """What device memory holds; the parts of a rank add up to its peak within 2 %."""

    parameters_bytes: Count
    gradients_bytes: Count
    """The buffers in which gradients are summed and reduced."""
    optimizer_bytes: Count
    """Moments, and fp32 copies of the weights where those are bf16."""
    activations_bytes: Count
    """What forward passes left for backward passes."""
    workspace_bytes: Count
    """Everything else: temporaries of the busiest moment, and the batches that wait on the device."""


class RankMemory(Entry):
    """Device memory of one rank over the timed window."""

    device_uuid: str
    peak_allocated_bytes: Count
    peak_reserved_bytes: Count
    device_used_bytes: Count
    """All of the device that is in use at the end, by NVML: context, NCCL and other processes included."""
    fragmentation_bytes: Count | None = None
    """Reserved and not allocated, at the peak of what was reserved."""
    parts: MemoryParts | None = None
    """At the busiest moment of the step that held the peak, taken again after the timed window."""
    busiest: str | None = None
    """What was going on then: `language backward`."""
    modules_parts: dict[str, MemoryParts] = {}
    """By module, each at its own busiest moment, so they need not add up."""


class RankMemoryOf(RankMemory):
    """The same, with the rank it belongs to."""

    rank: int
    modules: tuple[str, ...]
    predicted_peak_bytes: Count | None = None
    """What `mimo-bench check` expects of peak_allocated_bytes, from shapes alone."""


class ModuleMemory(Entry):
    """Device memory of the worst rank that hosts the module; a colocated peak cannot be split between modules."""

    peak_allocated_bytes: Count
    peak_reserved_bytes: Count
    parameters_bytes: Count | None = None
    gradients_bytes: Count | None = None
    optimizer_bytes: Count | None = None
    activations_bytes: Count | None = None
    """What the module's forward passes left for its backward passes, at most."""
    workspace_bytes: Count | None = None
    """Temporaries of the module's own busiest moment."""


class DeviceState(Entry):
    """What the driver says of a device at one moment."""

    temperature_celsius: Count | None = None
    sm_clock_mhz: Count | None = None
    memory_clock_mhz: Count | None = None
    power_watts: Finite | None = None
    throttle_reasons: tuple[str, ...] | None = None
    """Why clocks are below what was asked for, but for idleness and settings; null where the driver does not say."""


class RankEnergy(Entry):
    """What one rank's device used over the timed window."""

    device_uuid: str
    window_seconds: Seconds
    joules: Finite | None
    """By the driver's counter; null over less than 10 s, which its steps are too coarse for."""
    before: DeviceState
    after: DeviceState


class Energy(Entry):
    """What all devices of the layout used over the timed window."""

    joules_per_step: Finite | None
    average_watts: Finite | None
    """Of all devices together."""
    reason: str | None = None
    """Why there is no figure, where there is none."""
    devices: tuple[RankEnergy, ...] = ()


class DeviceProcess(Entry):
    """A process that holds memory of a device, as the driver tells it."""

    device_uuid: str
    pid: int
    used_bytes: Count | None


class Memory(Entry):
    """Device memory of a layout over the timed window."""

    modules: dict[str, ModuleMemory]
    ranks: tuple[RankMemoryOf, ...]


class Comparing(Entry):
    """Device memory that parity mode takes beside the model, where full tensors are held against the baseline's."""

    extra_bytes: Count
    """Most at a time beyond what lay on the device when comparing began, on the rank that took most."""
    largest_tensor_bytes: Count
    """The largest full tensor of a parameter that this rank holds a part of, in fp32."""
