"""Training of one model of the pair: batches of like length, Muon for matrices, a stable rate that ends in a decay.

A checkpoint holds everything; a killed run goes on from the last one. To end early, start again with fewer tokens:
the decay then begins where the run stands.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn import functional

from glimprouter.evaluate.suites.tiny import FAMILIES, problems, solve
from lab.corpus import Document, Mixture, documents, turn
from lab.model import Recipe, build
from lab.tokenizer import id_of

CHECKPOINT_EVERY_S = 240.0
REPORT_EVERY_STEPS = 50
EXACT_EVERY_STEPS = 500
LENGTH_QUANTUM = 32
DECAY_FRACTION = 0.3
WARMUP_STEPS = 100


@dataclass(slots=True)
class Batch:
    ids: torch.Tensor
    """[documents, tokens], padded on the right."""
    targets: torch.Tensor
    """[documents, tokens]: the next id where it carries loss, -100 elsewhere."""


def encode(document: Document, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Ids of a document and, for each, whether it carries loss."""
    encoding = tokenizer.encode(document.text, add_special_tokens=False)
    spans = iter([*document.spans, (len(document.text), len(document.text) + 1)])
    start, end = next(spans)
    learn = []
    for first, _ in encoding.offsets:
        while first >= end:
            start, end = next(spans)
        learn.append(start <= first)
    return encoding.ids, learn


def collate(rows: list[tuple[list[int], list[bool]]], pad: int) -> Batch:
    width = -(-max(len(ids) for ids, _ in rows) // LENGTH_QUANTUM) * LENGTH_QUANTUM
    ids = torch.full((len(rows), width), pad)
    targets = torch.full((len(rows), width), -100)
    for row, (tokens, learn) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        for place in range(1, len(tokens)):
            if learn[place]:
                targets[row, place - 1] = tokens[place]
    return Batch(ids, targets)


def mixture_at(progress: float, *, drills: bool) -> Mixture:
    """Operations first, whole problems then, grades and choices last; `progress` is the share of tokens seen."""
    share = (0.6 if progress < 0.55 else 0.15) if drills else 0.0
    return Mixture(drills=share, asides=0.14 if progress > 0.65 else 0.0)


def batches(recipe: Recipe, tokenizer: Tokenizer, *, start: int, progress: Callable[[], float]) -> Iterator[Batch]:
    """Endless batches of about `batch_tokens` ids, each of documents of like length, in random order."""
    pad = id_of(tokenizer, "<|endoftext|>")
    stream = documents(recipe.seed + start, start=start, mixture=lambda: mixture_at(progress(), drills=recipe.drills))
    generator = torch.Generator().manual_seed(recipe.seed + start)
    while True:
        pool = sorted((encode(d, tokenizer) for d in itertools.islice(stream, 2048)), key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[bool]]]] = [[]]
        for row in pool:
            width = -(-len(row[0]) // LENGTH_QUANTUM) * LENGTH_QUANTUM
            group = groups[-1]
            if group and (len(group) + 1) * width > recipe.batch_tokens:
                groups.append([row])
            else:
                group.append(row)
        for place in torch.randperm(len(groups), generator=generator).tolist():
            yield collate(groups[place], pad)


def optimizers(model: Any, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate_at(seen: int, step: int, recipe: Recipe) -> float:
    """Share of the full rate: warm-up by steps, flat, then linear to zero over the last part of the tokens."""
    left = max(0.0, (recipe.tokens - seen) / (recipe.tokens * DECAY_FRACTION))
    return min(1.0, (step + 1) / WARMUP_STEPS, left)


def loss_of(model: Any, batch: Batch) -> torch.Tensor:
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    keep = batch.targets != -100
    logits = model.lm_head(hidden[keep])
    return functional.cross_entropy(logits, batch.targets[keep])


@torch.no_grad()
def exact_share(model: Any, tokenizer: Tokenizer, *, device: str, per_family: int = 60) -> dict[str, float]:
    """Per family: share of held-out thoughts and answers of which every token is the model's first choice."""
    pad = id_of(tokenizer, "<|endoftext|>")
    result = {}
    for family in FAMILIES:
        rows = []
        for problem in itertools.islice(problems(family, "calibrate", start=500_000), per_family):
            solution = solve(problem)
            document = Document()
            document.add(turn("user", problem.question) + "<|im_start|>assistant\n", learn=False)
            thought = "\n\n".join(step.text for step in solution.steps)
            document.add(f"<think>\n{thought}\n</think>\n\n{solution.answer}<|im_end|>", learn=True)
            rows.append(encode(document, tokenizer))
        batch = collate(rows, pad)
        guesses = model(input_ids=batch.ids.to(device), use_cache=False).logits.argmax(-1).cpu()
        right = ((guesses == batch.targets) | (batch.targets == -100)).all(-1)
        result[family] = round(right.float().mean().item(), 3)
    return result


class Run:
    """A model under training, with everything a checkpoint needs."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        torch.manual_seed(recipe.seed)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.recipe = recipe
        end_id = id_of(tokenizer, "<|im_end|>")
        self.model = build(recipe.shape, tokenizer.get_vocab_size(), end_id).to(self.device)
        self.steppers = optimizers(self.model, recipe)
        self.seen = self.step = 0

    def compile(self) -> None:
        """Layer by layer: one small graph serves all, where the whole model takes minutes to compile."""
        for layer in self.model.model.layers:
            layer.compile(dynamic=True)

    def learn(self, batch: Batch) -> float:
        """One step; the loss before it, in nats per token."""
        batch = Batch(batch.ids.to(self.device), batch.targets.to(self.device))
        for stepper, full in zip(self.steppers, (self.recipe.matrix_rate, self.recipe.other_rate), strict=True):
            for group in stepper.param_groups:
                group["lr"] = full * rate_at(self.seen, self.step, self.recipe)
        # In half precision a GPU is several times faster; processors without matrix units are twice slower.
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss = loss_of(self.model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for stepper in self.steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        self.seen += batch.ids.numel()
        self.step += 1
        return loss.item()

    def save(self, path: Path) -> None:
        """Whole or not at all: a run killed while writing keeps its last checkpoint."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        optimizers = [stepper.state_dict() for stepper in self.steppers]
        state = {"model": self.model.state_dict(), "optimizers": optimizers, "seen": self.seen, "step": self.step}
        torch.save(state, draft)
        draft.replace(path)

    def load(self, path: Path) -> None:
        saved = torch.load(path, weights_only=True, map_location=self.device)
        self.model.load_state_dict(saved["model"])
        for stepper, state in zip(self.steppers, saved["optimizers"], strict=True):
            stepper.load_state_dict(state)
        self.seen, self.step = saved["seen"], saved["step"]


def train(recipe: Recipe, tokenizer: Tokenizer, checkpoint: Path, *, log: Callable[[str], None]) -> None:
    """Train to `recipe.tokens`, writing `checkpoint` on the way and at the end."""
    run = Run(recipe, tokenizer)
    if checkpoint.exists():
        run.load(checkpoint)
        log(f"going on from {run.seen / 1e6:.1f} M tokens")
    if recipe.compiled:
        run.compile()
    begun = last_saved = time.monotonic()
    first_seen, losses = run.seen, list[float]()
    early = checkpoint.with_name(f"{checkpoint.stem}-early.pt")
    for batch in batches(recipe, tokenizer, start=run.seen, progress=lambda: run.seen / recipe.tokens):
        if run.seen >= recipe.tokens:
            break
        losses.append(run.learn(batch))
        if run.step % REPORT_EVERY_STEPS == 0:
            speed = (run.seen - first_seen) / (time.monotonic() - begun) * 3600 / 1e6
            log(
                f"step {run.step}  {run.seen / 1e6:.2f} M tokens  loss {sum(losses) / len(losses):.4f}  {speed:.1f} M/h"
            )
            losses = []
        if run.step % EXACT_EVERY_STEPS == 0:
            shares = exact_share(run.model, tokenizer, device=run.device)
            log(f"exact {json.dumps(shares)} mean {sum(shares.values()) / len(shares):.3f}")
        if recipe.keep_early_share and run.seen >= recipe.keep_early_share * recipe.tokens and not early.exists():
            run.save(early)
        if time.monotonic() - last_saved > CHECKPOINT_EVERY_S:
            run.save(checkpoint)
            last_saved = time.monotonic()
    run.save(checkpoint)
