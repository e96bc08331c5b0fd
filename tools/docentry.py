"""How the site shows an exported function: signature, summary, and the sections of its numpydoc docstring.

nbdev's own form keeps the descriptions only, as comments of the signature: no types and shapes, no Raises, and links inside
code. `renderer` in settings.ini names this class; `make docs` puts the repository on the path.
"""
import inspect
import re

from fastcore.docscrape import NumpyDocString
from nbdev.showdoc import BasicMarkdownRenderer

WIDTH = 88
ENTRIES = ("Parameters", "Attributes", "Returns", "Yields", "Raises")
TEXTS = ("Notes", "Warnings", "References", "Examples")


def signature_of(symbol, name):
    "Call as it is written, without annotations: types stand in the sections; on lines of its own parameters where it is long."
    try:
        signature = inspect.signature(symbol)
    except (TypeError, ValueError):
        return name
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values() if p.name != "self"]
    marked = str(inspect.Signature(bare))
    short = name + marked
    if len(short) <= WIDTH:
        return short
    parts = [str(p) for p in bare]
    kinds = [p.kind for p in bare]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        parts.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    return name + "(\n" + "".join(f"    {p},\n" for p in parts) + ")"


def plain(text):
    "Text in which Markdown finds nothing to mark."
    return re.sub(r"([\\*_<>\[\]|`$])", r"\\\1", text)


def entry(name, kind, lines):
    "One item of a definition list."
    head = " : ".join(x for x in (f"**{plain(name)}**" if name else "", f"*{plain(kind)}*" if kind else "") if x)
    body = "\n    ".join(line for line in lines) or " "
    return f"{head}\n:   {body}\n"


def text_of(parsed, title):
    "Text of a section, which the parser gives as a string or as lines."
    return parsed[title] if isinstance(parsed[title], str) else "\n".join(parsed[title])


class Sections(NumpyDocString):
    "The parser, which would turn all lists but those of Parameters and Returns into nothing: they are kept before."

    def _parse(self):
        super()._parse()
        self.items = {title: self[title] for title in ENTRIES}


def sections(docstring):
    "Markdown of a numpydoc docstring."
    parsed = Sections(inspect.cleandoc(docstring))
    parts = [text_of(parsed, "Summary"), text_of(parsed, "Extended")]
    for title, items in parsed.items.items():
        if items:
            parts += [f"**{title}**", "\n".join(entry(p.name, p.type, p.desc) for p in items)]
    for title in TEXTS:
        if title in parsed and parsed[title]:
            parts += [f"**{title}**", text_of(parsed, title)]
    return "\n\n".join(p for p in parts if p)


class NumpydocRenderer(BasicMarkdownRenderer):
    "An exported name on the site."
    def _repr_markdown_(self):
        head = super()._repr_markdown_().split("```python")[0]
        text = sections(inspect.getdoc(self.sym) or "")
        return f"{head}```python\n{signature_of(self.sym, self.nm)}\n```\n\n::: {{.docentry}}\n{text}\n:::\n"
