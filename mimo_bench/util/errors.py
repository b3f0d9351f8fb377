"""Everything a user can cause, as one small tree. What only our own bug can cause is an `assert`.

MimoBenchError
    ScenarioError    the file: unknown key, wrong type, a value that cannot be
        LayoutError  the layouts in it: spans, degrees, batch arithmetic
    WeightsError     weights that are missing, broken or another model's
    DataError        samples that cannot be read, or that the model cannot take
    CheckpointError  a checkpoint that is missing, broken or of another training
    RecordError      a record that is missing, broken or of an unknown version
    HistoryError     a history, or the file of expectations in it
    TrainingError    a training that did not come to its end
    LaunchError      ranks could not be started
    FaultError       a planted fault that does not exist
"""


class MimoBenchError(Exception):
    """Something the user can mend; the message names the thing, the value and the remedy."""


class UsageError(MimoBenchError):
    """A command line, or a call of the Python API, that asks for what cannot be."""


class ScenarioError(MimoBenchError):
    """A scenario file that does not describe an experiment."""


class LayoutError(ScenarioError):
    """A layout that no set of ranks can hold."""


class CheckpointError(MimoBenchError):
    """A checkpoint that is missing, broken or of another training."""


class WeightsError(MimoBenchError):
    """Weights that cannot be read, or are not those of the model at hand."""


class DataError(MimoBenchError):
    """A sample or a set of them that cannot be trained on; the message names the sample."""


class RecordError(MimoBenchError):
    """A record that cannot be read or contradicts itself."""


class HistoryError(MimoBenchError):
    """A history that cannot take a run, or expectations that cannot be read."""


class TrainingError(MimoBenchError):
    """A training that did not come to its end; what it had made is gone."""


class LaunchError(MimoBenchError):
    """Ranks could not be started on this machine."""


class FaultError(MimoBenchError):
    """A requested fault that cannot be planted."""
