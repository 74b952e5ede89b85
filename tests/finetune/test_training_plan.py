"""What a training changes to fit into memory, in which order, and what it leaves alone."""

from dataclasses import replace

import pytest

from benchmarks.synthetic import SANA_4_8B
from sanac.core.devices import parse_device
from sanac.core.errors import MissingResource
from sanac.finetune.training_plan import RANK, TrainingPlan, fitting

TWENTY = replace(SANA_4_8B, blocks=20)
USUAL = TrainingPlan(TWENTY.config(), 16, 32, 32, 300, "came8bit", "bf16", 0.99, micro_batch=16)


def planned(gigabytes: float, *named: str, on_gpu: bool = True, first: TrainingPlan = USUAL) -> TrainingPlan:
    return fitting(first, int(gigabytes * 1e9), set(named), on_gpu=on_gpu)


def test_nothing_is_changed_where_it_fits() -> None:
    assert planned(200) == USUAL
    assert USUAL.changes(USUAL) == []


def test_each_device_gets_the_cheapest_change_that_is_enough() -> None:
    eighty, forty_eight, thirty_two, twenty_four, sixteen = map(planned, (80, 48, 32, 24, 16))
    assert (eighty.micro_batch, eighty.checkpointing) == (8, False)
    assert (forty_eight.checkpointing, forty_eight.lora) == (True, None)
    assert (thirty_two.average_on_host, thirty_two.lora) == (False, None)
    assert (twenty_four.average, twenty_four.lora) == (0.99, None)
    assert sixteen.lora == RANK
    assert sixteen.average == 0.99
    for plan, room in ((eighty, 80), (forty_eight, 48), (thirty_two, 32), (twenty_four, 24), (sixteen, 16)):
        assert plan.memory.total <= 0.92 * room * 1e9
        assert bool(plan.changes(USUAL))


def test_less_memory_never_takes_more() -> None:
    totals = [planned(room).memory.total for room in range(16, 200, 8)]
    assert totals == sorted(totals)


def test_what_the_user_named_stays() -> None:
    with pytest.raises(MissingResource, match="at least") as refused:
        planned(16, "micro_batch", "lora", "ema")
    assert "--lora 16 saves" in str(refused.value.hint)
    assert planned(24, "micro_batch", first=replace(USUAL, micro_batch=4)).micro_batch == 4


def test_a_processor_has_no_other_memory_for_the_average() -> None:
    plan = planned(18, on_gpu=False, first=replace(USUAL, precision="fp32"))
    assert (plan.average, plan.average_on_host, plan.lora) == (0.0, False, None)
    assert "no moving average" in "; ".join(plan.changes(USUAL))


def test_gradients_that_wait_for_further_passes_are_counted() -> None:
    one, two = USUAL, replace(USUAL, micro_batch=8)
    assert two.memory.total == replace(two, micro_batch=8, batch=8).memory.total + two.memory.gradients
    assert one.memory.gradients == two.memory.gradients


def test_a_device_is_found_by_its_name_or_made_of_a_size() -> None:
    assert parse_device("rtx 4090").name == "RTX 4090"
    assert parse_device("24GB").memory == 24_000_000_000
    assert parse_device("A100").memory < parse_device("A100-80GB").memory
