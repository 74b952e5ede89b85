"""Recipes are read strictly: every mistake at once, each at its line; what is right becomes stages that share."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.errors import UsageError
from sanac.run.bundled import bundled, names
from sanac.run.recipe import Recipe
from sanac.run.recipe_checks import read_recipe
from sanac.run.stage_graph import plan_of
from sanac.run.stage_words import words
from sanac.run.toml_lines import Lines
from tests.conftest import Sanac


def recipe(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text)
    return read_recipe(path)


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        recipe(folder, text)
    return list(caught.value.problems)


def test_every_mistake_at_its_line(tmp_path: Path) -> None:
    text = """\
modell = "sanac:tiny"
[prune]
target_block = 6
select = "best"
[grow]
target_blocks = "many"
[quantize]
scheme = "int3"
[export]
sm = ["rtx4090"]
[matrix]
"prune.depth" = [8, 6]
[target]
max_bytes = "lots"
[evaluate]
suite = "shapes"
images = 0
[[gate]]
metric = "evaluate-shapes/overall"
[benchmark]
"""
    found = mistakes(tmp_path, text)
    wanted = [
        (1, "there is no table [modell]: did you mean 'model'?"),
        (1, "model is missing"),
        (2, "one of prune.target_blocks, prune.target_params, prune.keep is required"),
        (3, "there is no setting 'prune.target_block': did you mean 'target_blocks'?"),
        (4, "prune.select is 'best', not one of bi, norm, velocity, search"),
        (5, "grow and prune in one recipe"),
        (6, "grow.target_blocks is 'many', not a whole number"),
        (8, "quantize.scheme is 'int3'"),
        (10, "export.sm requires export.trt"),
        (12, "there is no setting 'prune.depth'"),
        (14, "target.max_bytes is 'lots', not a size"),
        (17, "evaluate.images is 0: at least 12"),
        (18, "gate 1: evaluate-shapes/overall: no limit"),
        (20, "there is no table [benchmark]"),
    ]
    for line, text in wanted:
        assert any(one.startswith(f"recipe.toml:{line}: ") and text in one for one in found), (line, text, found)
    lines = [int(one.split(":")[1]) for one in found]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('model = "m"', "nothing to do"),
        ('model = "m"\n[quantize]\nscheme = "fp8"\n[export]\ntrt = true\nsm = ["86"]', "fp8 has fp8 matmuls"),
        ('model = "m"\n[export]\ntrt = true\nsm = ["rtx9999"]', "export.sm is 'rtx9999': unknown GPU"),
        ('model = "m"\n[export]\ntrt = true\nbatch = "4..1"', "not a range such as"),
        ('model = "m"\n[prune]\nkeep = "0-3"\ntarget_blocks = 4', "contradict each other"),
        (
            'model = "m"\n[prune]\ntarget_blocks = 4\n[matrix]\n"prune.target_blocks" = [2]',
            "is fixed in [prune] (line 3)",
        ),
        ('model = "m"\n[prune]\n[matrix]\n"prune.target_blocks" = [2, 2]', "a value is listed twice"),
        ('model = "m"\n[prune]\n[matrix]\n"quantize.scheme" = ["int8-wo"]', "add [quantize]"),
        ('model = "m"\n[prune]\ntarget_blocks = 4\n[target]\nmax_bytes = "2MB"', "add a [matrix]"),
        ('model = "m"\n[prune]\n[matrix]\nprune.target_blocks=[2]\n[target]\nmin_score_ratio = 0.9', "add [evaluate]"),
        ('model = "m"\n[prune]\n[matrix]\nprune.target_blocks=[2]\n[target]\nmax_latency_ratio = 0.9', "add [bench]"),
        ('model = "m"\n[prune]\nmemory_limit = "big"\ntarget_blocks=2', "prune.memory_limit is 'big'"),
        ('model = "m"\n[prune]\ntarget_blocks=true', "is True, not a whole number"),
        ('model = "m"\n[analyze]\nnum_prompts=4\n[prune]\ntarget_blocks=2\nnum_prompts=5', "scores would not be used"),
        ('model = "m"\n[evaluate]\nsuite="shapes"\nbaseline=1', "not true or false"),
        ('model = "m"\nprune = 3', "prune is 3, not a table"),
        ('model = "m"\nsheet = "all"\n[prune]\ntarget_blocks = 2', "sheet is 'all', not true, false or 'stages'"),
        ('model = "m"\nsheet = 1\n[prune]\ntarget_blocks = 2', "sheet is 1, not true, false or 'stages'"),
        ('model = "m"\n[analyze]\n[[gate]]\nmetric="bench/onnx/batch1/step_ms"\nleast=1', "which isn't there"),
        ('model = "m"\n[bench]\n[[gate]]\nmetric="words"\nleast=1', "nothing measures 'words'"),
        ('model = "m"\n[bench]\n[[gate]]\nmetric="size/bytes"\nmin="1"', "min is not a number"),
        ('model = "m"\n[bench]\n[[gate]]\nmetric="size/bytes"\nbound="middle"\nleast=1', "bound 'middle'"),
        ('model = "m"\n[bench]\n[[gate]]\nmetric="size/bytes"\nleast=nan', "must be a finite number"),
    ],
)
def test_what_makes_no_sense_together(tmp_path: Path, text: str, said: str) -> None:
    found = mistakes(tmp_path, text)
    assert any(said in one for one in found), found


def test_what_is_no_recipe(sanac: Sanac, tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("model = [")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    for words_, code, said in (
        (("run", "broken.toml"), 2, "is not valid TOML"),
        (("run", "bytes.toml"), 2, "is not valid TOML"),
        (("run", "nowhere.toml"), 2, "can't be read"),
        (("run", "nothing"), 2, "there is no recipe 'nothing'"),
        (("recipes", "show", "../demo"), 2, "there is no recipe"),
    ):
        ran = sanac(*words_)
        assert (ran.code, said in ran.err) == (code, True), ran.err


@pytest.mark.parametrize("name", names())
def test_bundled_recipes_are_plans(sanac: Sanac, name: str, tmp_path: Path) -> None:
    """Each parses; with a model that is here, each is a plan: depths are those of the 4.8B, so only foreseen there."""
    asked = read_recipe(bundled(name))
    plan = plan_of(asked, "identity")
    assert [stage.verb for stage in plan.stages() if stage.writes_artifact]
    made = sanac("recipes", "cp", name, tmp_path / "mine.toml")
    assert (made.code, read_recipe(tmp_path / "mine.toml").steps) == (0, asked.steps)
    assert sanac("recipes", "cp", name, tmp_path / "mine.toml").code == 2
    assert sanac("recipes", "show", name).out == bundled(name).read_text()
    assert name in sanac("recipes", "ls", "--json").json["recipes"]


@pytest.mark.parametrize("name", names())
def test_bundled_recipes_dry_run(sanac: Sanac, name: str, tmp_path: Path, full_shape: dict[int, Path]) -> None:
    small = dict.fromkeys(("demo", "quick"), "sanac:tiny")
    model = {**small, "grow-1.6b-to-4.8b": full_shape[20]}.get(name, full_shape[60])
    ran = sanac("run", name, "--dry-run", "--json", "--model", model)
    assert ran.code == 0, ran.err
    stages = ran.json["stages"]
    assert all(stage["seconds"] > 0 and stage["memory"] > 0 and not stage["done"] for stage in stages)
    if name == "sana-4.8b-to-1.6b":
        after = next(stage for stage in stages if stage["verb"] == "prune")
        assert after["blocks"] == 20
        assert after["bytes"] == pytest.approx(2 * 1.604e9, rel=0.01), "what inspect says of 20 blocks"
    assert not (tmp_path / "sanac-out").exists()


@pytest.fixture(scope="module")
def full_shape(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Transformers of the real shape that hold nothing: sparse files."""
    import dataclasses

    from benchmarks.synthetic import SANA_4_8B, write_transformer

    found = {}
    for blocks in (20, 60):
        found[blocks] = tmp_path_factory.mktemp("models") / f"blocks-{blocks}"
        write_transformer(found[blocks], dataclasses.replace(SANA_4_8B, blocks=blocks), sparse=True)
    return found


def test_depths_that_can_t_be(sanac: Sanac, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        'model = "sanac:tiny"\n[prune]\n[matrix]\n"prune.target_blocks" = [13, 6, 20]\n[evaluate]\nsuite = "shapes"\n'
    )
    ran = sanac("run", "r.toml")
    assert (ran.code, "is 13, of 12 blocks" in ran.err, "is 20, of 12" in ran.err) == (2, True, True), ran.err
    assert not (tmp_path / "sanac-out").exists()


def test_variants_share_what_is_common(tmp_path: Path) -> None:
    text = 'model = "sanac:tiny"\n[prune]\n[quantize]\n[evaluate]\nsuite="shapes"\n[bench]\n[matrix]\n'
    varied = '"prune.target_blocks" = [8, 6]\n"quantize.scheme" = ["none", "int8-wo", "int4-wo"]'
    plan = plan_of(recipe(tmp_path, text + varied), "x")
    assert len(plan.variants) == 6
    verbs = [stage.verb for stage in plan.stages()]
    assert (verbs.count("prune"), verbs.count("quantize"), verbs.count("evaluate"), verbs.count("bench")) == (
        2,
        4,
        7,
        1,
    )
    again = plan_of(recipe(tmp_path, text + '"prune.target_blocks" = [8]\n"quantize.scheme" = ["fp8-wo"]'), "x")
    (made,) = again.variants
    assert made.stages[0].key == plan.variants[0].stages[0].key, "another scheme prunes nothing again"
    other = plan_of(recipe(tmp_path, text + '"prune.target_blocks" = [8]\n"quantize.scheme" = ["fp8-wo"]'), "y")
    assert other.variants[0].stages[0].key != made.stages[0].key, "another model does"


def test_files_count_by_what_is_in_them(tmp_path: Path) -> None:
    text = 'model = "m"\n[prune]\ntarget_blocks = 6\nprompts = "prompts.txt"'
    with pytest.raises(UsageError, match="does not exist"):
        plan_of(recipe(tmp_path, text), "x")
    keys = []
    for words_ in ("a", "b", "a"):
        (tmp_path / "prompts.txt").write_text(words_)
        keys.append(plan_of(recipe(tmp_path, text), "x").variants[0].stages[0].key)
    assert keys[0] == keys[2] != keys[1]
    (stage,) = plan_of(recipe(tmp_path, text), "x").variants[0].stages
    assert str(tmp_path / "prompts.txt") in stage.options, "seen from the recipe, not from where it is run"


def test_settings_become_words() -> None:
    said = {"trt": True, "onnx": False, "sm": ["89", "rtx5090"], "batch": "1..4"}
    assert words("export", said, Path("/r")) == ["--trt", "--sm", "89,rtx5090", "--batch", "1..4"]
    assert words("bench", {"batch": ["1", "4"], "rounds": 3}, Path("/r")) == ["--batch", "1,4", "--rounds", "3"]
    assert words("finetune", {"data": "shapes"}, Path("/r")) == ["--data", "shapes"]
    assert words("finetune", {"data": "mine"}, Path("/r")) == ["--data", "/r/mine"]


@given(st.text(max_size=200))
def test_lines_of_anything(text: str) -> None:
    assert Lines(text).of("prune", "target_blocks") >= 1


def test_scores_that_were_measured_are_those_that_choose(tmp_path: Path) -> None:
    """Prune takes analyze's scores; what searches or names blocks itself does not."""
    text = 'model = "m"\n[analyze]\nnum_prompts = 7\n[prune]\ntarget_blocks = 6\n'
    plan = plan_of(recipe(tmp_path, text + "compensate = true"), "x")
    ((made,),) = (variant.stages for variant in plan.variants)
    assert made.others == plan.source_stages
    assert made.options[:2] == ("--num-prompts", "7"), "what repairs is fitted on the same"
    varied = (
        text.replace("target_blocks = 6\n", "") + '[matrix]\nprune.target_blocks = [6]\nprune.select = ["bi", "search"]'
    )
    bi, searched = (variant.stages[0] for variant in plan_of(recipe(tmp_path, varied), "x").variants)
    assert (len(bi.others), searched.others) == (1, ())


def test_models_and_loras_count_by_what_is_in_them(tmp_path: Path) -> None:
    from sanac.core.checkpoint.locate import locate

    (tmp_path / "teacher").symlink_to(locate("sanac:tiny").path)
    text = 'model = "m"\n[prune]\nkeep = "0"\nlora = ["style.safetensors:0.5"]\n[finetune]\nteacher = "teacher"'
    keys = []
    for data in (b"a", b"b"):
        (tmp_path / "style.safetensors").write_bytes(data)
        ((prune_, tune),) = (variant.stages for variant in plan_of(recipe(tmp_path, text), "x").variants)
        keys.append(prune_.key)
    assert keys[0] != keys[1]
    assert prune_.options[-2:] == ("--lora", f"{tmp_path}/style.safetensors:0.5")
    assert tune.options == ("--teacher", f"{tmp_path}/teacher")


@pytest.mark.parametrize(
    "text",
    [
        'model = "m"\n[prune]\n[matrix]\nprune.target_blocks = [2]\n[target]\nmax_latency_ratio = nan\n[bench]',
        'model = "m"\n[prune]\n[matrix]\nprune.target_blocks = [2]\n[target]\nmax_bytes = inf',
        'model = "m"\n[prune]\n[matrix]\nprune.target_blocks = [2]\n[target]\nmax_bytes = true',
        'model = "m"\n[prune]\n[matrix]\nprune.target_blocks = [2]\n[target]\nmax_bytes="1MB"\nimages = 0.5',
        'model = "m"\n[finetune]\nclip = nan',
        'model = "m"\n[prune]\ntarget_blocks = 2\nprompts = "a\\u0000b"',
        'model = "m"\n[bench]\n[[gate]]\nmetric = "size/bytes"\nleast = 1' + "0" * 400,
        'model = "m"\n[bench]\n[[gate]]\nmetric = "size/bytes"\nleast = inf',
        'model = "m"\n[[evaluate]]\nsuite = "shapes"\n[[evaluate]]\nsuite = "shapes"\nsteps = 3',
    ],
)
def test_numbers_that_are_none(tmp_path: Path, text: str) -> None:
    assert mistakes(tmp_path, text)


def test_nesting_without_end(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not valid TOML"):
        recipe(tmp_path, "model = " + "[" * 3000)
