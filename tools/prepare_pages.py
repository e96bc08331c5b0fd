"""Prepare the pages for Quarto, as nbdev_proc_nbs does, and touch nothing else.

    python tools/prepare_pages.py [--n_workers 2]

Where Quarto is absent, nbdev would download it with sudo, and install the package of this folder with pip; pages are prepared without either.
"""
from nbdev import quarto

quarto._ensure_quarto = lambda: None

if __name__ == "__main__":
    quarto.nbdev_proc_nbs()
