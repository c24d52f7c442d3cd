"""Makes the tiny pair from nothing: `make lab`, or `python -m lab STAGE` for one of tokenizer, small, large, export.

Checkpoints lie in lab/checkpoints; a killed run goes on from the last ones. The two models train side by side, one
core each; a GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from lab.model import RECIPES, Recipe

CHECKPOINTS = Path(__file__).parent / "checkpoints"
SHIPPED = Path(__file__).parent.parent / "src" / "glimprouter" / "models"
TOKENIZER_SEED = 20250101
TOKENIZER_DOCUMENTS = 20_000
STAGES = ("tokenizer", "small", "large", "export")


def make_tokenizer() -> Path:
    from lab import corpus, tokenizer

    path = CHECKPOINTS / "tokenizer.json"
    if not path.exists():
        documents = itertools.islice(corpus.documents(TOKENIZER_SEED), TOKENIZER_DOCUMENTS)
        made = tokenizer.train_tokenizer(document.text for document in documents)
        CHECKPOINTS.mkdir(exist_ok=True)
        made.save(str(path))
    return path


def train_one(name: str, tokens: int | None = None) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from lab import tokenizer, train

    torch.set_num_threads(1)
    recipe: Recipe = RECIPES[name]
    if tokens is not None:
        recipe = replace(recipe, tokens=tokens)

    def log(line: str) -> None:
        print(f"{name}: {line}", flush=True)

    train.train(recipe, tokenizer.load(make_tokenizer()), CHECKPOINTS / f"{name}.pt", log=log)


def export() -> None:
    from lab import export as exporting
    from lab import tokenizer

    exporting.export_pair(CHECKPOINTS, SHIPPED, tokenizer.load(make_tokenizer()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", help=f"some of {', '.join(STAGES)}; all without any")
    parser.add_argument("--tokens", type=float, help="millions of tokens to train on, instead of the recipe's")
    options = parser.parse_args()
    stages = options.stages or list(STAGES)
    if unknown := set(stages) - set(STAGES):
        parser.error(f"unknown stage {unknown.pop()!r}; accepted: {', '.join(STAGES)}")
    make_tokenizer()
    tokens = None if options.tokens is None else int(options.tokens * 1e6)
    context = multiprocessing.get_context("spawn")
    runs = [context.Process(target=partial(train_one, name, tokens)) for name in RECIPES if name in stages]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
        if run.exitcode:
            raise SystemExit(f"training failed with exit code {run.exitcode}; start again to go on from its checkpoint")
    if "export" in stages:
        export()
