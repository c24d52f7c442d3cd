"""What all splitters share: the closing tag of the thought, and the least and the most tokens of a step."""

from __future__ import annotations

from glimprouter.flow.steps import Mark


class StepSplitter:
    """Counts tokens and watches for the closing tag. A kind of splitter says in `_read` and `_end_token` where to cut.

    A step under the minimum is merged into the next; after the maximum a boundary is forced at a complete character.
    """

    __slots__ = (
        "_close_tag", "_closed", "_complete", "_found", "_has_visible", "_max_tokens", "_min_tokens", "_tail",
        "_tokens", "after_close",
    )  # fmt: skip

    look_ahead_characters = 0

    def __init__(self, *, close_tag: str, min_step_tokens: int, max_step_tokens: int) -> None:
        self._close_tag = close_tag
        self._min_tokens = min_step_tokens
        self._max_tokens = max_step_tokens
        self._tail = ""
        self._tokens = 0
        self._has_visible = False
        self._found = False
        self._complete = False
        self._closed = False
        self.after_close: str | None = None
        """What followed the closing tag inside the same token; None while the thought is open."""

    def token(self, text: str) -> Mark:
        """Take one whole token; empty text means that its character is not complete yet."""
        self._push(text)
        return self._end_token()

    def ahead(self, text: str, *, last: bool) -> Mark:  # noqa: ARG002 - for splitters that look ahead
        raise AssertionError("only asked after a pending mark")

    def _push(self, text: str) -> None:
        if not text or self._closed:
            return
        self._complete = True
        if self.after_close is not None:
            self.after_close += text
            return
        tail = self._tail + text
        if self._close_tag[-1] in text and (place := tail.find(self._close_tag)) >= 0:
            self.after_close = tail[place + len(self._close_tag) :]
            return
        self._tail = tail[-len(self._close_tag) + 1 :] if len(self._close_tag) > 1 else ""
        self._read(text)

    def _read(self, text: str) -> None:
        """Text of the thought, in whatever pieces; sets `_found` where a boundary lies at its end."""
        raise NotImplementedError

    def _end_token(self) -> Mark:
        self._tokens += 1
        found, self._found = self._found, False
        complete, self._complete = self._complete, False
        if self.after_close is not None:
            self._closed = True
            return Mark.CLOSED
        if found and self._tokens >= self._min_tokens:
            return self._cut(Mark.BOUNDARY)
        if complete and self._tokens >= self._max_tokens and not self._may_be_closing():
            return self._cut(Mark.FORCED)
        return Mark.OPEN

    def _may_be_closing(self) -> bool:
        """Whether the text ends in what may become the closing tag; not for longer than the tag can take."""
        tag = self._close_tag
        begun = any(self._tail.endswith(tag[:length]) for length in range(1, len(tag)))
        return begun and self._tokens < self._max_tokens + len(tag)

    def _cut(self, mark: Mark) -> Mark:
        self._tokens = 0
        self._has_visible = False
        return mark
