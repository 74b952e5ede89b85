"""What other libraries say while they are imported never reaches the screen."""

import subprocess
import sys


def test_the_training_of_the_small_model_is_imported_in_silence() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import sanac.tiny.train"], capture_output=True, text=True, check=True, timeout=300
    )
    assert (ran.stdout, ran.stderr) == ("", "")
