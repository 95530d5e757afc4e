"""A run that is killed at random instants, in the midst of writes too, ends as one that was left alone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "kill_resume.py"


@pytest.mark.slow
def test_a_killed_run_ends_as_one_left_alone():
    command = [sys.executable, "-W", "error", str(TOOL), "--kills", "3", "--epochs", "2", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    found = re.fullmatch(r"3 kills \(\d by SIGTERM, \d in .*\) in [1-3] runs, all equal to .*, in \d+ s", last)
    assert found, last
