"""Two hosts as two network namespaces; one is killed; the job goes on from its last checkpoint."""
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import two_hosts


@pytest.mark.slow
@pytest.mark.parametrize("what", ["worker", "host"])
def test_a_killed_host_ends_with_the_loss_of_the_undisturbed_run(what, tmp_path):
    if reason := two_hosts.why_not():
        pytest.skip(reason)
    done = subprocess.run([sys.executable, str(HERE / "two_hosts.py"), "--kill", what, "--keep", str(tmp_path)], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"killed {what} of host b" in done.stdout and "weights equal" in done.stdout
