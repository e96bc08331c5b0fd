"""Finish the site that Quarto rendered: nothing is loaded from elsewhere, and the search finds each formula once.

    python tools/finish_site.py FOLDER

Quarto loads jQuery and RequireJS from a CDN into every page with an HTML output, and no page uses them.
A formula of a page carries its TeX along unseen; Quarto's search index takes it for text.
"""
import html
import json
import re
import sys
from pathlib import Path

CDN = re.compile(r"""^<script (?:src="https://cdnjs\.cloudflare\.com|type=.application/javascript.>define\('jquery').*\n""", re.M)
TEX = re.compile(r"<annotation [^>]*>(.*?)</annotation>", re.S)


def without_tex(text, page):
    "An entry of the search index without the TeX of its page's formulas, each known by what stands before it."
    parts = [html.unescape(re.sub(r"<[^>]+>", "", part)) for part in TEX.split(page)]       # text and TeX in turn
    parts = [part.replace("<", "&lt;").replace(">", "&gt;") for part in parts]              # as Quarto's index writes them
    for i in reversed(range(1, len(parts), 2)):
        before = "".join(parts[max(i - 5, 0):i])[-10:]
        text = text.replace(before + parts[i], before)
    return text


def finish(folder):
    "Finish a rendered site."
    folder = Path(folder)
    for path in folder.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        path.write_text(CDN.sub("", page), encoding="utf-8")
    index = json.loads((folder / "search.json").read_text(encoding="utf-8"))
    for entry in index:
        entry["text"] = without_tex(entry["text"], (folder / entry["href"].partition("#")[0]).read_text(encoding="utf-8"))
    (folder / "search.json").write_text(json.dumps(index, ensure_ascii=False, indent=2), encoding="utf-8")


if __name__ == "__main__":
    finish(sys.argv[1])
