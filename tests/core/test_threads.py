"""Threads wait asleep and number no more than the container's CPUs, unless the user said otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sanac.core import threads

OURS = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
LEFT = {name: value for name, value in os.environ.items() if name not in OURS}
REPOSITORY = Path(__file__).parent.parent.parent
WATCHED = """
import os, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.write(1, (os.environ.get("OMP_WAIT_POLICY", "") + "\\n").encode())
            os._exit(0)
sys.meta_path.insert(0, Watch())
"""


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process that hasn't imported torch, on eight cores, without limits; its cgroup."""
    for name in OURS:
        monkeypatch.setenv(name, "")  # so that it is restored, whatever is set meanwhile
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "number"),
    [
        ("max 100000", None),
        ("200000 100000", "2"),
        ("150000 100000", "2"),
        ("10000 100000", "1"),
        ("1600000 100000", None),
    ],
)
def test_quota(untouched: Path, quota: str, number: str | None) -> None:
    (untouched / "cpu.max").write_text(quota + "\n")
    threads.configure_threads()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ.get("OMP_NUM_THREADS") == number


def test_quota_of_the_older_cgroups(untouched: Path) -> None:
    (untouched / "cpu").mkdir()
    (untouched / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (untouched / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert threads.cpu_quota() is None
    (untouched / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    assert threads.cpu_quota() == 3


@pytest.mark.parametrize("text", ["", "nonsense", "1 0", "1 2 3", "max max"])
def test_an_unreadable_quota_is_none(untouched: Path, text: str) -> None:
    (untouched / "cpu.max").write_text(text)
    assert threads.cpu_quota() is None


def test_what_the_user_said_stays(untouched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (untouched / "cpu.max").write_text("200000 100000\n")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    threads.configure_threads()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["OMP_NUM_THREADS"]) == ("ACTIVE", "7")


def test_another_word_for_waiting_stays_alone(untouched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    threads.configure_threads()
    assert "OMP_WAIT_POLICY" not in os.environ


def test_after_torch_it_is_too_late(untouched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", object())
    threads.configure_threads()
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.parametrize(
    "code",
    [
        "sys.argv = ['sanac', 'analyze', 'sanac:tiny']; runpy.run_module('sanac', run_name='__main__')",
        (
            "sys.argv = ['child', str(os.getppid()), 'analyze', 'sanac:tiny']\n"
            "runpy.run_module('sanac.run.child', run_name='__main__')"
        ),
        (
            "sys.argv = ['server', str(os.getppid()), '0']\n"
            "runpy.run_module('sanac.run.stage_server', run_name='__main__')"
        ),
        "import sanac; sanac.load_pipeline('sanac:tiny')",
        "runpy.run_path('examples/serve.py')",
    ],
    ids=["command line", "a recipe's child", "a recipe's server", "API", "server"],
)
@pytest.mark.parametrize("said", [{}, {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}], ids=["", "said"])
def test_set_before_torch_is_there(code: str, said: dict[str, str]) -> None:
    command = [sys.executable, "-c", WATCHED + code]
    done = subprocess.run(command, capture_output=True, text=True, env=LEFT | said, check=False, cwd=REPOSITORY)
    assert done.stdout == f"{said.get('OMP_WAIT_POLICY', 'PASSIVE')}\n", done.stderr


def test_a_benchmarks_worker_has_its_own_number() -> None:
    assert threads.omp_settings({"OMP_NUM_THREADS": "3"}) == {"OMP_WAIT_POLICY": "PASSIVE"}
