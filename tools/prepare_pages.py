"""Prepare the pages for Quarto, as nbdev_proc_nbs does, and touch nothing else.

    python tools/prepare_pages.py [--n_workers 2]

Where Quarto is absent, nbdev would download it with sudo, and install the package of this folder with pip; pages are prepared without either.
nbdev links private names, too, to places that do not exist, or to a namesake on another page: these links are taken out.
It unfolds the source of every exported name, below the same docstring as a table: the source waits folded.
"""
import json
import re
from pathlib import Path

from nbdev import quarto

quarto._ensure_quarto = lambda: None
PRIVATE = re.compile(r"\[(`_\w+`)\]\([^)\s]*#(?:\w+\.)?_\w+\)")
UNFOLDED = '#| code-fold: show\n#| code-summary: "Exported source"\n'
FULL = {"References": "Full entries: [References](bibliography.qmd).", "参考文献": "完整书目：[References](../bibliography.qmd)。"}
ROOM = {"wrap-narrow": 43, "wrap-wide": 95}                    # characters of what is printed, on a telephone and on a desk
COLUMNS = re.compile(r"[^\s.] {2,}\S.*[^\s.] {2,}\S")


def wrapped(outputs):
    "Where the lines that a cell printed wrap: those that have no room are no table."
    data = [output.get("data", {}) for output in outputs]
    texts = ["".join(output.get("text", "")) for output in outputs] + ["".join(d["text/plain"]) for d in data if set(d) == {"text/plain"}]
    long = {name: [line for text in texts for line in text.splitlines() if len(line) > room] for name, room in ROOM.items()}
    return [name for name, lines in long.items() if lines and not any(map(COLUMNS.search, lines))]


def folded(source):
    "Exported source, which waits below its names."
    if not source.startswith(UNFOLDED):
        return source
    names = re.findall(r"^(?:def|class) (\w+)", source, re.M)
    return f'#| code-fold: true\n#| code-summary: "Source{" of " * bool(names)}{", ".join(f"`{name}`" for name in names)}"\n{source.removeprefix(UNFOLDED)}'


def finished(cell):
    "Source of a prepared cell, as the site shows it."
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        heading = re.search(rf"^## ({'|'.join(FULL)})$", source, re.M)
        return PRIVATE.sub(r"\1", source) + (f"\n\n{FULL[heading[1]]}" if heading else "")
    if cell["cell_type"] == "code":
        classes = wrapped(cell.get("outputs", []))
        return (f"#| classes: [{', '.join(classes)}]\n" if classes else "") + folded(source)
    return source


def finish(folder):
    "Finish the prepared notebooks of a folder."
    for path in Path(folder).rglob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            cell["source"] = finished(cell).splitlines(keepends=True)         # Quarto wants lines
        path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    quarto.nbdev_proc_nbs()
    finish(Path(__file__).resolve().parent.parent / "_proc")
