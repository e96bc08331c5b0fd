"""Run notebooks top to bottom, each in a real Jupyter kernel and an empty folder.

    python tools/run_notebooks.py                      every notebook, outputs stored in place
    python tools/run_notebooks.py nbs/05_*.ipynb       these only
    python tools/run_notebooks.py --check --jobs 2     run them, store nothing
    python tools/run_notebooks.py --check --wheel      the same with the package from its wheel (what `make test` does)

The package is the installed one, or with --wheel that of a wheel that is built and installed into a fresh
environment, which sees the libraries of this one and not its lmnotes. The working directory is an empty temporary
folder, and no hub is reachable: a notebook that passes here runs from the wheel alone. What goes to stderr (progress bars,
warnings of libraries) is not stored.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
SKIP = ("cuda", "slow", "notest")


def directives(cell):
    "The nbdev directives at the head of a code cell, such as `export` or `eval: false`."
    lines = [line.strip() for line in cell.source.splitlines()]
    return {line[2:].strip() for line in lines if line.startswith("#|")}


def is_skipped(cell, flags):
    "Whether the cell is left out: `#| eval: false`, or a flag such as `#| cuda` that was not asked for."
    found = directives(cell)
    return "eval: false" in found or any(flag in found for flag in SKIP if flag not in flags)


def tidy(cell):
    "Keep what a reader should see: no stderr, no widget state, no counts."
    widget = "application/vnd.jupyter.widget-view+json"
    outputs = []
    for output in cell.outputs:
        if output.get("name") == "stderr" or widget in output.get("data", {}) or (output.output_type == "display_data" and not output.data):
            continue
        if output.output_type == "stream" and outputs and outputs[-1].get("name") == output.name:      # the kernel sends a long text in pieces
            outputs[-1].text += output.text
            continue
        output.update(execution_count=None) if output.output_type == "execute_result" else output.pop("execution_count", None)
        outputs.append(output)
    cell.outputs = outputs
    cell.execution_count, cell.metadata = None, type(cell.metadata)()


def wheel_kernel(home):
    "Build the wheel, make an environment with it in a folder, and describe its kernel to Jupyter; give the environment's python."
    home, source = Path(home), Path(home) / "source"
    source.mkdir(parents=True)
    for name in ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "lmnotes", source / "lmnotes", ignore=shutil.ignore_patterns("__pycache__"))
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "env": {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}}
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", home, source], **quiet)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], **quiet)
    python = home / "venv" / "bin" / "python"
    own = Path(subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True, **{**quiet, "stdout": subprocess.PIPE}).stdout.strip())
    wheel, = home.glob("*.whl")
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel], **quiet)
    (own / "libraries.pth").write_text("\n".join(dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))) + "\n", encoding="utf-8")
    kernel = home / "jupyter" / "kernels" / "wheel"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "wheel", "language": "python"}), encoding="utf-8")
    os.environ["JUPYTER_PATH"] = os.pathsep.join([str(home / "jupyter"), *filter(None, [os.environ.get("JUPYTER_PATH")])])
    os.environ.pop("PYTHONPATH", None)
    os.environ["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return python


def run(path, store, flags=(), timeout=900, kernel="python3"):
    "Run one notebook; give its seconds, or raise `CellExecutionError` (or `DeadKernelError`)."
    notebook, start = nbformat.read(path, as_version=4), time.time()
    held = {}
    for i, cell in enumerate(notebook.cells):          # cells that are left out keep their stored output
        if cell.cell_type == "code" and is_skipped(cell, flags):
            held[i], cell.cell_type = cell.outputs, "raw"
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=timeout, kernel_name=kernel, resources={"metadata": {"path": folder}})
        client.execute()
    for i, outputs in held.items():
        notebook.cells[i].cell_type, notebook.cells[i].outputs = "code", outputs
    if store:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                tidy(cell)
        notebook.metadata = nbformat.from_dict({"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}})
        nbformat.write(notebook, path)
    return time.time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="store nothing")
    parser.add_argument("--wheel", action="store_true", help="with the package from its wheel, in a fresh environment")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time")
    parser.add_argument("--flags", nargs="*", default=[], help="also run the cells under these flags, such as cuda")
    args = parser.parse_args()
    paths = args.notebooks or sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if p.name[0] not in "_." and ".ipynb_checkpoints" not in p.parts)
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", IN_TEST="1", MPLBACKEND="module://matplotlib_inline.backend_inline")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.jobs)))

    home = tempfile.TemporaryDirectory() if args.wheel else None
    if home:
        wheel_kernel(home.name)

    def attempt(path):
        try:
            seconds = run(path, not args.check, args.flags, kernel="wheel" if home else "python3")
            print(f"ok      {path.name:28} {seconds:6.1f} s", flush=True)
            return True
        except (CellExecutionError, DeadKernelError) as error:
            print(f"FAILED  {path.name}\n{error}", flush=True)
            return False

    with ThreadPoolExecutor(args.jobs) as pool:
        passed = list(pool.map(attempt, paths))
    print(f"{sum(passed)} of {len(passed)} notebooks ran top to bottom")
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
