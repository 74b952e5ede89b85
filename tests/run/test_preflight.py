"""Before the first stage of a recipe: is everything installed that a later one needs?"""

from pathlib import Path

import pytest

from sanac.core.errors import MissingResource
from sanac.core.requirements import install_command
from tests.conftest import Sanac

TRAINED = 'model = "sanac:tiny"\n[prune]\nkeep = "0-3"\n[finetune]\nlora = 4\n'


def test_a_builder_that_is_missing_is_said_before_any_stage_runs(sanac: Sanac, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_builder: str) -> None:
        raise MissingResource("tensorrt_rtx is not installed", hint=install_command("rtx-build"))

    monkeypatch.setattr("sanac.export.engine_plan.bindings", missing)
    monkeypatch.setattr("sanac.run.job.run_all", lambda *_: pytest.fail("a stage was run"))
    ran = sanac("run", "demo", "--workspace", "ws")
    assert ran.code == 4
    assert "can't be run to its end here: tensorrt_rtx is not installed" in ran.err
    assert "pip install 'onnxruntime>=" in ran.err
    assert not Path("ws").exists()


def test_peft_is_looked_for_where_a_lora_is_trained(sanac: Sanac, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "peft" else object())
    monkeypatch.setattr("sanac.run.job.run_all", lambda *_: pytest.fail("a stage was run"))
    Path("recipe.toml").write_text(TRAINED)
    ran = sanac("run", "recipe.toml", "--workspace", "ws")
    assert (ran.code, "peft is not installed" in ran.err) == (4, True), ran.err


def test_the_install_command_names_packages_of_every_extra() -> None:
    assert install_command("train").startswith("pip install 'peft>=")
    assert "tensorrt-rtx" in install_command("rtx-build")
    assert install_command("nothing") == f"pip install '{Path(__file__).parents[2]}[nothing]'", (
        "not installed: a checkout"
    )
