"""Where steps end: a splitter by name. Which one when, and what each looks ahead, is in docs/segmentation.md."""

from __future__ import annotations

from glimprouter.config import Routing, parse_splitter
from glimprouter.flow.splitters.blank_line import BlankLineSplitter
from glimprouter.flow.splitters.discourse import DiscourseRule, phrases
from glimprouter.flow.splitters.gaps import GapSplitter, Rule
from glimprouter.flow.splitters.sentence import SentenceRule
from glimprouter.flow.splitters.tokens import WordRule
from glimprouter.flow.steps import Splitter


def make_splitter(routing: Routing, *, close_tag: str) -> Splitter:
    """The splitter that `routing` names. Raises ConfigError for a file of moves that cannot be read."""
    name, tokens = parse_splitter(routing.splitter)
    least, most = routing.min_step_tokens, routing.max_step_tokens
    if name == "blank-line":
        return BlankLineSplitter(close_tag=close_tag, min_step_tokens=least, max_step_tokens=most)
    rule: Rule = WordRule(tokens) if name == "tokens" else SentenceRule()
    if name == "discourse":
        rule = DiscourseRule(phrases(routing.splitter_moves))
    return GapSplitter(rule, close_tag=close_tag, min_step_tokens=max(least, tokens), max_step_tokens=most)
