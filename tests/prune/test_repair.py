"""The closed-form repair: its normal equations, its gaps, and what it writes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import SanaTransformer2DModel

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.family.architecture import block_name
from sanac.nn.blocks.block import POINT, block
from sanac.nn.calibration.job import calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.calibration.states import CalibrationStates
from sanac.prune.repair import Sums, fit, gaps_of, last_operation
from tests.conftest import Sanac

FEW = CalibrationSettings(num_prompts=20, timesteps=4, guidance=1.0)


@pytest.fixture(scope="module")
def states(pipeline: Path) -> tuple[CalibrationStates, CalibrationStates]:
    with torch.no_grad():
        fitted, judged = calibration(open_model(locate(str(pipeline))), FEW, every=1).states([1])
    return fitted, judged


def error(states: CalibrationStates, kept: tuple[int, ...]) -> float:
    return float(states.errors([kept])[kept].mean())


def test_a_repair_doesn_t_hang_on_batches(states: tuple[CalibrationStates, CalibrationStates]) -> None:
    with torch.no_grad():
        whole, parts = (fit(*(replace(side, batch=batch) for side in states), (1, 3, 4)) for batch in (64, 3))
    assert whole.changes.keys() == parts.changes.keys()
    assert "patch_embed.proj.weight" in whole.changes
    for name, change in whole.changes.items():
        assert (parts.changes[name] - change).norm() < 1e-3 * change.norm(), name


def test_the_solution_is_that_of_each_channel_s_own_gram_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    sums = Sums()
    rows, targets = [], []
    for group in range(3):
        given, gate = torch.randn(50, 6, generator=generator), torch.randn(4, generator=generator)
        delta = torch.randn(50, 4, generator=generator)
        sums.add(group, gate, given[:20], delta[:20])
        sums.add(group, gate, given[20:], delta[20:])
        rows.append(gate[:, None, None] * given[None])
        targets.append(delta.T)
    design, target = torch.cat(rows, dim=1).double(), torch.cat(targets, dim=1).double()
    for ridge in (1e-6, 0.1):
        found = sums.solve(ridge)
        for channel in range(4):
            gram = design[channel].T @ design[channel]
            damped = gram + ridge * gram.diagonal().mean() * torch.eye(6, dtype=torch.float64)
            wanted = torch.linalg.solve(damped, design[channel].T @ target[channel])
            assert torch.allclose(found[channel], wanted, atol=1e-4), (ridge, channel)


def test_a_channel_whose_gate_is_shut_is_left_alone() -> None:
    sums = Sums()
    sums.add(0, torch.tensor([0.0, 1.0]), torch.randn(30, 3), torch.randn(30, 2))
    change = sums.solve(1e-3)
    assert change[0].abs().max() == 0
    assert change[1].abs().max() > 0


def test_gaps() -> None:
    assert gaps_of((0, 1, 2), 3) == {}
    assert gaps_of((0, 3), 6) == {0: 2, 3: 5}
    assert gaps_of((2, 3, 5), 6) == {-1: 1, 3: 4}


def test_the_last_operation_is_the_block_s(states: tuple[CalibrationStates, CalibrationStates]) -> None:
    fitted = states[0]
    start, tensors = fitted.starts(fitted.moments[1])[1], fitted.blocks.block(2)
    given, gate, after = last_operation(tensors, start.state, start.conditioning, fitted.geometry)
    assert torch.equal(after, block(tensors, start.state, start.conditioning, fitted.geometry))
    change = torch.randn_like(tensors[POINT]) * 0.1
    changed = block({**tensors, POINT: tensors[POINT] + change}, start.state, start.conditioning, fitted.geometry)
    promised = after.flatten(0, 1) + gate * (given @ change.flatten(1).T)
    assert torch.allclose(changed.flatten(0, 1), promised, atol=1e-5)


def test_it_mends_what_can_be_mended(states: tuple[CalibrationStates, CalibrationStates]) -> None:
    fitted, judged = states
    for kept in ((0, 1, 3, 5), (2, 3, 4, 5), (0, 1, 2)):
        repair = fit(fitted, judged, kept)
        assert [(gap.first, gap.last) for gap in repair.gaps] == [
            (before + 1, last) for before, last in gaps_of(kept, 6).items()
        ]
        assert all(gap.after <= gap.before for gap in repair.gaps)
        assert error(judged.changed(repair.changes), kept) < error(judged, kept)


def apart(states: CalibrationStates, changed: CalibrationStates, kept: tuple[int, ...], last: int) -> float:
    """|teacher - student|^2 / |teacher|^2 behind block `last`, the student with the changes that are there by then."""
    shares = []
    for moment in states.moments:
        for whole, pruned in zip(states.starts(moment), changed.starts(moment), strict=True):
            teacher, student = whole.state, pruned.state
            for index in range(last + 1):
                teacher = block(states.blocks.block(index), teacher, whole.conditioning, states.geometry)
                if index in kept:
                    student = block(changed.blocks.block(index), student, pruned.conditioning, states.geometry)
            shares.append(float((teacher - student).square().sum() / teacher.square().sum()))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("kept", [(0, 2, 5), (2, 4, 5), (1, 2, 4)])
def test_each_gap_sees_what_the_repairs_before_it_left(
    states: tuple[CalibrationStates, CalibrationStates], kept: tuple[int, ...]
) -> None:
    fitted, chosen = states
    repair = fit(fitted, chosen, kept)
    done: dict[str, torch.Tensor] = {}
    for gap in repair.gaps:
        assert gap.before == pytest.approx(apart(chosen, chosen.changed(done), kept, gap.last), rel=1e-3)
        folded = "patch_embed" if gap.first == 0 else block_name(gap.first - 1, POINT)
        done |= {name: change for name, change in repair.changes.items() if name.startswith(folded)}
        assert gap.after == pytest.approx(apart(chosen, chosen.changed(done), kept, gap.last), rel=1e-3)
    assert done.keys() == repair.changes.keys()
    assert len(repair.gaps) >= 2


def test_the_embedding_s_bias_is_free(
    states: tuple[CalibrationStates, CalibrationStates], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gap that only adds a constant is mended by the bias alone, however strong the ridge."""
    added = torch.linspace(-3, 3, 96)
    monkeypatch.setattr("sanac.prune.repair.block", lambda tensors, state, *_: state + added)
    monkeypatch.setattr("sanac.prune.repair.RIDGES", (1e9,))
    repair = fit(*states, (1, 2, 3, 4, 5))
    assert torch.allclose(repair.changes["patch_embed.proj.bias"], added, atol=1e-3)
    assert repair.changes["patch_embed.proj.weight"].abs().max() < 1e-3


def test_without_gaps_nothing_changes(states: tuple[CalibrationStates, CalibrationStates]) -> None:
    fitted, judged = states
    whole = tuple(range(6))
    assert fit(fitted, judged, whole).changes == {}
    assert error(judged, whole) < 1e-9


def test_what_another_last_operation_did_is_found_again(states: tuple[CalibrationStates, CalibrationStates]) -> None:
    fitted, tensors = states[0], states[0].blocks.block(2)
    hidden = torch.randn(tensors[POINT].shape, generator=torch.Generator().manual_seed(1)) * 0.05
    sums = Sums()
    for moment, now in enumerate(fitted.moments):
        for start in fitted.starts(now):
            given, gate, after = last_operation(tensors, start.state, start.conditioning, fitted.geometry)
            teacher = {**tensors, POINT: tensors[POINT] + hidden}
            wanted = block(teacher, start.state, start.conditioning, fitted.geometry)
            sums.add(moment, gate, given, (wanted - after).flatten(0, 1))
    found = sums.solve(1e-9)
    sent, promised = (given.double() @ change.double().flatten(1).T for change in (hidden, found))
    assert (sent - promised).norm() < 0.02 * sent.norm()


def test_what_is_written_is_what_was_judged(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    options = ("--num-prompts", "20", "--timesteps", "4", "--compensate")
    ran = sanac("prune", pipeline, "--keep", "1,2,4", *options, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "repaired" in ran.err
    plain = sanac("prune", pipeline, "--keep", "1,2,4", "--out", tmp_path / "plain")
    assert plain.code == 0
    mended, bare = (
        SanaTransformer2DModel.from_pretrained(tmp_path / name, subfolder="transformer").state_dict()
        for name in ("out", "plain")
    )
    differing = {name for name in bare if not torch.equal(bare[name], mended[name])}
    assert differing <= {
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
        *(block_name(index, POINT) for index in (1, 2)),
    }
    assert block_name(1, POINT) in differing
    report = (tmp_path / "out" / "measurements" / "compensate.json").read_text()
    assert '"repaired"' in report
    again = sanac("prune", pipeline, "--keep", "1,2,4", *options, "--out", tmp_path / "out", "--json")
    assert again.json["status"] == "cached"
    other = sanac("prune", pipeline, "--keep", "1,2,4", *options, "--seed", "5", "--out", tmp_path / "out")
    assert other.code != 0
    assert "--force" in other.err
