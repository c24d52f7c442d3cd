"""Both models asked at every step: each drafts the next step from the same context, with all its log-probabilities.

The thought goes on as GlimpRouter would write it, so that the contexts are those it meets. Nothing here is timed and no
answer is written: it is about what the steps' signals know.
"""

from __future__ import annotations

import asyncio
import copy
import lzma
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from glimprouter.config import SIDES, Routing, Sampling, Side
from glimprouter.errors import ConfigError
from glimprouter.evaluate.records import LineFile
from glimprouter.evaluate.run import answer_seed
from glimprouter.evaluate.suites.suite import Problem
from glimprouter.flow.dispatch import ANSWER_RESERVE_TOKENS
from glimprouter.flow.engine import Engine, Token, Usage
from glimprouter.flow.glimpse import Glimpse, glimpse_of
from glimprouter.flow.prompt import Prompt, Prompter
from glimprouter.flow.request import ask
from glimprouter.flow.splitters import make_splitter
from glimprouter.flow.steps import Mark, Splitter
from glimprouter.flow.writer import derived_seed


class StepDraft(msgspec.Struct, kw_only=True):
    """A step as one model would write it. `first` is its glimpse; `entropies_nats` and `surprises_nats` (minus the
    log-probability of what was drawn) are of each token; `ended`: nothing follows it in the thought."""

    text: str
    ids: list[int]
    first: Glimpse
    entropies_nats: list[float]
    surprises_nats: list[float]
    ended: bool


class CollectedStep(msgspec.Struct, kw_only=True):
    """What both models would write at one place, and whose draft was taken."""

    small: StepDraft
    large: StepDraft
    author: Side


class Collected(msgspec.Struct, kw_only=True):
    """A line of collected.jsonl: one thought, every step of it written twice."""

    question: str
    family: str
    sample: int
    text: str
    steps: list[CollectedStep]


CollectedKey = tuple[str, int]
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Collected)


def read_collected(path: Path) -> Iterator[Collected]:
    """Also from a compressed file (.xz). An incomplete last line is passed over.

    Raises ConfigError for a file that holds something else.
    """
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield _decoder.decode(line)
                except msgspec.DecodeError as error:
                    raise ConfigError(f"{path}:{number}: no collected thought ({error})", field="file") from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})", field="file") from error


class CollectedFile(LineFile):
    """collected.jsonl while it is added to; `keys` are the thoughts that are there."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.keys: set[CollectedKey] = {(one.question, one.sample) for one in read_collected(path)}

    def append(self, collected: Collected) -> None:
        self.append_line(_encoder.encode(collected))
        self.keys.add((collected.question, collected.sample))


class Collector:
    """Writes thoughts in which every step was drafted by both models."""

    def __init__(self, small: Engine, large: Engine, *, routing: Routing, sampling: Sampling) -> None:
        """`routing.threshold` says whose draft is taken."""
        if routing.threshold is None:
            raise ValueError("collecting needs a threshold")
        self._engines: dict[Side, Engine] = {"small": small, "large": large}
        self._prompter = Prompter(small, large)
        self._routing = routing
        self._threshold_nats = routing.threshold
        self._sampling = sampling

    async def run(self, problems: Sequence[Problem], samples: int, kept: CollectedFile) -> AsyncIterator[Collected]:
        """What the file does not hold yet; each thought after its line is written. Raises EngineError."""
        for sample in range(samples):
            for problem in problems:
                if (problem.id, sample) not in kept.keys:
                    collected = await self.collect(problem, sample)
                    kept.append(collected)
                    yield collected

    async def collect(self, problem: Problem, sample: int) -> Collected:
        """One thought, to its end or until its tokens are used up."""
        seed = answer_seed(self._sampling.seed, problem.id, sample)
        prompts = await self._prompter.open(ask(problem.question, routing=self._routing, sampling=self._sampling))
        contexts = {side: list(prompts[side].ids) for side in SIDES}
        splitter = make_splitter(self._routing, close_tag=prompts["small"].format.close_tag)
        room = min(self._routing.max_thinking_tokens, *(prompts[side].room_tokens for side in SIDES))
        steps: list[CollectedStep] = []
        tokens = 0
        while tokens < room - ANSWER_RESERVE_TOKENS and not (steps and _taken(steps[-1]).ended):
            splitters = {side: copy.deepcopy(splitter) for side in SIDES}
            small, large = await asyncio.gather(
                *(
                    self._draft(side, contexts[side], prompts[side], splitters[side], seed=seed, step=len(steps))
                    for side in SIDES
                )
            )
            author: Side = "large" if small.first.entropy_nats > self._threshold_nats else "small"
            steps.append(CollectedStep(small=small, large=large, author=author))
            splitter = splitters[author]
            tokens += len(_taken(steps[-1]).ids)
            await self._hand_on(_taken(steps[-1]), author, contexts, prompts)
        text = "".join(_taken(step).text for step in steps)
        return Collected(question=problem.id, family=problem.family, sample=sample, text=text, steps=steps)

    async def _draft(
        self, side: Side, context: list[int], prompt: Prompt, splitter: Splitter, *, seed: int, step: int
    ) -> StepDraft:
        sampling = replace(self._sampling, seed=derived_seed(seed, step, side))
        most = min(self._routing.max_step_tokens, prompt.facts.context_tokens - len(context))
        drawn: list[Token] = []
        mark, ended = Mark.OPEN, False
        async with self._engines[side].generate(
            context, sampling, max_tokens=most, top=self._routing.glimpse_top, usage=Usage()
        ) as stream:
            async for token in stream:
                if token.id >= 0:
                    drawn.append(token)
                    mark = splitter.token(token.text)
                ended = mark is Mark.CLOSED or token.finish is not None
                if ended or mark is not Mark.OPEN:
                    break
        return _draft_of(drawn, prompt, ended=ended)

    async def _hand_on(
        self, taken: StepDraft, author: Side, contexts: dict[Side, list[int]], prompts: dict[Side, Prompt]
    ) -> None:
        """Both contexts go on with the draft taken, each in its own ids."""
        for side in SIDES:
            alike = prompts[side].facts.vocabulary == prompts[author].facts.vocabulary
            contexts[side] += taken.ids if alike else await self._engines[side].encode(taken.text)


def _taken(step: CollectedStep) -> StepDraft:
    return step.small if step.author == "small" else step.large


def _draft_of(drawn: Sequence[Token], prompt: Prompt, *, ended: bool) -> StepDraft:
    glimpses = [glimpse_of(token, prompt.facts.vocabulary_size) for token in drawn if token.top]
    visible = next((one for one in glimpses if one.token_text and not one.token_text.isspace()), None)
    return StepDraft(
        text="".join(token.text for token in drawn),
        ids=[token.id for token in drawn],
        first=visible or Glimpse(0.0, 0.0, 0.0, 1.0, -1, "", ()),
        entropies_nats=[one.entropy_nats for one in glimpses],
        surprises_nats=[-token.logprob for token in drawn if token.logprob is not None],
        ended=ended,
    )
