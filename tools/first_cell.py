"""Give each notebook the first code cell that installs the package where it is missing, as on Colab, and does nothing where it is not.

    python tools/first_cell.py            put it where it is missing
    python tools/first_cell.py --check    name the notebooks without it (exit code 1 if there is one)
"""
import hashlib
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
SOURCE = """#| hide
import importlib.util
if importlib.util.find_spec("lmnotes") is None:          # on Colab
    %pip install --quiet git+https://github.com/lmnotes/lmnotes"""


def notebooks():
    "All notebooks that are pages."
    return sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if p.name[0] not in "_." and ".ipynb_checkpoints" not in p.parts)


def first_code(notebook):
    "Place of the first code cell that runs; directives alone do not."
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and any(line.strip() and not line.startswith("#|") for line in cell.source.splitlines()):
            return i
    return None


def place(notebook):
    "Where the cell belongs: before the first code cell, of directives too."
    return next((i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"), len(notebook.cells))


def has(notebook):
    "Whether the first code cell is the one wanted."
    at = first_code(notebook)
    return at is not None and notebook.cells[at].source == SOURCE


def insert(path):
    "Put the cell into a notebook, in place of an older form of it."
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if 'find_spec("lmnotes") is None' not in cell.source or cell.cell_type != "code"]
    cell = nbformat.v4.new_code_cell(SOURCE, id=hashlib.sha256(f"first {path.relative_to(ROOT)}".encode()).hexdigest()[:8])
    notebook.cells.insert(place(notebook), cell)
    nbformat.write(notebook, path)


def main(argv):
    "Check or put; give the exit code."
    missing = [path for path in notebooks() if not has(nbformat.read(path, as_version=4))]
    for path in missing:
        if "--check" in argv:
            print(f"   {path.relative_to(ROOT)} does not begin with the cell that installs the package: run python tools/first_cell.py and commit")
        else:
            insert(path)
    return int("--check" in argv and bool(missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
