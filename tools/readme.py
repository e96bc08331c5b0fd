"""Write README.md from nbs/index.ipynb: prose as it stands, code as fenced blocks, printed outputs below.

    python tools/readme.py            write it
    python tools/readme.py --check    say whether it is up to date (exit code 1 if not)
"""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = ("hide", "export", "exports", "default_exp")


def text_of(outputs):
    "Printed text of a cell's outputs; figures and HTML are left to the site."
    parts = []
    for output in outputs:
        if output["output_type"] == "stream" and output.get("name") == "stdout":
            parts.append("".join(output["text"]))
        elif "text/plain" in output.get("data", {}) and "image/png" not in output["data"]:
            parts.append("".join(output["data"]["text/plain"]))
    return "\n".join(p.rstrip() for p in parts)


def block_of(cell):
    "Markdown for one cell; empty for hidden ones."
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        source = re.sub(r"\]\((?!https?:|#)([\w./-]+)\)", r"](nbs/\1)", source)        # links and pictures are from nbs/ there, from the top level here
        return source.replace("\n> ", "\n\n> ", 1) if source.startswith("# ") else source
    lines = source.splitlines()
    directives = [line[2:].strip() for line in lines if line.startswith("#|")]
    code = "\n".join(line for line in lines if not line.startswith("#|")).strip()
    if cell["cell_type"] != "code" or not code or any(d.split()[0].rstrip(":") in HIDDEN for d in directives if d):
        return ""
    shown = text_of(cell["outputs"])
    return f"```python\n{code}\n```" + (f"\n\n```text\n{shown}\n```" if shown else "")


def readme(notebook):
    "The text of README for a notebook, given as a dictionary."
    blocks = [block_of(cell) for cell in notebook["cells"]]
    return "<!-- made from nbs/index.ipynb by tools/readme.py -->\n\n" + "\n\n".join(b.strip() for b in blocks if b.strip()) + "\n"


def main(argv):
    "Write or check README; give the exit code."
    source, target = ROOT / "nbs" / "index.ipynb", ROOT / "README.md"
    if not source.is_file():
        print(f"   {source.relative_to(ROOT)} is absent: README.md is made from it")
        return 1
    made = readme(json.loads(source.read_text(encoding="utf-8")))
    if "--check" in argv:
        same = target.is_file() and target.read_text(encoding="utf-8") == made
        if not same:
            print("   README.md differs from nbs/index.ipynb: run python tools/readme.py and commit")
        return int(not same)
    target.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
