"""The command `lmnotes`, each process noting which blocks it read and what it wrote: torchrun … logged.py FOLDER pretrain …"""
import json
import os
import sys
from pathlib import Path

from lmnotes import pretraining
from lmnotes.cli import main

folder, rank = Path(sys.argv[1]), os.environ.get("RANK", "0")
read = open(folder / f"read-{rank}", "a", encoding="utf-8", buffering=1)
wrote = open(folder / f"wrote-{rank}", "a", encoding="utf-8", buffering=1)


class Logged(pretraining.Batches):
    "Batches that note each position taken."

    def __getitem__(self, position):
        row = super().__getitem__(position)
        read.write(json.dumps([self.seed, int(position)]) + "\n")
        return row


def note(event, args):
    "Note what is opened for writing, made or moved inside the folder of the run."
    written = (event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")) or event in ("os.mkdir", "os.rename", "os.rmdir", "os.remove")
    if written and isinstance(args[0], (str, os.PathLike)) and Path(args[0]).is_relative_to(folder):
        wrote.write(f"{event} {args[0]}\n")


pretraining.Batches = Logged
sys.addaudithook(note)
if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
