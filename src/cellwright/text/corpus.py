"""From files to token numbers on disk, in pieces: no text need fit into memory."""

from __future__ import annotations

import codecs
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..files import check_file_at
from ..language.errors import ArgumentError, CellwrightError
from ..schema import Checked, Limits, Rule
from ..train.interrupt import interruptible
from .tokenizer import TextTokenizer

PIECE = 1 << 20  # characters read at a time


class CorpusError(CellwrightError, ValueError):
    """The text cannot be used: it is missing, empty, not UTF-8 or too short."""


# ── which files ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Text:
    """A text spread over files, read in order; of folders, what is UTF-8 text.

    Attributes:
        whole_lines: whether the last line of every file ends, too, if only here.
    """

    files: tuple[Path, ...]
    skipped: tuple[Path, ...]
    characters: int
    whole_lines: bool = False

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The characters from `start` to `stop`, a million at a time.

        A piece ends after white space where there is any, so that no word is cut.
        """
        stop = self.characters if stop is None else stop
        position, held = 0, ""
        read = partial(_read, whole_lines=self.whole_lines)
        for chunk in chain.from_iterable(map(read, self.files)):
            held += chunk[max(0, start - position) : max(0, stop - position)]
            position += len(chunk)
            if len(held) >= PIECE:
                # After the last line end, else the last blank, else all of it.
                cut = held.rfind("\n") + 1 or held.rfind(" ") + 1 or len(held)
                yield held[:cut]
                held = held[cut:]
            if position >= stop:
                break
        if held:
            yield held

    def word_start(self, position: int) -> int:
        """Where the line around a place begins, else the word; else the place itself.

        The text's end stays where it is.
        """
        if position >= self.characters:
            return position
        before = "".join(self.pieces(max(0, position - PIECE), position))
        begin = before.rfind("\n") + 1 or before.rfind(" ") + 1 or len(before)
        return position - len(before) + begin


def open_text(sources: Sequence[str], spool: Path, whole_lines: bool = False) -> Text:
    """Find the files of a text, and read them once to count and to check them.

    Args:
        sources: files, folders (every file in them that is UTF-8 text, in the order of
            their paths; names that begin with a dot are left out), `-` for standard
            input, `stdlib` for the source of Python's own standard library.
        spool: where standard input is kept, because a text is read more than once.
        whole_lines: end the last line of every file, where the file does not: else it
            would go on in the next file.

    Raises:
        CorpusError: nothing there, not UTF-8, or empty.
    """
    files: list[Path] = []
    skipped: list[Path] = []
    characters = 0
    for source in sources:
        found, optional = _files_of(source, spool)
        for file in found:
            try:
                characters += sum(map(len, _read(file, whole_lines)))
                files.append(file)
            except CorpusError:
                if not optional:
                    raise
                skipped.append(file)
    if characters == 0:
        raise CorpusError(
            f"[text] there is no text in {' '.join(map(str, sources))}; "
            f"received {len(files)} files with 0 characters, expected some UTF-8 text"
        )
    return Text(tuple(files), tuple(skipped), characters, whole_lines)


def _read(file: Path, whole_lines: bool) -> Iterator[str]:
    last = "\n"  # an empty file has no line to end
    for piece in read_pieces(file):
        yield piece
        last = piece[-1:] or last
    if whole_lines and last != "\n":
        yield "\n"


def read_pieces(file: Path) -> Iterator[str]:
    """A file's characters, up to a million at a time, line ends as they are.

    A byte order mark at its beginning is no part of the text.

    Raises:
        CorpusError: it cannot be read, or is not UTF-8; the message says at which byte.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = kept = 0  # bytes; kept: those of a character that is not whole yet
    try:
        with open(file, "rb") as stream:
            while data := stream.read(PIECE):
                if offset == 0:
                    _check_mark(file, data)
                kept = len(decoder.getstate()[0])
                piece = decoder.decode(data)
                yield piece if offset else piece.removeprefix(_MARK)
                offset += len(data)
            kept = len(decoder.getstate()[0])
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        at = offset - kept + error.start
        byte = error.object[error.start]
        raise CorpusError(
            f"[{file}] is not UTF-8 text; received byte 0x{byte:02x} "
            f"at offset {at}. Convert it first, for example with iconv -t utf-8"
        ) from error
    except OSError as error:
        raise CorpusError(f"[{file}] cannot be read: {error.strerror}") from error


_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"  # how a byte order mark is decoded
_OTHER_MARKS = {  # UTF-32's begins as UTF-16's does, and so comes first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def _check_mark(file: Path, data: bytes) -> None:
    """Raise CorpusError for a byte order mark of another encoding."""
    for mark, encoding in _OTHER_MARKS.items():
        if data.startswith(mark):
            raise CorpusError(
                f"[{file}] is not UTF-8 text; received the byte order mark of "
                f"{encoding.upper()}. Convert it first: iconv -f {encoding} -t utf-8"
            )


def _files_of(source: str, spool: Path) -> tuple[list[Path], bool]:
    """The files of one source, and whether those that are not text may be left out."""
    path = Path(source)
    if source == "-":
        with open(spool, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        return [spool], False
    if source == "stdlib" and not path.exists():
        return standard_library(), True
    if source and path.is_dir():  # Path("") is the current folder
        found = sorted(p for p in path.rglob("*") if p.is_file())
        names = [p.relative_to(path).as_posix() for p in found]
        shown = ["/." not in f"/{name}" for name in names]
        return list(compress(found, shown)), True
    if not path.is_file():
        raise CorpusError(
            f"[text] no such file or folder; received {source!r}, expected files, "
            "folders, '-' (standard input) or 'stdlib'"
        )
    return [path], False


def standard_library() -> list[Path]:
    """The source files of Python's standard library: no tests, nothing installed."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    files = root.rglob("*.py")
    return sorted(f for f in files if left_out.isdisjoint(f.relative_to(root).parts))


# ── token numbers on disk ─────────────────────────────────────────────────────────────


def _bare(path: Path) -> Path:
    if path.name != str(path) or not path.name:
        raise ValueError(f"received {str(path)!r}, expected a file of the run's folder")
    return path


@dataclass(frozen=True)
class Tokens(Checked):
    """A file of token numbers, nothing else, and how much text it stands for."""

    path: Annotated[Path, Rule(_bare)]  # in JSON without its folder
    dtype: Literal["<u2", "<u4"]
    count: Annotated[int, Limits(ge=0)]
    characters: Annotated[int, Limits(ge=0)]
    unknown: Annotated[int, Limits(ge=0)]  # tokens that are the unknown one

    def open(self, vocabulary: int | None = None) -> np.ndarray:
        """(count,), memory-mapped, read only.

        Raises:
            CorpusError: the file is missing, has another length, or holds a number that
                is not less than `vocabulary`.
        """
        expected = self.count * np.dtype(self.dtype).itemsize
        try:
            found = check_file_at(self.path, self.path.parent)
        except OSError as error:
            why = f"cannot be read: {error.strerror}"
            raise CorpusError(f"[{self.path}] {why}") from error
        if found != expected:
            raise CorpusError(
                f"[{self.path}] is not whole; received {found} bytes, "
                f"expected {expected}"
            )
        if self.count == 0:
            return np.zeros(0, self.dtype)
        numbers = np.memmap(self.path, self.dtype, "r", shape=(self.count,))
        if vocabulary is not None and numbers.max() >= vocabulary:
            raise CorpusError(
                f"[{self.path}] was altered; received a token {numbers.max()}, "
                f"expected less than the vocabulary's {vocabulary}"
            )
        return numbers


def write_tokens(pieces: Iterator[str], tokenizer: TextTokenizer, path: Path) -> Tokens:
    """Encode a text piece by piece into a file of token numbers."""
    dtype = "<u2" if tokenizer.vocabulary <= 1 << 16 else "<u4"
    count = characters = unknown = 0
    with open(path, "wb") as file:
        for piece in pieces:
            tokens = interruptible(tokenizer.encode, piece)
            file.write(tokens.astype(dtype).tobytes())
            count += len(tokens)
            characters += len(piece)
            if tokenizer.unknown is not None:
                unknown += int((tokens == tokenizer.unknown).sum())
    return Tokens(path, dtype, count, characters, unknown)


# ── batches ───────────────────────────────────────────────────────────────────────────


class TextStream:
    """A text as an endless stream of batches (a `train.plan.Stream`).

    The tokens are cut into `batch` parts of equal length, one for each row. A row reads
    its part window by window, so the state it carries belongs to what it reads next.
    After the last window every row starts again, from a zero state, and a little
    further on: where the windows do not fill the part, their edges move from one epoch
    to the next.

    A model that never starts from a zero state in training cannot read a prompt later:
    now and then, a window does (about one in 1 / `restart`).

    With `random` the windows of an epoch have random lengths (Merity et al. 2018,
    section 5): each about N(T, 5²), and with a chance of 5 % about N(T/2, 5²), at least
    5. What a window learns is then weighed by `rate_share`, its length over T, which
    the learning rate is multiplied with.

    A batch is {"x": (T, B), "y": (T, B), "first": bool tensor}: y is x one token
    later; `first` says that no state may be carried into it.

    Args:
        tokens: (N,) token numbers, memory-mapped or not.
        batch: rows over all processes.
        window: T.
        seed: of the moving edges.
        share: (k, n) of the rows, those that process k of n reads.
        restart: the chance of any other window to begin anew as well.
        random: windows of random lengths.

    Raises:
        CorpusError: the text is too short for one window in every row.
        ArgumentError: the rows cannot be shared equally.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        batch: int,
        window: int,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
        restart: float = 0.0,
        random: bool = False,
    ):
        process, processes = share
        if batch % processes:
            raise ArgumentError(
                f"[batch] {batch} rows cannot be shared by {processes} processes; "
                f"expected a multiple of {processes}"
            )
        check_length(len(tokens), batch, window)
        length = (len(tokens) - 1) // batch  # the last target is one token further
        self.size = batch * window
        self.windows = self.batches = length // window  # in every epoch
        self._slack, self._length, self._random = 0, length, random
        if not random:
            self._slack = length - self.windows * window
        self._edges_of: tuple[int, list[int]] = (-1, [])
        self.rate_share = 1.0
        self._tokens, self._window, self._seed = tokens, window, seed
        self._restart = restart
        rows = batch // processes
        mine = np.arange(process * rows, (process + 1) * rows)
        self._starts = mine[:, None] * length  # (B, 1)
        self.epoch = self.position = 0

    def next(self) -> dict[str, Tensor]:
        edges = self._edges()
        begin, end = edges[self.position : self.position + 2]
        self.rate_share = (end - begin) / self._window
        columns = np.arange(begin, end + 1)  # (T + 1,)
        rows = self._tokens[self._starts + columns].astype(np.int64)  # (B, T + 1)
        both = torch.from_numpy(rows).t()  # (T + 1, B)
        coin = Random(f"{self._seed} {self.epoch} {self.position}").random()
        first = torch.tensor(self.position == 0 or coin < self._restart)
        self.position += 1
        if self.position == len(edges) - 1:
            self.epoch, self.position = self.epoch + 1, 0
        return {"x": both[:-1].contiguous(), "y": both[1:].contiguous(), "first": first}

    def _edges(self) -> list[int]:
        """Where the windows of this epoch begin, and where the last one ends."""
        if self._edges_of[0] != self.epoch:
            draw = Random(f"{self._seed} {self.epoch}")
            if self._random:
                edges = _random_edges(draw, self._length, self._window)
            else:
                first = draw.randint(0, self._slack)
                edges = [first + k * self._window for k in range(self.windows + 1)]
            self._edges_of = self.epoch, edges
        return self._edges_of[1]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        epoch, position = state["epoch"], state["position"]
        self.epoch, self.position = max(0, epoch), position
        last = len(self._edges()) - 2
        if epoch < 0 or not 0 <= position <= last:
            raise ArgumentError(
                f"[text] no window {position} of epoch {epoch}; expected 0 to {last}"
            )


def _random_edges(draw: Random, length: int, window: int) -> list[int]:
    """Cut `length` steps into windows of random lengths; of the rest nothing is lost.

    The last window takes what is left, unless that is less than 5 steps: then it is
    part of the one before.
    """
    edges = [0]
    while edges[-1] < length:
        mean = window if draw.random() < 0.95 else window / 2
        edges.append(edges[-1] + max(5, int(draw.gauss(mean, 5))))
    edges[-1] = length
    if len(edges) > 2 and edges[-1] - edges[-2] < 5:
        del edges[-2]
    return edges


def check_length(tokens: int, batch: int, window: int, held_out: int = 0) -> None:
    """Raise CorpusError where a text does not fill one window in every row.

    Args:
        tokens: of the text to train on.
        held_out: tokens of the same text that are kept from it.
    """
    needed = batch * window + 1  # the last target is one token further
    if tokens >= needed:
        return
    remedies = ["a longer text"]
    if batch * window > 1:
        remedies.append("a smaller batch or window")
    if held_out and tokens + held_out >= needed:
        remedies.append("--val-fraction 0")
    raise CorpusError(
        f"[text] too short: {tokens} tokens do not fill {batch} rows of one window of "
        f"{window}; expected at least {needed} tokens. Use {', or '.join(remedies)}"
    )


def fit_batch(tokens: int, batch: int, window: int) -> tuple[int, int]:
    """The largest batch and window, up to those wanted, that a short text can fill."""
    window = max(1, min(window, tokens - 1))
    return max(1, min(batch, (tokens - 1) // window)), window
