"""Check that notebooks are clean, modules are their export, and README is its notebook; change nothing.

    python tools/check.py

Each step works on a copy of the checkout, so it also serves with changes that are not committed.
"""
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("nbs", "lmnotes", "tools", "settings.ini", "pyproject.toml", "setup.py", "README.md", "_quarto.yml")


def differing(before, after, pattern):
    "Files under one folder that are absent or other under the other one."
    files = {p.relative_to(root) for root in (before, after) for p in root.rglob(pattern) if ".ipynb_checkpoints" not in p.parts}
    return sorted(str(f) for f in files if not ((before / f).is_file() and (after / f).is_file() and filecmp.cmp(before / f, after / f, shallow=False)))


def main():
    "Run the three steps; give the exit code."
    failed = False
    with tempfile.TemporaryDirectory() as home:
        copy = Path(home) / ROOT.name
        copy.mkdir()
        for name in NAMES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "runs"))
            elif source.exists():
                shutil.copy2(source, copy / name)
        steps = [("notebooks are clean (nbdev_clean)", "nbdev_clean", "nbs", "*.ipynb"), ("modules are their notebooks' export (nbdev_export)", "nbdev_export", "lmnotes", "*.py")]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        for title, command, folder, pattern in steps:
            print(f"== {title}", flush=True)
            done = subprocess.run([command], cwd=copy, env=environment, capture_output=True, text=True)
            changed = [str(done.stderr)[-2000:]] if done.returncode else differing(ROOT / folder, copy / folder, pattern)
            if changed:
                print(f"   {command} would change: {', '.join(changed)}; run it and commit")
                failed = True
    print("== README is its notebook (tools/readme.py)", flush=True)
    failed |= bool(subprocess.run([sys.executable, ROOT / "tools" / "readme.py", "--check"]).returncode)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
