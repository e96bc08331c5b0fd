"""How the site shows an exported function: signature, summary, and the sections of its numpydoc docstring.

nbdev's own form keeps the descriptions only, as comments of the signature: no types and shapes, no Raises, and links inside
code. `renderer` in settings.ini names this class; `make docs` puts the repository on the path.
"""
import inspect
import re

from fastcore.docscrape import NumpyDocString
from nbdev.showdoc import BasicMarkdownRenderer

WIDTH = 88
ENTRIES = ("Parameters", "Returns", "Yields", "Raises")
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


def sections(docstring):
    "Markdown of a numpydoc docstring."
    docstring = inspect.cleandoc(docstring)
    attributes = "\nAttributes\n----------\n" in docstring and "\nParameters\n-" not in docstring      # the parser would drop what they mean
    parsed = NumpyDocString(docstring.replace("\nAttributes\n", "\nParameters\n") if attributes else docstring)
    parts = [text_of(parsed, "Summary"), text_of(parsed, "Extended")]
    for title in ENTRIES:
        if title in parsed and parsed[title]:
            items = parsed[title].values() if isinstance(parsed[title], dict) else parsed[title]
            items = [items] if hasattr(items, "desc") else list(items)
            shown = "Attributes" if attributes and title == "Parameters" else title
            parts += [f"**{shown}**", "\n".join(entry(p.name, p.type, p.desc) for p in items)]
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
