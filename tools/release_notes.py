"""Print what CHANGELOG.md says of one version: the text of a release.

    python tools/release_notes.py            the version of settings.ini
    python tools/release_notes.py 0.1.0      this one (v0.1.0 is taken too)
"""
import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADING = re.compile(r"^## +v?(\d[\w.+-]*)", re.M)


def notes(changes, version):
    "The text below a version's heading, up to the next one; `KeyError` with the known versions if there is none."
    found = {m[1]: m.end() for m in HEADING.finditer(changes)}
    version = version.removeprefix("v")
    if version not in found:
        raise KeyError(f"CHANGELOG.md has no version {version!r}: it has {', '.join(found) or 'none'}")
    body = changes[found[version]:].split("\n", 1)[1] if "\n" in changes[found[version]:] else ""
    return HEADING.split(body)[0].strip()


def main(argv):
    "Print the notes; give the exit code."
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    version = argv[0] if argv else settings["DEFAULT"]["version"]
    try:
        text = notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 1
    if not text:
        print(f"CHANGELOG.md says nothing of version {version}: write below its heading what changed", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
