"""A live stream through a recurrent layer, chunk by chunk as a microphone gives them.

    python examples/stream.py [FILE.wav]

Every 10 ms of sound are one step of a two-layer LSTM. Its stepper takes the step as
soon as the samples arrive. The outputs have the same bits as those of the layer over
the whole file. Without a file the example makes three seconds of sound.
"""

from __future__ import annotations

import sys
import tempfile
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import cellwright as cw

CHUNK = 480  # samples a chunk: what the sound card hands over at once
STEP = 0.01  # seconds that one step of the layer sees


def main() -> None:
    torch.manual_seed(0)
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else make_up_sound()
    with wave.open(str(path)) as sound:
        width = int(STEP * sound.getframerate())  # samples a step
        layer = cw.LSTM(width, 128, num_layers=2)
        step = layer.stepper()
        heard, answers, seconds = [], [], []
        for x in frames(chunks(sound), width):  # x (1, width)
            start = time.perf_counter()
            y = step(x)  # (1, 128)
            seconds.append(time.perf_counter() - start)
            heard.append(x)
            answers.append(y)
    if not heard:
        sys.exit(f"error: {path} is shorter than one step of {1000 * STEP:.0f} ms")
    report(path, width, seconds)
    with torch.no_grad():
        whole, _ = layer(torch.stack(heard))  # (T, 1, 128)
    same = torch.equal(torch.stack(answers), whole)
    print(f"the same bits as the layer over the whole file: {'yes' if same else 'no'}")


def chunks(sound: wave.Wave_read) -> Iterator[torch.Tensor]:
    """Samples in [-1, 1), the first channel, as they come in."""
    if sound.getsampwidth() != 2:
        sys.exit(f"error: expected 16-bit samples, received {8 * sound.getsampwidth()}")
    while data := sound.readframes(CHUNK):
        samples = np.frombuffer(data, "<i2").reshape(-1, sound.getnchannels())[:, 0]
        yield torch.from_numpy(samples.astype(np.float32) / 2**15)


def frames(chunks: Iterator[torch.Tensor], width: int) -> Iterator[torch.Tensor]:
    """The same samples, `width` at a time."""
    rest = torch.empty(0)
    for chunk in chunks:
        rest = torch.cat([rest, chunk])
        while len(rest) >= width:
            yield rest[None, :width]
            rest = rest[width:]


def report(path: Path, width: int, seconds: list[float]) -> None:
    micros = np.percentile(1e6 * np.array(seconds), [50, 99, 100])
    print(f"{path.name}: {len(seconds)} steps of {width} samples, {1000 * STEP:.0f} ms")
    print(
        "a step takes {:.0f} µs; 99 of 100 under {:.0f}, at most {:.0f}".format(*micros)
    )


def make_up_sound() -> Path:
    """Three seconds of a voice-like hum whose volume varies, 16 kHz."""
    rate = 16_000
    t = np.arange(3 * rate) / rate
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / rate
    hum = sum(np.sin(k * pitch) / k for k in range(1, 12))
    wave_form = hum * np.clip(np.sin(2 * np.pi * 1.5 * t), 0, None) / 4
    path = Path(tempfile.mkdtemp()) / "hum.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes((wave_form * 2**15).clip(-(2**15), 2**15 - 1).astype("<i2"))
    return path


if __name__ == "__main__":
    main()
