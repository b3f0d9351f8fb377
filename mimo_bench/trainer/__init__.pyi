from .api import Dataset, Outcome, Text, evaluate, pretrain, set_up, train
from .checkpoint.files import check_directory, path_of, saved_in
from .checkpoint.state import MOMENTS, WEIGHT, OptimizerState
from .device import RankDevice, join
from .loader import MicroBatch
from .logging import METRICS, EvaluationTotals, Logging
from .megatron.bridge import GatherReplicas, SplitReplica, UnevenBridge
from .model import Provider, build_model, hosted_modules, unwrap
from .prefetch import LoaderWatch
from .pretraining import Pretraining, Saving, Validation, processor_of
from .step import ModelForward
from .stored import write_weights
from .topology import Topology, build_topology
from .trainer import StepTaken, Trainer, TrainerConfig, build_trainer, start_of
from .weights import Shard, draw_weights, shards, trained_shards

__all__ = [
    "METRICS",
    "MOMENTS",
    "WEIGHT",
    "Dataset",
    "EvaluationTotals",
    "GatherReplicas",
    "LoaderWatch",
    "Logging",
    "MicroBatch",
    "ModelForward",
    "OptimizerState",
    "Outcome",
    "Pretraining",
    "Provider",
    "RankDevice",
    "Saving",
    "Shard",
    "SplitReplica",
    "StepTaken",
    "Text",
    "Topology",
    "Trainer",
    "TrainerConfig",
    "UnevenBridge",
    "Validation",
    "build_model",
    "build_topology",
    "build_trainer",
    "check_directory",
    "draw_weights",
    "evaluate",
    "hosted_modules",
    "join",
    "path_of",
    "pretrain",
    "processor_of",
    "saved_in",
    "set_up",
    "shards",
    "start_of",
    "train",
    "trained_shards",
    "unwrap",
    "write_weights",
]
