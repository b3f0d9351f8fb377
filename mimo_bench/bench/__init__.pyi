from .addition import add_to_record, check_record
from .gate.false_alarms import CleanRun, count_alarms, read_account
from .linkspeed import describe_links, measure_links
from .matrix import run_matrix
from .overhead import describe_overhead, measure_overhead
from .run_options import Asked, device_kind, plan
from .train import WORKER, how_to_go_on, run_training
from .train_options import plan_training

__all__ = [
    "WORKER",
    "Asked",
    "CleanRun",
    "add_to_record",
    "check_record",
    "count_alarms",
    "describe_links",
    "describe_overhead",
    "device_kind",
    "how_to_go_on",
    "measure_links",
    "measure_overhead",
    "plan",
    "plan_training",
    "read_account",
    "run_matrix",
    "run_training",
]
