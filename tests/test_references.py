"""The bibliography: each work in a page's list of references stands in nbs/references.bib with the same author and year."""
import json
import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIB = ROOT / "nbs" / "references.bib"
PAGES = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if p.name[0] not in "_." and ".ipynb_checkpoints" not in p.parts)
LISTS = ("\n## References", "\n## 参考文献")
NEXT = re.compile(r"; |(?<!\b[A-Z])\. (?=[A-Z]\w+ (?:et al|and |\d{4}))")     # between the works of one line; not after an initial
TITLE = re.compile(r"(?<!\*)\*([^*\n]+)\*(?!\*)")
pytestmark = pytest.mark.skipif(not BIB.is_file(), reason="nbs/ is only in a checkout")


def plain(text):
    "Text without marks, accents and capitals, for comparison."
    text = unicodedata.normalize("NFKD", re.sub(r"[\\{}]", "", text)).casefold()
    return " ".join(re.findall(r"\w+", "".join(c for c in text if not unicodedata.combining(c))))


def bibliography(text):
    "Entries of a .bib file whose values stand in braces: key → fields."
    entries = {}
    for kind, key, body in re.findall(r"^@(\w+)\{([\w-]+),(.*)\}$", text, re.M):
        assert key not in entries, f"{BIB.name} has {key} twice"
        entries[key] = {"type": kind, **dict(re.findall(r"(\w+) = \{((?:[^{}]|\{[^{}]*\})*)\}", body))}
    return entries


def family(entry):
    "Family name of the first author, or the whole name of an institution."
    first = entry["author"].split(" and ")[0]
    return plain(first if first.startswith("{") else first.split(",")[0])


def cited(path):
    "Works of a page's list: (title, the text around it up to the next work)."
    prose = ["\n" + "".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "markdown"]
    for text in prose:
        for mark in LISTS:
            for line in re.findall(r"^- (.*)", text.partition(mark)[2].split("\n## ")[0], re.M):
                found = list(TITLE.finditer(line))
                for i, m in enumerate(found):
                    start = found[i - 1].end() if i else 0
                    end = found[i + 1].start() if i + 1 < len(found) else len(line)
                    before, after = NEXT.split(line[start:m.start()])[-1], NEXT.split(line[m.end():end])[0]
                    yield m[1], f"{before}{m[0]}{after}"


def test_entries_are_whole():
    text = BIB.read_text(encoding="utf-8")
    entries = bibliography(text)
    assert len(entries) == len(re.findall(r"^@", text, re.M)) > 80
    for key, entry in entries.items():
        assert entry.get("author") and entry.get("title"), key
        assert re.fullmatch(r"(1[89]|20)\d\d", entry.get("year", "")) or entry.get("url", "").startswith("https://"), f"{key} needs a year or a url"
        assert entry["type"] in ("misc", "manual") or any(entry.get(where) for where in ("journal", "booktitle", "institution", "publisher", "url")), f"{key} appeared where?"
    titles = [plain(entry["title"]) for entry in entries.values()]
    assert len(titles) == len(set(titles)), "a work stands there twice"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT / "nbs").with_suffix("")))
def test_each_cited_work_is_in_the_bibliography(path):
    entries = bibliography(BIB.read_text(encoding="utf-8"))
    missing = []
    for title, around in cited(path):
        name, said = plain(title), plain(around)
        fits = [e for e in entries.values() if any(f"{plain(e.get(kind, ''))} ".startswith(f"{name} ") for kind in ("title", "shorttitle"))]
        fits = [e for e in fits if family(e).split()[-1] in said.split() and e.get("year", "") in said]
        if not fits:
            missing.append(f"{title} ({around.split('*')[0].strip(' ,;.')})")
    assert not missing, f"add to nbs/{BIB.name}, with the author and the year of the page: " + "; ".join(missing)


def test_the_check_finds_a_wrong_year_and_an_unknown_work(tmp_path):
    page = tmp_path / "page.ipynb"
    text = "## Summary\n\n## References\n\n- Devlin et al. 2018, *BERT*; Liu et al. 2019, *RoBERTa*.\n- Nobody 2001, *Nothing at All*."
    page.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": text}]}), encoding="utf-8")
    assert [title for title, _ in cited(page)] == ["BERT", "RoBERTa", "Nothing at All"]
    with pytest.raises(AssertionError, match="BERT .Devlin et al. 2018.; Nothing at All .Nobody 2001"):
        test_each_cited_work_is_in_the_bibliography(page)
    page.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": text.partition("\n\n")[2]}]}), encoding="utf-8")      # a cell that begins with the list
    assert len(list(cited(page))) == 3
