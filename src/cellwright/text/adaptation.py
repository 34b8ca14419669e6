"""What `evaluate` reads a text with: a cache, or weights that go on learning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..language.errors import ArgumentError
from . import cache, dynamic
from .cache import Cache
from .dynamic import DECAYS, RATES, Dynamic, statistics_of
from .model import LanguageModel
from .run import Run
from .score import Bar, Reader, no_bar


@dataclass(frozen=True)
class Adaptation:
    """What was asked for; None for what is to be tuned.

    Attributes:
        cache: "N,θ,λ", or "N"; None for no cache.
        dynamic: whether the weights go on learning.
        rate, decay, segment: of `dynamic.Dynamic`.

    Raises:
        ArgumentError: they contradict each other.
    """

    cache: str | None = None
    dynamic: bool = False
    rate: float | None = None
    decay: float | None = None
    segment: int | None = None

    def __post_init__(self) -> None:
        if self.cache is not None and self.dynamic:
            raise ArgumentError(
                "[evaluate] received both a cache and --dynamic, expected one of them"
            )
        for name in ("rate", "decay", "segment"):
            if getattr(self, name) is not None and not self.dynamic:
                raise ArgumentError(f"[{name}] belongs to --dynamic; give it, too")

    @property
    def asked(self) -> bool:
        """Whether a text is read in another way than the usual one."""
        return self.cache is not None or self.dynamic

    @property
    def tunes(self) -> bool:
        """Whether something was left to be tuned."""
        if self.cache is not None:
            return "," not in self.cache
        return self.dynamic and None in (self.rate, self.decay)

    def reader(
        self, run: Run, model: LanguageModel, validation: bool, bar: Bar = no_bar
    ) -> tuple[Reader | None, dict[str, Any]]:
        """A way to read a text, and its settings as plain data.

        Args:
            model: the run's, in eval mode.
            validation: whether the run's held-out text may be used to tune what was
                not given: not where that very text will be read. Without it `dynamic`
                has the paper's values.
            bar: shows how far the tuning is.

        Raises:
            ArgumentError: a setting is out of its range, or cannot be tuned.
        """
        if self.cache is not None:
            return self._cache(run, model, self.cache, validation, bar)
        if self.dynamic:
            return self._dynamic(run, model, validation, bar)
        return None, {}

    def note(self, validation: bool) -> str | None:
        """What a user is told where `reader` takes the paper's values.

        Args:
            validation: as of `reader`.
        """
        usual = [f"--{n}" for n in ("rate", "decay") if getattr(self, n) is None]
        if validation or not (self.dynamic and usual):
            return None
        values = " and ".join(usual)
        return (
            "--dynamic is not tuned, for the run holds out no text beside the one "
            f"that is evaluated; the paper's {values} (Krause et al. 2018) will be "
            f"used. Give {values} to choose others"
        )

    def _cache(
        self, run: Run, model: LanguageModel, text: str, validation: bool, bar: Bar
    ) -> tuple[Reader, dict[str, Any]]:
        size, mix = _parse_cache(text)
        if mix:
            made = Cache(size, *mix)
        elif validation:
            numbers = run.held_out.open(run.sizes.vocabulary)
            made = cache.tune(model, numbers, size, bar=bar)
        else:
            other = ", or another TEXT" if run.held_out.count > 1 else ""
            raise ArgumentError(
                "[cache] the run holds out no text beside the one that is evaluated, "
                f"and θ and λ are tuned on no other; received {text} alone, expected "
                f"N,θ,λ as in 500,0.3,0.1{other}"
            )
        told = {"size": made.size, "theta": made.theta, "lambda": made.weight}
        return made, {"cache": told}

    def _dynamic(
        self, run: Run, model: LanguageModel, validation: bool, bar: Bar
    ) -> tuple[Reader, dict[str, Any]]:
        usual = 5 if run.tokenizer.kind in ("word", "ptb") else 20
        segment = usual if self.segment is None else self.segment
        rates, decays = (
            [scale * segment / 5 for scale in (known if validation else known[:1])]
            if given is None
            else [given]
            for given, known in ((self.rate, RATES), (self.decay, DECAYS))
        )
        made = Dynamic((), rates[0], decays[0], segment=segment)
        vocabulary = run.sizes.vocabulary
        training = run.train_tokens.open(vocabulary)
        statistics = statistics_of(model, training, segment, bar)
        made = replace(made, statistics=statistics)
        if len(rates) > 1 or len(decays) > 1:
            numbers = run.held_out.open(vocabulary)
            made = dynamic.tune(model, numbers, made, rates, decays, bar)
        told = {"rate": made.rate, "decay": made.decay, "segment": segment}
        return made, {"dynamic": told}


def _parse_cache(text: str) -> tuple[int, tuple[float, ...]]:
    """The N of "N,θ,λ" and its θ and λ, or of "N" and neither."""
    size, *mix = text.split(",")
    try:
        numbers = int(size), tuple(map(float, mix))
    except ValueError:
        numbers = 0, (0.0,)
    if len(mix) not in (0, 2) or numbers[0] < 1:
        raise ArgumentError(
            f"[cache] received {text!r}, expected N,θ,λ as in 500,0.3,0.1, or N"
        )
    return numbers
