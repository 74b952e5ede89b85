"""Nothing of the user's is lost, nothing wrong is sealed: what a reviewer broke once stays mended."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import NULL_REPORTER
from sanac.core.write import executor as executing
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.prune.keep_list import plan_keep
from tests.cli.test_interruption import interrupted
from tests.conftest import Sanac


@pytest.fixture
def model(pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline, tmp_path / "model"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("suffix", [".partial", ".replaced"])
def test_an_input_with_a_name_that_out_needs(suffix: str, model: Path, sanac: Sanac, tmp_path: Path) -> None:
    named = model.rename(tmp_path / f"p{suffix}")
    before = contents(named)
    ran = sanac("prune", named, "--keep", "0", "--out", "p", "--force")
    assert ran.code == 2
    assert "overlap" in ran.err
    assert contents(named) == before


@pytest.mark.parametrize("suffix", [".partial", ".replaced"])
def test_folders_of_the_user_with_such_names(suffix: str, model: Path, sanac: Sanac, tmp_path: Path) -> None:
    (tmp_path / f"u{suffix}").mkdir()
    (tmp_path / f"u{suffix}" / "thesis").write_text("x")
    for more in ((), ("--force",), ("--fresh",)):
        ran = sanac("prune", model, "--keep", "0", "--out", "u", *more)
        assert ran.code == 2
        assert "didn't create what is there" in ran.err
    assert (tmp_path / f"u{suffix}" / "thesis").read_text() == "x"
    assert not (tmp_path / "u").exists()


def test_an_out_that_another_run_finished_meanwhile(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_model(locate(str(model)))
    other, same = plan_keep(opened, "0", WriteOptions()), plan_keep(opened, "1", WriteOptions())
    real = executing.open_stage

    def late(job):
        def open_stage(*arguments, **keywords):
            monkeypatch.setattr(executing, "open_stage", real)
            write_partial(job, tmp_path / "out", NULL_REPORTER)
            return real(*arguments, **keywords)

        return open_stage

    monkeypatch.setattr(executing, "open_stage", late(same))
    assert write_partial(same, tmp_path / "out", NULL_REPORTER)[0] == "cached"
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(executing, "open_stage", late(other))
    with pytest.raises(UsageError, match="another artifact"):
        write_partial(same, tmp_path / "out", NULL_REPORTER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_out_is_not_the_workspace_and_force_deletes_only_the_artifact(
    model: Path, sanac: Sanac, tmp_path: Path
) -> None:
    for out in ("ws", "."):
        ran = sanac("prune", model, "--keep", "0", "--out", out, "--workspace", "ws")
        assert ran.code == 2
        assert "holds the workspace" in ran.err
    assert sanac("prune", model, "--keep", "0", "--out", "a").code == 0
    (tmp_path / "a" / "measurements").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("mine")
    ran = sanac("prune", model, "--keep", "1", "--out", "a", "--force")
    assert ran.code == 2
    assert "notes.txt" in ran.err
    (tmp_path / "a" / "notes.txt").unlink()
    assert sanac("prune", model, "--keep", "1", "--out", "a", "--force").code == 0


def test_other_weights_beside_the_right_ones_are_not_taken_for_them(model: Path, sanac: Sanac, tmp_path: Path) -> None:
    shutil.copy(
        model / "vae" / "diffusion_pytorch_model.safetensors", model / "text_encoder" / "consolidated.safetensors"
    )
    assert sanac("prune", model, "--keep", "0", "--out", "a").code == 0
    assert sorted(p.name for p in (tmp_path / "a" / "text_encoder").iterdir()) == ["config.json", "model.safetensors"]


def test_a_licence_that_leads_out(model: Path, sanac: Sanac) -> None:
    (model / "LICENSE").symlink_to("/etc/passwd")
    ran = sanac("prune", model, "--keep", "0", "--out", "a")
    assert ran.code == 3
    assert "points outside" in ran.err
    assert not os.path.lexists("a")


def test_the_key_knows_the_pipeline_s_index_and_licence(model: Path, sanac: Sanac) -> None:
    keys = [sanac("prune", model, "--keep", "0", "--dry-run", "--json").json["key"]]
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"_class_name": "SanaSprintPipeline"}))
    keys.append(sanac("prune", model, "--keep", "0", "--dry-run", "--json").json["key"])
    (model / "LICENSE").write_text("terms")
    keys.append(sanac("prune", model, "--keep", "0", "--dry-run", "--json").json["key"])
    assert len(set(keys)) == 3


def test_files_added_to_an_artifact_are_noticed(model: Path, sanac: Sanac, tmp_path: Path) -> None:
    sanac("prune", model, "--keep", "0", "--out", "a")
    (tmp_path / "a" / "tokenizer" / "added.json").write_text("{}")
    ran = sanac("inspect", "a")
    assert ran.code == 3
    assert "tokenizer/added.json was added" in ran.err


def test_a_source_that_changes_while_it_is_read(model: Path, tmp_path: Path) -> None:
    job = plan_keep(open_model(locate(str(model))), "0", WriteOptions())
    path = model / "transformer" / "diffusion_pytorch_model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-4] + b"\0\0\0\0")
    with pytest.raises(InvalidInput, match="changed while it was read"):
        write_partial(job, tmp_path / "out", NULL_REPORTER)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_link_checks_the_digests_too(model: Path, sanac: Sanac, tmp_path: Path) -> None:
    sanac("prune", model, "--keep", "0-1", "--out", "a")
    path = tmp_path / "a" / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    assert sanac("prune", "a", "--keep", "0", "--out", "b", "--link").code == 3
    assert not (tmp_path / "b").exists()


def test_a_linked_run_is_not_continued_as_a_copying_one(model: Path, tmp_path: Path) -> None:
    arguments = ["prune", str(model), "--keep", "0-4", "--out", str(tmp_path / "a"), "--workspace", str(tmp_path / "w")]
    assert interrupted("SIGTERM", 20, [*arguments, "--link"]).returncode == 75
    done = subprocess.run([sys.executable, "-m", "sanac", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--fresh" in done.stderr


def test_a_disk_that_is_just_large_enough_for_continuing(pipeline: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=11m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        arguments = ["prune", str(pipeline), "--keep", "0-5", "--shard-size", "1MB", "--workspace", str(tmp_path / "w")]
        arguments += ["--out", str(disk / "out")]
        assert interrupted("SIGTERM", 75, arguments).returncode == 75
        done = subprocess.run([sys.executable, "-m", "sanac", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_links_and_disks_in_the_place_of_out(model: Path, sanac: Sanac, tmp_path: Path) -> None:
    sanac("prune", model, "--keep", "0", "--out", "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for out in ("link", "loop", "/proc"):
        ran = sanac("prune", model, "--keep", "1", "--out", out, "--force")
        assert ran.code == 2, out
        assert "can't be replaced" in ran.err
    assert sanac("prune", model, "--keep", "1", "--out", "/").code == 2
    assert sanac("prune", model, "--keep", "1", "--workspace", "loop").code == 2


def test_the_workspace_is_looked_at_first(model: Path, sanac: Sanac, tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "workspace.json").write_text("{}")
    assert sanac("prune", model, "--keep", "0", "--out", "a", "--workspace", "ws").code == 3
    (tmp_path / "file").write_text("x")
    assert sanac("prune", model, "--keep", "0", "--out", "a", "--workspace", "file").code == 2
    assert not (tmp_path / "a").exists()


def test_dry_run_refuses_what_the_real_run_refuses(model: Path, sanac: Sanac) -> None:
    assert sanac("prune", model, "--keep", "0", "--out", model, "--dry-run").code == 2
    sanac("prune", model, "--keep", "0", "--out", "a")
    assert sanac("prune", model, "--keep", "1", "--out", "a", "--dry-run").code == 2
    assert sanac("prune", model, "--keep", "0", "--out", "a", "--dry-run", "--json").json["status"] == "cached"


def test_an_artifact_elsewhere_does_not_become_the_source(model: Path, sanac: Sanac, tmp_path: Path) -> None:
    sanac("prune", model, "--keep", "0-4", "--out", "a")
    sanac("prune", "a", "--keep", "0-2", "--out", "b")
    assert json.loads((tmp_path / "sanac-out" / "workspace.json").read_text())["source"] == str(model)


def test_scan_says_what_it_could_not_read(model: Path, sanac: Sanac) -> None:
    (model / "text_encoder" / "model.safetensors").rename(model / "text_encoder" / "pytorch_model.bin")
    assert "text_encoder/pytorch_model.bin was not scanned" in sanac("inspect", model, "--scan").err


@pytest.mark.parametrize("arguments", ["inspect {model} --json", "inspect {model}", "inspect /no/such --json"])
@pytest.mark.parametrize("sink", ["> /dev/full", "| true", ">&-"])
def test_a_stdout_that_is_full_or_closed(arguments: str, sink: str, model: Path) -> None:
    command = f"{sys.executable} -m sanac {arguments.format(model=model)} {sink}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    expected = {2} if "such" in arguments else {0} if sink in {"| true", ">&-"} else {4}
    assert done.returncode in expected


@pytest.mark.skipif(shutil.which("script") is None, reason="needs script(1) for a terminal")
def test_no_color_is_obeyed(model: Path) -> None:
    for environment, flags in (({"NO_COLOR": "1"}, ""), ({}, "--no-color")):
        command = f"{sys.executable} -m sanac inspect {model} {flags}; {sys.executable} -m sanac inspect /no {flags}"
        done = subprocess.run(
            ["script", "-qec", command, "/dev/null"],
            env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "SANA-1.5" in done.stdout
        assert "error:" in done.stdout
        assert "\x1b[" not in done.stdout


def test_details_with_v(model: Path, sanac: Sanac) -> None:
    assert "transformer/config.json" in sanac("prune", model, "--keep", "0", "--out", "a", "-v").err
    assert "transformer/config.json" not in sanac("prune", model, "--keep", "0", "--out", "b").err


def test_a_linked_weight_file_of_the_hub_s_cache(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    repo = tmp_path / "models--a--b"
    (repo / "snapshots" / "c").mkdir(parents=True)
    (repo / "blobs").mkdir()
    shutil.copy(pipeline / "transformer" / "diffusion_pytorch_model.safetensors", repo / "blobs" / "f00d")
    (repo / "snapshots" / "c" / "x.safetensors").symlink_to("../../blobs/f00d")
    assert sanac("inspect", repo / "snapshots" / "c" / "x.safetensors", "--json").json["name"] == "a/b"


def test_words_that_are_no_paths(model: Path, sanac: Sanac) -> None:
    for word in ("~nosuchuser/x", "a\0b/c"):
        assert sanac("inspect", word).code == 2
    assert sanac("prune", model, "--keep", "0", "--shard-size", "9" * 400).code == 2
    assert sanac("prune", model, "--keep", "0", "--shard-size", "5GiB", "--dry-run").code == 0


def test_odd_names_and_numbers_in_a_model(model: Path, sanac: Sanac) -> None:
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "[/b]"]}))
    assert "[/b]" in sanac("inspect", model).out
    config = (model / "transformer" / "config.json").read_text()
    (model / "transformer" / "config.json").write_text(config.replace("1e-06", "1e999"))
    assert sanac("inspect", model).code == 3
    (model / "transformer" / "config.json").write_text(config)
    path = model / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: tensor[:0].clone() for name, tensor in tensors.items()}, path)
    assert sanac("inspect", model).code == 3
    safetensors.torch.save_file(tensors | {"patch_embed.proj.weight": torch.zeros(2, 2)}, path)
    ran = sanac("inspect", model)
    assert ran.code == 3
    assert "wrong rank" in ran.err


def test_a_lineage_that_does_not_compose(model: Path, sanac: Sanac, tmp_path: Path) -> None:
    sanac("prune", model, "--keep", "0-1", "--out", "a")
    sanac("prune", "a", "--keep", "0", "--out", "b")
    manifest = json.loads((tmp_path / "b" / "sanac.json").read_text())
    manifest["lineage"][2]["plan"]["source_blocks"] = 5
    (tmp_path / "b" / "sanac.json").write_text(json.dumps(manifest))
    ran = sanac("prune", "b", "--keep", "0", "--out", "c")
    assert ran.code == 3
    assert not os.path.lexists(tmp_path / "c.partial")
    ran = sanac("prune", model, "--keep", "0", "--out", "b", "--force")
    assert ran.code == 3
    assert f"delete {tmp_path / 'b'}" in ran.err
