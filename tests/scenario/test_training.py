"""Rates are worked out by hand from the schedule; what is frozen is named exactly, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mimo_bench.scenario.training import Schedule, Training
from mimo_bench.util.errors import ScenarioError

MODULES = ("vision", "language")


def rates(training: Training, *steps: int, module: str = "language") -> list[float]:
    return [training.rate_of(module, step) for step in steps]


def test_a_constant_rate_stays_from_the_first_step_on() -> None:
    assert rates(Training(learning_rate=0.5), 0, 1, 10_000) == [0.5, 0.5, 0.5]


def test_warm_up_rises_to_the_full_rate_with_its_last_step() -> None:
    assert rates(Training(learning_rate=0.8, warmup_steps=4), 0, 1, 2, 3, 4, 5) == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    )


def test_a_linear_decay_ends_at_its_share_and_stays_there() -> None:
    training = Training(learning_rate=1.0, warmup_steps=2, decay="linear", decay_steps=6, final_rate_share=0.2)
    # Four steps of decay, from 1.0 down by 0.2 each.
    assert rates(training, 0, 1, 2, 3, 4, 5, 6, 100) == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_a_cosine_decay_is_half_way_in_the_middle() -> None:
    training = Training(learning_rate=2.0, decay="cosine", decay_steps=8)
    # (1 + cos(pi / 4)) / 2 = 0.853553 after a quarter.
    assert rates(training, 0, 2, 4, 6, 8, 9) == pytest.approx([2.0, 1.707107, 1.0, 0.292893, 0.0, 0.0])


def test_a_module_may_learn_at_a_rate_of_its_own_on_the_same_schedule() -> None:
    training = Training(learning_rate=1.0, module_learning_rates={"vision": 0.1}, warmup_steps=2)
    assert rates(training, 0, 1, module="vision") == pytest.approx([0.05, 0.1])
    assert rates(training, 0, 1) == [0.5, 1.0]


def test_a_module_may_have_a_warm_up_and_a_decay_of_its_own() -> None:
    vision = Schedule(warmup_steps=4, decay="linear", decay_steps=8, final_rate_share=0.5)
    training = Training(
        learning_rate=1.0, module_learning_rates={"vision": 0.4}, warmup_steps=2, module_schedules={"vision": vision}
    )
    # 0.4 times 1/4, 4/4, 7/8, 1/2; the language model keeps the other warm-up, and no decay.
    assert rates(training, 0, 3, 5, 8, module="vision") == pytest.approx([0.1, 0.4, 0.35, 0.2])
    assert rates(training, 0, 3, 5, 8) == [0.5, 1.0, 1.0, 1.0]


def test_a_training_without_schedules_of_modules_is_known_by_what_it_was_before_there_were_any() -> None:
    assert "module_schedules" not in Training().model_dump(mode="json")
    schedules = Training(module_schedules={"vision": Schedule(warmup_steps=1)}).model_dump(mode="json")
    assert schedules["module_schedules"]["vision"]["warmup_steps"] == 1


def test_a_rate_of_zero_for_a_module_is_zero() -> None:
    assert rates(Training(module_learning_rates={"vision": 0.0}), 3, module="vision") == [0.0]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"decay": "cosine"}, "needs decay_steps, more of them than warmup_steps = 0"),
        ({"decay": "linear", "decay_steps": 5, "warmup_steps": 5}, "more of them than warmup_steps = 5"),
        (
            {"module_schedules": {"vision": {"decay": "linear"}}},
            "needs decay_steps, more of them than warmup_steps = 0",
        ),
        ({"decay_steps": 5}, 'set decay = "cosine", or remove decay_steps'),
    ],
)
def test_a_schedule_that_contradicts_itself_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Training.model_validate(keys)


def test_a_frozen_part_leaves_the_rest_of_its_module_to_be_trained() -> None:
    training = Training(freeze=("vision.encoder",))
    assert not training.trains("vision.encoder.vit.conv1.weight")
    assert training.trains("vision.projector.linear_fc1.weight")
    assert training.trains("language.output_layer.weight")
    assert not training.is_frozen("vision")


def test_a_name_that_only_begins_alike_is_another() -> None:
    assert Training(freeze=("vision",)).trains("vision2.encoder.weight")


@pytest.mark.parametrize("freeze", [("vision",), ("vision.encoder", "vision.projector"), ("vision", "vision.encoder")])
def test_a_module_is_frozen_as_a_whole_or_in_all_its_parts(freeze: tuple[str, ...]) -> None:
    training = Training(freeze=freeze)
    training.check(modules=MODULES)
    assert training.is_frozen("vision")
    assert not training.is_frozen("language")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"freeze": ("visoin",)}, "training.freeze: 'visoin' is not in the model; did you mean 'vision'"),
        ({"freeze": ("language.encoder",)}, "training.freeze: 'language.encoder' is not in the model"),
        ({"freeze": ("vision", "language")}, "nothing is left to train"),
        ({"module_learning_rates": {"audio": 1.0}}, "training.module_learning_rates: 'audio' is no module; use one of"),
        ({"freeze": ("vision",), "module_learning_rates": {"vision": 1.0}}, "'vision' is frozen; remove it there"),
        ({"module_schedules": {"vison": Schedule()}}, "training.module_schedules: 'vison' is no module; did you mean"),
        ({"freeze": ("vision",), "module_schedules": {"vision": Schedule()}}, "module_schedules: 'vision' is frozen"),
    ],
)
def test_a_name_that_the_model_lacks_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        Training(**keys).check(modules=MODULES)
