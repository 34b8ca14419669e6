"""What the inspector shows of a run and a text, as plain data for any page.

The same answers serve the live page (`web/inspect.py`) and the report in one file
(`web/report.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..language.errors import ArgumentError, did_you_mean
from ..language.sizes import MatrixSize
from ..text.model import LanguageModel
from ..text.run import Run
from ..text.tokenizer import REPLACEMENT
from .cell_picture import cell_picture
from .detectors import (
    DETECTORS,
    entropy,
    matches,
    mutual_information,
    quantile_bins,
)
from .gradient_flow import GradientFlow, gradient_flow
from .memoize import Memo, memoize
from .reading import Change, Reader, Reading, likeliest
from .retention import Retention, retentions
from .saturation import implied_memory, saturation

RANKED = 24  # interesting units that are listed
LEAST_BITS = 0.01  # of an interesting unit: below, it may be chance
LEAST_CHANGES = 10  # of a detector's class, for its best unit to be shown first
USUAL = 0.98  # of a value's numbers: those in the middle, which its colours show
BINS = 20  # of a histogram
ORDERS = ("cluster", "variance", "saturation", "time constant", "index")
LONGEST_TOKEN = 64  # characters, on average


class Inspection(Memo):
    """A run's model and its reading of a text.

    Slow results are computed once, when they are first asked for.

    Args:
        run: a trained run.
        text: what is read, or its token numbers; None: the run's held-out text.
        steps: at most so many tokens of it.
        advance: called with the number of tokens done, as they are done.
        model: the run's, where it is loaded already.

    Raises:
        ArgumentError: a text of fewer than two tokens.
    """

    def __init__(
        self,
        run: Run,
        text: str | NDArray[np.int64] | None = None,
        *,
        steps: int = 2000,
        advance: Callable[[int], Any] = lambda count: None,
        model: LanguageModel | None = None,
    ) -> None:
        super().__init__()
        self.run, self.tokenizer, self.steps = run, run.tokenizer, steps
        self.model = model or run.trained_model().eval()
        self.reader = Reader(self.model)
        tokens = run.read(text, steps)
        if len(tokens) < 2:
            raise ArgumentError(
                f"[inspect] a text of {len(tokens)} token(s) has nothing to predict; "
                "expected at least 2"
            )
        self.reading: Reading = self.reader.read(tokens, advance=advance)
        self.pieces = [self.tokenizer.decode([int(t)]) for t in tokens]
        self.unknown = np.flatnonzero(tokens == self.tokenizer.unknown).tolist()
        if self.unknown and isinstance(text, str):
            self._show_unknown(text[: LONGEST_TOKEN * len(tokens)])

    def _show_unknown(self, text: str) -> None:
        """Put what the text has in the place of unknown tokens into the pieces."""
        found = self.tokenizer.unknown_in(text)
        for step, piece in zip(self.unknown, found, strict=False):
            self.pieces[step] = self.pieces[step].replace(REPLACEMENT, piece)

    def reread(self, text: str | NDArray[np.int64]) -> Inspection:
        """The same model's reading of another text, of as many steps at most.

        Raises:
            ArgumentError: a text of fewer than two tokens.
        """
        return Inspection(self.run, text, steps=self.steps, model=self.model)

    def text_for(self, other: Run) -> str | NDArray[np.int64]:
        """What another run reads beside this one: the same tokens where it can."""
        if other.tokenizer == self.tokenizer:
            return self.reading.tokens
        return "".join(self.pieces)

    # -- what there is

    @memoize
    def describe(self) -> dict[str, Any]:
        """The model and the text: everything but the numbers."""
        cell = self.run.cell
        states = {s.name for s in cell.graph.states}
        values = [
            {
                "key": key,
                "layer": int(key.split(".", 1)[0]),
                "name": key.split(".", 1)[1],
                "size": matrix.shape[1],
                "state": key.split(".", 1)[1] in states,
                "matrix": self._is_matrix(key),
                "gate": self.is_gate(key),
                "low": self.limits(key)[0],
                "high": self.limits(key)[1],
                "usual": self.usual(key),
            }
            for key, matrix in self.reading.values.items()
        ]
        return {
            "run": self.run.directory.name,
            "cell": cell.name,
            "equations": list(cell.equations),
            "layers": self.model.rnn.num_layers,
            "hidden": self.model.rnn.hidden_size,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "window": self.run.settings.window or self.run.settings.DEFAULT_WINDOW,
            "pieces": self.pieces,
            "unknown": self.unknown,
            "values": values,
            "best": self.best(),
            "detectors": list(DETECTORS),
            "orders": list(ORDERS),
            "nats": float(np.nanmean(self.reading.surprisal())),
        }

    def prepare(self) -> None:
        """Compute what a page shows first, so that it opens at once."""
        self.describe()
        if best := self.best():
            self.order(best["key"], ORDERS[0])
            self.ranges(best["key"])

    @memoize
    def picture(self) -> dict[str, Any] | None:
        """The cell's picture; None where it is too large for one."""
        return cell_picture(self.run.cell)

    @memoize
    def limits(self, key: str) -> tuple[float, float]:
        """The lowest and the highest of a value."""
        matrix = self.values(key)
        return float(matrix.min()), float(matrix.max())

    @memoize
    def usual(self, key: str) -> tuple[float, float]:
        """Between what bounds 98 % of a value's numbers are; its limits where that
        leaves one number."""
        ends = (1 - USUAL) / 2, (1 + USUAL) / 2
        low, high = (float(v) for v in np.quantile(self.values(key), ends))
        return (low, high) if low < high else self.limits(key)

    @memoize
    def ranges(self, key: str) -> dict[str, list[float]]:
        """Of every unit its lowest and highest number, and the bounds of 98 %."""
        names = {
            "low": 0.0,
            "high": 1.0,
            "from": (1 - USUAL) / 2,
            "to": (1 + USUAL) / 2,
        }
        bounds = np.quantile(self.values(key), list(names.values()), axis=0)
        return dict(zip(names, bounds.tolist(), strict=True))

    def is_gate(self, key: str) -> bool:
        """Whether a value stays in [0, 1]; the norms of a matrix are no gate."""
        low, high = self.limits(key)
        return low >= 0 and high <= 1 and not self._is_matrix(key)

    def _is_matrix(self, key: str) -> bool:
        k, node = self.reader.keys[key]
        return isinstance(self.reader.graphs[k].nodes[node].size, MatrixSize)

    def values(self, key: str) -> NDArray[np.float32]:
        """(T, size).

        Raises:
            ArgumentError: there is no such value.
        """
        try:
            return self.reading.values[key]
        except KeyError:
            known = list(self.reading.values)
            raise ArgumentError(
                f"[inspect] no value {key!r}. {did_you_mean(key, known)}"
            ) from None

    # -- the views

    @memoize
    def quantised(self, key: str) -> NDArray[np.uint8]:
        """Every unit's values in 256 levels from its lowest to its highest: (size, T).

        One unit may be far larger than the others, which would share a few levels.
        """
        matrix = self.values(key)
        low, high = matrix.min(0), matrix.max(0)
        spread = high - low
        levels = (matrix - low) * (255 / np.where(spread > 0, spread, 1))
        np.rint(levels, out=levels)
        return np.ascontiguousarray(levels.astype(np.uint8).T)

    @memoize
    def order(self, key: str, by: str) -> list[int]:
        """The units of a value, sorted.

        Args:
            by: one of `ORDERS`: variance (largest first); cluster (neighbours are
                alike: the leaves of an average-linkage tree over correlations);
                saturation (nearest to its ends first); time constant (slowest first,
                by the autocorrelation at lag 1).
        """
        matrix = self.values(key).astype(np.float64)
        if by == "index":
            return list(range(matrix.shape[1]))
        if by == "cluster":
            return _leaves(_correlations(matrix))
        scores = {
            "variance": lambda: matrix.var(0),
            "saturation": lambda: np.abs(matrix - np.median(matrix)).mean(0),
            "time constant": lambda: _autocorrelation(matrix),
        }
        if by not in scores:
            raise ArgumentError(
                f"[inspect] no order {by!r}. {did_you_mean(by, list(ORDERS))}"
            )
        return np.argsort(-scores[by](), kind="stable").tolist()

    @memoize
    def interesting(self, detector: str, pattern: str = "") -> dict[str, Any]:
        """Which units follow a detector of the text.

        Args:
            detector: one of `describe()["detectors"]`, or "pattern".
            pattern: a regular expression, for "pattern".

        Returns:
            The class of every token, its entropy in bits, and the best units with
            their bits: none below 0.01, which chance may give.
        """
        if detector != "pattern" and detector not in DETECTORS:
            known = [*DETECTORS, "pattern"]
            raise ArgumentError(
                f"[inspect] no detector {detector!r}. {did_you_mean(detector, known)}"
            )
        detect = matches(pattern) if detector == "pattern" else DETECTORS[detector]
        firsts = np.cumsum([0, *(len(piece) for piece in self.pieces)])[:-1]
        whole = "".join(self.pieces)
        found = detect(whole) if whole else np.zeros(0, np.int64)
        classes = found[np.minimum(firsts, len(whole) - 1)]
        ranked: list[tuple[float, str, int]] = []
        for key in self.reading.values:
            bits = mutual_information(self._bins(key), classes)
            ranked += [(float(b), key, unit) for unit, b in enumerate(bits)]
        ranked.sort(key=lambda r: (-r[0], r[1], r[2]))
        return {
            "classes": classes.tolist(),
            "entropy": entropy(classes),
            "units": [
                {"key": key, "unit": unit, "bits": bits}
                for bits, key, unit in ranked[:RANKED]
                if bits >= LEAST_BITS
            ],
        }

    @memoize
    def best(self) -> dict[str, Any] | None:
        """The unit that tells the largest share of a detector's class, and whose.

        Detectors that hardly change in this text are left out: one quotation is chance.
        """
        found = []
        for name in DETECTORS:
            told = self.interesting(name)
            changes = np.count_nonzero(np.diff(told["classes"]))
            if told["units"] and changes >= LEAST_CHANGES:
                best = told["units"][0]
                found.append({"detector": name, **best, "of": told["entropy"]})
        return max(found, key=lambda b: b["bits"] / b["of"], default=None)

    @memoize
    def _bins(self, key: str) -> NDArray[np.uint8]:
        return quantile_bins(self.values(key))

    @memoize
    def saturation(self) -> list[dict[str, Any]]:
        """Of every gate: how near 0 and 1, mean, a histogram, and what it remembers.

        `memory` lists the states whose old values it multiplies, if any: the factor as
        it is written, and the steps that its mean implies for each unit.
        """
        found = []
        for key, matrix in self.reading.values.items():
            if not self.is_gate(key):
                continue
            s = saturation(matrix)
            counts, _ = np.histogram(matrix, BINS, (0.0, 1.0))
            found.append(
                {
                    "key": key,
                    "low": s.low.tolist(),
                    "high": s.high.tolist(),
                    "mean": s.mean.tolist(),
                    "memory": [
                        _memory(r, r.constant + r.slope * s.mean)
                        for r in self.retentions
                        if r.gate == key.split(".", 1)[1]
                    ],
                    "histogram": (counts / matrix.size).tolist(),
                }
            )
        return found

    @property
    def retentions(self) -> list[Retention]:
        """What multiplies the old value of each state."""
        return retentions(self.run.cell.graph)

    def constant_memory(self) -> list[dict[str, Any]]:
        """The states whose old values are multiplied by a number at every step."""
        return [
            _memory(r, np.array([r.constant]))
            for r in self.retentions
            if r.gate is None
        ]

    @memoize
    def predictions(self) -> dict[str, Any]:
        """Of every token: surprisal, rank, entropy, and what was likely instead."""
        logs = self.reading.log_probabilities
        chances = np.exp(logs)
        entropy = -(chances * logs).sum(1)
        top = likeliest(torch.from_numpy(logs)).numpy()
        target = self.reading.tokens[1:]
        own = np.take_along_axis(logs[:-1], target[:, None], 1)
        ranks = 1 + (logs[:-1] > own).sum(1)
        likely = np.take_along_axis(chances, top, 1)
        # The first token has no prediction: nothing comes before it.
        return {
            "surprisal": [None, *(-own[:, 0]).tolist()],
            "rank": [None, *ranks.tolist()],
            "entropy": [None, *entropy[:-1].tolist()],
            "top": [[], *top[:-1].tolist()],
            "chances": [[], *likely[:-1].round(5).tolist()],
            "vocabulary": self._vocabulary(top),
        }

    def _vocabulary(self, tokens: NDArray[np.int64]) -> dict[int, str]:
        return {int(t): self.tokenizer.decode([int(t)]) for t in np.unique(tokens)}

    @memoize
    def _flow(self) -> GradientFlow:
        with torch.no_grad():
            tokens = torch.from_numpy(self.reading.tokens)
            x = self.model.embed(tokens[:-1])
        outputs = torch.from_numpy(self._outputs()[:-1]).requires_grad_()
        loss = F.cross_entropy(self.model.head(outputs), tokens[1:], reduction="sum")
        (cotangents,) = torch.autograd.grad(loss, outputs)
        reach = min(200, len(tokens) - 2)
        return gradient_flow(self.model.rnn, x, cotangents, reach=max(1, reach))

    def _outputs(self) -> NDArray[np.float32]:
        """The last layer's outputs, (T, H)."""
        layer = self.model.rnn
        with torch.no_grad():
            tokens = torch.from_numpy(self.reading.tokens)
            y, _ = layer(self.model.embed(tokens)[:, None])
        return y[:, 0].numpy()

    def flow(self) -> dict[str, Any]:
        """‖∂loss/∂s_{t−k}‖ of every prediction: medians and half-lives.

        The loss at t is that of predicting token t + 1.
        """
        flow = self._flow()
        return {
            "names": list(flow.norms),
            "reach": flow.norms["x"].shape[1] - 1,
            "medians": {n: _numbers(flow.median(n)) for n in flow.norms},
            "half_lives": {n: _number(flow.half_life(n)) for n in flow.norms},
        }

    def flow_at(self, step: int) -> dict[str, Any]:
        """The norms of one prediction, that of token `step`, by distance."""
        if not 1 <= step < len(self.pieces):
            raise ArgumentError(
                f"[inspect] token {step} has no prediction; expected 1 to "
                f"{len(self.pieces) - 1}"
            )
        return {n: _numbers(v[step - 1]) for n, v in self._flow().norms.items()}

    @memoize
    def flow_triangle(self, name: str) -> tuple[float, float, NDArray[np.uint8]]:
        """log₁₀ of the norms in 255 levels, 0 for none.

        Returns:
            Lowest, highest, and the levels (T − 1, reach + 1).

        Raises:
            ArgumentError: there is no such state.
        """
        if name not in self._flow().norms:
            raise ArgumentError(
                f"[inspect] no gradient of {name!r}. "
                f"{did_you_mean(name, list(self._flow().norms))}"
            )
        logs = self._flow().norms[name].log10().numpy()
        seen = np.isfinite(logs)
        low, high = (logs[seen].min(), logs[seen].max()) if seen.any() else (0.0, 0.0)
        low = max(low, high - 12)  # twelve decades of norms; less counts as the lowest
        scale = 254 / (high - low) if high > low else 0.0
        levels = 1 + np.rint((np.nan_to_num(logs, nan=low) - low).clip(0) * scale)
        return float(low), float(high), np.where(seen, levels, 0).astype(np.uint8)

    def intervene(self, changes: Sequence[Change]) -> dict[str, Any]:
        """Read the text again with changes: the loss before and after, by token.

        Raises:
            ArgumentError: no such value, or amounts with which the model gives no
                numbers.
        """
        changed = self.reader.read(self.reading.tokens, changes)
        if not np.isfinite(changed.logits).all():
            amounts = ", ".join(f"{change.amount:g}" for change in changes)
            raise ArgumentError(
                f"[intervene] with these changes the model gives NaN or infinity; "
                f"received amounts {amounts}, expected smaller ones"
            )
        before, after = self.reading.surprisal()[1:], changed.surprisal()[1:]
        old, new = (r.log_probabilities[-1] for r in (self.reading, changed))
        return {
            "before": float(before.mean()),
            "after": float(after.mean()),
            "difference": [None, *(after - before).round(5).tolist()],
            "next": [
                {
                    "piece": self.tokenizer.decode([t]),
                    "before": float(np.exp(old[t])),
                    "after": float(np.exp(new[t])),
                }
                for t in likeliest(torch.from_numpy(new)).tolist()
            ],
        }


def described_beside(one: Inspection, other: Inspection | None) -> dict[str, Any]:
    """What `describe` says, and the name of the model to compare with."""
    beside = other.run.directory.name if other else None
    return {**one.describe(), "beside": beside}


def saturation_beside(one: Inspection, other: Inspection | None) -> dict[str, Any]:
    """The gates' saturation and the states' constant factors, of one model or two."""
    models = {"run": one, **({"beside": other} if other else {})}
    return {
        **{name: model.saturation() for name, model in models.items()},
        "constant": {name: model.constant_memory() for name, model in models.items()},
    }


def _memory(retention: Retention, mean: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "state": retention.state,
        "factor": retention.factor,
        "steps": [_number(m) for m in implied_memory(mean)],
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _numbers(values: Any) -> list[float | None]:
    return [_number(float(v)) for v in values]


def _correlations(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """(size, size); a constant unit is correlated with nothing."""
    centred = matrix - matrix.mean(0)
    norms = np.linalg.norm(centred, axis=0)
    unit = centred / np.where(norms > 0, norms, 1)
    return unit.T @ unit


def _autocorrelation(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = matrix - matrix.mean(0)
    power = (centred**2).sum(0)
    return (centred[1:] * centred[:-1]).sum(0) / np.where(power > 0, power, 1)


def _leaves(correlations: NDArray[np.float64]) -> list[int]:
    """The leaves of an average-linkage tree, in its order."""
    from scipy.cluster.hierarchy import average, leaves_list
    from scipy.spatial.distance import squareform

    if len(correlations) < 2:
        return list(range(len(correlations)))
    distances = 1 - correlations
    np.fill_diagonal(distances, 0)
    distances = (distances + distances.T) / 2
    return leaves_list(average(squareform(distances, checks=False))).tolist()
