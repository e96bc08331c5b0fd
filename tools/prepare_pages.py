"""Prepare the pages for Quarto, as nbdev_proc_nbs does, and touch nothing else.

    python tools/prepare_pages.py [--n_workers 2]

Where Quarto is absent, nbdev would download it with sudo, and install the package of this folder with pip; pages are prepared without either.
nbdev links private names, too, to places that do not exist, or to a namesake on another page: these links are taken out.
"""
import json
import re
from pathlib import Path

from nbdev import quarto

quarto._ensure_quarto = lambda: None
PRIVATE = re.compile(r"\[(`_\w+`)\]\([^)\s]*#(?:\w+\.)?_\w+\)")


def without_private_links(folder):
    "Take links to private names out of the prepared notebooks of a folder."
    for path in Path(folder).rglob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = PRIVATE.sub(r"\1", "".join(cell["source"])).splitlines(keepends=True)         # Quarto wants lines
        path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    quarto.nbdev_proc_nbs()
    without_private_links(Path(__file__).resolve().parent.parent / "_proc")
