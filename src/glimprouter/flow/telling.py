"""What one model is told of a step that the other writes."""

from __future__ import annotations

from dataclasses import replace

from glimprouter.flow.trace import Step
from glimprouter.flow.writer import Passage, Writer


class Telling:
    """How much of a step under way the idle model has been told."""

    def __init__(self, step: Step, *, every_tokens: int) -> None:
        """`every_tokens` 0: only the whole."""
        self._step = step
        self._every_tokens = every_tokens
        self._tokens = self._characters = 0

    @property
    def is_due(self) -> bool:
        return bool(self._every_tokens) and len(self._step.ids) - self._tokens >= self._every_tokens

    def told(self, vocabulary: str) -> Passage:
        """What is new in the step since this was last asked."""
        text, ids = self._step.text[self._characters :], tuple(self._step.ids[self._tokens :])
        self._characters, self._tokens = len(self._step.text), len(self._step.ids)
        return Passage(text, ids, vocabulary)

    def rest(self, writer: Writer, *, tag_alone: bool) -> Passage:
        """The end of the step, without the closing tag, which every family encodes its own way.

        `tag_alone`: the tag is tokens of its own, not part of one that says more.
        """
        passage = self.told(writer.facts.vocabulary)
        if self._step.end != "closed":
            return passage
        body = passage.text.rpartition(writer.prompt.format.close_tag)[0]
        close_ids, ids = writer.prompt.close_ids, passage.ids or ()
        alone = tag_alone and ids[-len(close_ids) :] == close_ids
        return replace(passage, text=body, ids=ids[: -len(close_ids)] if alone else None)
