from .gate.campaign import Campaign
from .gate.false_alarms import count_alarms, read_account
from .gate.mutants import read_trials, run_mutants
from .gate.selftest import SELFTEST, SELFTEST_HANG_SECONDS, left_out, list_faults, plan_selftest, run_selftest
from .ledger import add_to_record, check_record
from .linkspeed import describe_links, measure_links
from .matrix import run_matrix
from .overhead import describe_overhead, measure_overhead
from .request import (
    HANG_SECONDS,
    account_directory,
    check_fits,
    device_kind,
    parse_hang_limit,
    parse_modes,
    plan_runs,
    plan_training,
    run_directories,
)
from .resume import read_earlier
from .train import WORKER, resume_hint, run_training

__all__ = [
    "HANG_SECONDS",
    "SELFTEST",
    "SELFTEST_HANG_SECONDS",
    "WORKER",
    "Campaign",
    "account_directory",
    "add_to_record",
    "check_fits",
    "check_record",
    "count_alarms",
    "describe_links",
    "describe_overhead",
    "device_kind",
    "left_out",
    "list_faults",
    "measure_links",
    "measure_overhead",
    "parse_hang_limit",
    "parse_modes",
    "plan_runs",
    "plan_selftest",
    "plan_training",
    "read_account",
    "read_earlier",
    "read_trials",
    "resume_hint",
    "run_directories",
    "run_matrix",
    "run_mutants",
    "run_selftest",
    "run_training",
]
