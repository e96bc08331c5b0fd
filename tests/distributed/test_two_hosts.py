"""Two hosts as two network namespaces; one is killed; the job goes on from its last checkpoint."""
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import two_hosts


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_host_change_nothing(tmp_path):
    if reason := two_hosts.why_not():
        pytest.skip(reason)
    done = subprocess.run([sys.executable, str(HERE / "two_hosts.py"), "--keep", str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed worker b" in done.stdout and "killed host b" in done.stdout and "weights equal" in done.stdout
