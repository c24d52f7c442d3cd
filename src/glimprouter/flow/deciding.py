"""One decision: runs a policy's plan for the next step, carries out its moves, and notes what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

from glimprouter.config import Side
from glimprouter.errors import ConfigError
from glimprouter.flow.drafted import Drafted
from glimprouter.flow.drafts import Drafts
from glimprouter.flow.drawing import Drawing, Room
from glimprouter.flow.engine import Usage
from glimprouter.flow.glimpse import Glimpse
from glimprouter.flow.judging import Choice, Grade, Judge
from glimprouter.flow.moves import Choose, Draft, Move, Probe, Reward, Score, StepPolicy, Verdict
from glimprouter.flow.request import Request
from glimprouter.flow.reward import RewardEngine
from glimprouter.flow.steps import Splitter
from glimprouter.flow.timing import Timing
from glimprouter.flow.trace import Judgement, ModelUsage, Step, Trace
from glimprouter.flow.until import Limit, Until
from glimprouter.flow.writer import Writer, WriterPair


@dataclass(frozen=True, slots=True)
class Judges:
    """Who may be asked of drafts: both models of the pair, and a reward model where there is one."""

    models: Mapping[Side, Judge]
    reward: RewardEngine | None = None


class Decision:
    """What is seen on the way to the verdict on one step."""

    def __init__(
        self,
        request: Request,
        pair: WriterPair,
        trace: Trace,
        judges: Judges,
        timing: Timing,
        *,
        splitter: Splitter,
        room: Room,
        warmed: frozenset[Side],
    ) -> None:
        """`warmed` are the models that may read ahead while they are idle."""
        self.drafts = Drafts(pair)
        self.judgements: list[Judgement] = []
        self.opened = False
        """Whether a stream had to be opened for a glimpse or a draft."""
        self._glimpses: dict[Side, Glimpse] = {}
        self._request = request
        self._pair = pair
        self._trace = trace
        self._judges = judges
        self._timing = timing
        self._splitter = splitter
        self._room = room
        self._warmed = warmed

    @property
    def glimpse(self) -> Glimpse | None:
        """The small model's, from a probe or a draft."""
        return self._glimpses.get("small") or self.drafts.glimpse

    async def run(self, policy: StepPolicy) -> Verdict:
        plan = policy.plan(self._trace)
        try:
            move = next(plan)
            while True:
                move = plan.send(await self._carry_out(move))
        except StopIteration as verdict:
            return verdict.value  # type: ignore[no-any-return]
        except BaseException:
            self.drafts.fail()
            raise
        finally:
            plan.close()

    async def _carry_out(self, move: Move) -> Glimpse | Drafted | Grade | Choice | float:
        match move:
            case Probe():
                return await self._probe(move.who, move.tokens)
            case Draft():
                return await self._draft(move)
            case Score():
                return await self._score(move)
            case Choose():
                return await self._choose(move)
            case Reward():
                return await self._reward(move)

    async def _probe(self, who: Side, tokens: int) -> Glimpse:
        writer = self._pair[who]
        if not self._request.routing.overlap:
            await self._pair.other(who).stop()
        self.opened |= not writer.is_open
        glimpse = await writer.look(len(self._trace.steps), tokens)
        self._glimpses[who] = glimpse
        return glimpse

    async def _draft(self, move: Draft) -> Drafted:
        idle, writer = self._pair.other(move.who), self._pair[move.who]
        # A stream that ran on for the length of a glimpse would, for the length of a draft, be mostly thrown away.
        await idle.stop()
        if idle.side in self._warmed:
            idle.warm()
        self.opened |= not writer.is_open
        step = Step(index=len(self._trace.steps), author=move.who)
        return await self.drafts.draw(self._drawing(move.until), step)

    def _drawing(self, until: Until) -> Callable[[Step, Writer], Drawing]:
        opens = not self._trace.steps or not self._trace.steps[-1].ends_within

        def drawing(step: Step, writer: Writer) -> Drawing:
            # Each draft reads fences and formulas on from where the thought stands.
            return Drawing(step, writer, deepcopy(self._splitter), self._room, Limit(until, opens=opens), self._timing)

        return drawing

    async def _score(self, move: Score) -> Grade:
        writer, call = await self._asked(move.judge), Usage()
        begun_ms = self._timing.since_step_ms()
        grade = await self._judges.models[move.judge].grade(
            writer,
            self.drafts.passage_of(move.draft),
            place=self.drafts.place_of(move.judge),
            request=move.request,
            call=call,
        )
        self._note("score", move.judge, [move.draft], grade.likeliest, grade.expected, grade.covered, call, begun_ms)
        return grade

    async def _choose(self, move: Choose) -> Choice:
        writer, call = await self._asked(move.judge), Usage()
        begun_ms = self._timing.since_step_ms()
        choice = await self._judges.models[move.judge].choose(
            writer,
            [self.drafts.passage_of(draft).text.strip() for draft in move.drafts],
            place=self.drafts.place_of(move.judge),
            request=move.request,
            call=call,
        )
        value = -1 if choice.index is None else choice.index
        share = choice.shares[value] if choice.index is not None else 0.0
        self._note("choice", move.judge, move.drafts, value, share, choice.covered, call, begun_ms)
        return choice

    async def _asked(self, judge: Side) -> Writer:
        if not self._request.routing.overlap:
            await self._pair.other(judge).stop()
        return self._pair[judge]

    async def _reward(self, move: Reward) -> float:
        engine, call = self._judges.reward, Usage()
        if engine is None:
            raise ConfigError("the policy asks for a reward, and there is no reward model; name one", field="reward")
        begun_ms = self._timing.since_step_ms()
        whole, begun = self._trace.whole_steps()
        steps = [*whole, begun + self.drafts.passage_of(move.draft).text]
        value = await engine.reward(self._request.messages, [text.strip() for text in steps], usage=call)
        self._trace.reward = usage = self._trace.reward or ModelUsage(model=engine.name)
        usage.calls += call.requests
        usage.prompt_tokens += call.prompt_tokens
        usage.cached_tokens += call.cached_tokens
        self._note("reward", engine.name, [move.draft], value, None, None, call, begun_ms)
        return value

    def _note(
        self, kind: str, judge: str, drafts: Sequence[Drafted], value: float, expected: float | None,
        covered: float | None, call: Usage, begun_ms: float,
    ) -> None:  # fmt: skip
        self.judgements.append(
            Judgement(
                kind=kind,  # type: ignore[arg-type]
                judge=judge,
                drafts=[draft.number for draft in drafts],
                value=value,
                expected=expected,
                covered=covered,
                prompt_tokens=call.prompt_tokens,
                cached_tokens=call.cached_tokens,
                new_tokens=call.generated_tokens,
                wall_ms=self._timing.since_step_ms() - begun_ms,
            )
        )
