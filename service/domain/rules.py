"""Rules of a recipe, matched against tensor names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

import re2

from service.domain.errors import ArrowQuantError
from service.domain.spec import Rule


class Matcher:
    """A rule, compiled once. Both kinds of patterns take linear time, so a hostile one costs
    nothing: regular expressions run in RE2, and fnmatch makes every star of a glob atomic.
    """

    def __init__(self, number: int, rule: Rule) -> None:
        self.number, self.rule, self.used = number, rule, False
        self._fullmatch = self._compile(rule.match)

    def _compile(self, pattern: str) -> Callable[[str], object]:
        if not pattern.startswith("re:"):
            return re.compile(fnmatch.translate(pattern)).fullmatch
        options = re2.Options()
        options.log_errors = False
        try:
            compiled = re2.compile(pattern[3:].encode(), options)
        except (re2.error, UnicodeEncodeError) as error:
            why = error.args[0]
            why = why.decode(errors="replace") if isinstance(why, bytes) else "not valid Unicode"
            raise ArrowQuantError(
                "invalid_spec",
                f"rule {self.number}: {pattern!r} is not a regular expression: {why}",
                "RE2 syntax: no look-around, no back-references.",
                {"pointer": f"/recipe/rules/{self.number}/match"},
            ) from None
        return lambda name: compiled.fullmatch(name.encode())

    def matches(self, name: str) -> bool:
        hit = self._fullmatch(name) is not None
        self.used |= hit
        return hit


def first_rule(matchers: list[Matcher], name: str) -> Rule | None:
    """The first rule that matches. Rules not seen to match anything yet are tried all the same,
    so that "matches nothing" means just that.
    """
    found = None
    for matcher in matchers:
        if (found is None or not matcher.used) and matcher.matches(name) and found is None:
            found = matcher.rule
    return found


def refuse_unused(matchers: list[Matcher]) -> None:
    """Raises rule_matched_nothing: a rule that does nothing is a typing error."""
    for matcher in matchers:
        if not matcher.used:
            raise ArrowQuantError(
                "rule_matched_nothing",
                f"rule {matcher.number} ({matcher.rule.match!r}) matches no tensor",
                "Patterns match the whole name; begin with '*' to match a suffix.",
                {"pointer": f"/recipe/rules/{matcher.number}/match"},
            )
