"""One line per rule, as it is known: `ok: rule, seconds` or `FAILED: rule (what was seen)`; figures; a closing line."""

import contextlib
import sys
import time


class Rules:
    def __init__(self):
        self.began = time.monotonic()
        self.passed = 0
        self.failed = 0
        self.figures = []

    @contextlib.contextmanager
    def rule(self, name):
        """What the block asserts is this rule; when it fails, the others are tried nevertheless."""
        began = time.monotonic()
        try:
            yield
        except Exception as seen:  # a broken answer is a broken rule too
            self.failed += 1
            what = f"{type(seen).__name__}: {seen}" if not isinstance(seen, AssertionError) else str(seen)
            self._say(f"FAILED: {name} ({' | '.join(what.splitlines())[:2000]})")
        else:
            self.passed += 1
            self._say(f"ok: {name}, {time.monotonic() - began:.1f} s")

    @contextlib.contextmanager
    def tried(self, name):
        """A row of rules; what goes wrong between them ends the row and counts as one that failed."""
        try:
            yield
        except Exception as seen:
            with self.rule(f"all rules of {name} can be tried"):
                raise seen

    def figure(self, name, value):
        self.figures.append(f"{name}: {value}")

    def section(self, name):
        self._say(f"-- {name} (at {time.monotonic() - self.began:.0f} s)")

    def close(self, consoles):
        """Prints the figures and the closing line; returns the exit code. `consoles` is where the logs are."""
        for figure in self.figures:
            self._say(f"figure: {figure}")
        self._say(f"-- all of it took {time.monotonic() - self.began:.0f} s")
        if self.failed:
            self._say(f"-- what the machines printed: {consoles}/*.log")
        self._say(f"{self.passed} passed, {self.failed} failed of the machine")
        return 0 if self.failed == 0 and self.passed > 0 else 1

    @staticmethod
    def _say(line):
        print(line, flush=True)
        sys.stdout.flush()


def expect(condition, seen):
    """Asserts, with what was seen in place of it as the message."""
    if not condition:
        raise AssertionError(seen)
