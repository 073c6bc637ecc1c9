"""What a chaos run says at its end: what was done, counted; what was violated; one line for docs/reliability.md."""

import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from shared.logs import configure


@dataclass(slots=True)
class Report:
    """One run of one part. `seed` repeats its choices, though not the timing of the processes."""

    part: str
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def violate(self, *sentences: str) -> None:
        """Note what must not be, each sentence once; said at once, so that a long run can be stopped."""
        for sentence, times in Counter(sentences).items():
            if sentence in self.violations:
                continue
            self.violations.append(sentence)
            self.say(f"VIOLATION {sentence}" + (f" ({times} times)" if times > 1 else ""))

    def say(self, sentence: str) -> None:
        """A line of progress."""
        print(f"[{self.part} {time.monotonic() - self.began:6.0f}s] {sentence}", flush=True)

    def end(self) -> int:
        """Print the summary; the exit status."""
        counted = ", ".join(f"{count} {what}" for what, count in self.done.items())
        found = f"{len(self.violations)} violations" if self.violations else "no violation"
        seconds = time.monotonic() - self.began
        print(f"chaos {self.part}: {counted}; {found}. (seed {self.seed}, {seconds:.0f} s)", flush=True)
        for kind, count in Counter(sentence.partition(":")[0] for sentence in self.violations).items():
            print(f"  {count} x {kind}", file=sys.stderr)
        return 1 if self.violations else 0


def quiet() -> None:
    """Let what runs inside this process log its errors only: a run's own lines are what is read."""
    configure("error", "text")
