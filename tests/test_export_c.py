"""Exported C, compiled and run, against the layer that it was written of."""

import ctypes
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune
from typer.testing import CliRunner

import cellwright as cw
from cellwright.cli import app
from cellwright.export.c.operations import KNOWN, functions
from cellwright.export.c.values import literal
from cellwright.language import FUNCTIONS
from cellwright.language.expand import PRIMITIVES
from cellwright.text.model import LanguageModel, ModelSizes
from cellwright.text.tokenizer import TextTokenizer
from native_cases import EXTRA_SIZES
from oracles import normal, randomise
from strategies import HIDDEN, INPUT, make_cell, sources

GCC, GXX, CLANG = map(shutil.which, ("gcc", "g++", "clang"))
pytestmark = pytest.mark.skipif(GCC is None, reason="gcc is not installed")

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion"]
X, H = 5, 7
ZOO = sorted(cw.cells.all())


def shell(*command, **options):
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout
    return done.stdout


def library(folder, *flags, compiler=GCC, ext="c"):
    """Every source of a folder in one shared library."""
    found = [f for f in folder.glob(f"*.{ext}") if not f.stem.endswith("_test")]
    path = folder / "all.so"
    flags = flags or ("-O1",)
    shell(compiler, *STRICT, *flags, "-shared", "-fPIC", *found, "-o", path)
    return ctypes.CDLL(str(path))


class InC:
    """A model in C, stepped as a layer's stepper is."""

    def __init__(self, built, name, output_size):
        self.function, self.size = getattr(built, f"{name}_step"), output_size
        self.state = (ctypes.c_float * 4096)()
        getattr(built, f"{name}_init")(self.state)
        self.reset = lambda: getattr(built, f"{name}_reset")(self.state)

    def __call__(self, *inputs):
        y = np.full(self.size + 1, 77.0, np.float32)
        self.function(self.state, *map(_argument, inputs), _argument(y))
        assert y[-1] == 77.0
        return y[:-1]


def _argument(value):
    if isinstance(value, int):
        return value
    value = np.ascontiguousarray(value, np.float32)
    return value.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def make(cell, X=X, H=H, **options):
    cell = cw.cells.get(cell) if isinstance(cell, str) else cell
    extra = {n: v for n, v in EXTRA_SIZES.items() if n in cell.graph.size_names}
    torch.manual_seed(3)
    return cw.Recurrent(cell, X, H, **{**extra, **options}).eval()


def feeds(layer, steps, seed=1):
    """x and the named inputs, (T, size) each; the named ones are positive."""
    drawn = [
        normal(steps, 1, int(i.size), seed=seed + n, grad=False).float()[:, 0]
        for n, i in enumerate(layer.direction(0).bound.graph.inputs)
    ]
    return [drawn[0], *(v.abs() for v in drawn[1:])]


def in_float64(layer, given):
    """What the layer gives in double precision, by the reference."""
    names = [i.name for i in layer.graphs[0].inputs[1:]]
    named = dict(zip(names, (v[:, None].double() for v in given[1:]), strict=True))
    wide = cw.Recurrent(
        layer.cell, layer.input_size, layer.hidden_size, layer.num_layers,
        engine="reference", dtype=torch.float64,
        learn_initial_state=layer.learn_initial_state, **layer.sizes,
    )  # fmt: skip
    wide.load_state_dict({k: v.double() for k, v in layer.state_dict().items()})
    with torch.no_grad():
        return wide(given[0][:, None].double(), **named)[0][:, 0].numpy()


def error(values, exact):
    return np.abs(np.stack(values) - exact).max() / np.abs(exact).max()


def check(layer, step, steps=50):
    """In C it is as near to float64 as the stepper is, twice at most."""
    given = feeds(layer, steps)
    exact = in_float64(layer, given)
    assert np.isfinite(exact).all()
    assert np.abs(exact).max() > 1e-3
    stepper = layer.stepper()
    names = [i.name for i in layer.graphs[0].inputs[1:]]
    by_stepper = [
        stepper(x[None], **dict(zip(names, (v[None] for v in more), strict=True)))[0]
        for x, *more in zip(*given, strict=True)
    ]
    in_c = [step(*row) for row in zip(*given, strict=True)]
    assert error(in_c, exact) <= 2 * error(by_stepper, exact) + 1e-6


# -- every cell ----------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Every cell in C."""
    folder = tmp_path_factory.mktemp("zoo")
    for name in ZOO:
        cw.export_c(make(name), folder, name=f"one_{name}", self_test=True)
    return folder, library(folder)


@pytest.mark.parametrize("name", ZOO)
def test_every_cell_for_500_steps(zoo, name):
    check(make(name), InC(zoo[1], f"one_{name}", make(name).output_size), 500)


@pytest.mark.parametrize("name", ["lstm", "slstm"])
def test_reset_begins_another_sequence(zoo, name):
    layer = make(name)
    step = InC(zoo[1], f"one_{name}", layer.output_size)
    (x,) = feeds(layer, 5)
    first = [step(row) for row in x]
    step.reset()
    np.testing.assert_array_equal([step(row) for row in x], first)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_wrong_gate_is_noticed(zoo, name):
    """The comparison has teeth: two swapped gates are far outside it."""
    layer = make(name)
    one, other = (layer.cells[0].i, layer.cells[0].f) if name == "lstm" else (
        layer.cells[0].z, layer.cells[0].r)  # fmt: skip
    one.weight.data, other.weight.data = other.weight.data, one.weight.data
    with pytest.raises(AssertionError):
        check(layer, InC(zoo[1], f"one_{name}", layer.output_size))


SINES = {n for n in ZOO if {"sin", "cos"} & {v.op for v in cw.cells.get(n).graph.nodes}}
SAMPLE = ["lstm", "gru", "slstm", "mc_lstm", "layer_norm_lstm", "lstm_projected"]
FEW = [pytest.param(n, marks=() if n in SAMPLE else pytest.mark.full) for n in ZOO]


@pytest.mark.parametrize("name", FEW)
def test_every_cell_in_two_layers(name, tmp_path):
    count = 1 if name == "qrnn" else 2  # a state of the input's size: one layer
    layer = make(name, H=6, num_layers=count)
    check(layer, exported(layer, tmp_path, layer.output_size))


@pytest.mark.parametrize("name", FEW)
def test_nothing_else_is_called(zoo, name, tmp_path):
    for level in ("-O0", "-O3"):
        path = tmp_path / "model.o"
        shell(GCC, *STRICT, level, "-c", zoo[0] / f"one_{name}.c", "-o", path)
        assert shell("nm", "-u", path) == ""


@pytest.mark.parametrize("name", FEW)
def test_sanitizers_find_nothing_and_the_test_program_passes(zoo, name, tmp_path):
    files = [zoo[0] / f"one_{name}{part}.c" for part in ("", "_test")]
    program = tmp_path / "test"
    how = ["-fsanitize=address,undefined", "-fsanitize=float-cast-overflow"]
    how += ["-fno-sanitize-recover=all", "-O1"]
    shell(GCC, *STRICT, *how, *files, "-o", program)
    assert "largest error" in shell(program)


@pytest.mark.skipif(GXX is None, reason="g++ is not installed")
@pytest.mark.parametrize("name", FEW)
def test_it_is_cpp_too(zoo, name, tmp_path):
    how = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-x", "c++"]
    files = [zoo[0] / f"one_{name}{part}.c" for part in ("", "_test")]
    shell(GXX, *how, "-O1", *files, "-o", tmp_path / "test")
    shell(tmp_path / "test")


@pytest.mark.skipif(CLANG is None, reason="clang is not installed")
@pytest.mark.parametrize("name", FEW)
def test_clang_warns_of_nothing(zoo, name, tmp_path):
    files = [zoo[0] / f"one_{name}{part}.c" for part in ("", "_test")]
    shell(CLANG, *STRICT, "-O2", *files, "-o", tmp_path / "test")
    shell(tmp_path / "test")


@pytest.mark.parametrize("name", ["lstm", "slstm"])
def test_the_mathematics_of_the_library_as_an_option(zoo, name, tmp_path):
    files = [zoo[0] / f"one_{name}{part}.c" for part in ("", "_test")]
    option = f"-DONE_{name.upper()}_MATH_H"
    shell(GCC, *STRICT, option, "-O1", "-c", files[0], "-o", tmp_path / "model.o")
    found = set(re.findall(r"U (\w+)", shell("nm", "-u", tmp_path / "model.o")))
    assert "expf" in found
    assert found <= {"expf", "tanhf", "logf"}
    shell(GCC, *STRICT, option, "-O1", *files, "-lm", "-o", tmp_path / "test")
    shell(tmp_path / "test")


def test_loops_of_gates_are_vectorised(zoo, tmp_path):
    """With no word of a vector in the source."""
    how = [GCC, "-std=c99", "-O3", "-S", "-o", "-"]
    text = shell(*how, zoo[0] / "one_lstm.c")
    if "xmm" not in text:
        pytest.skip("not an x86")
    cw.export_c(make("lstm", H=32), tmp_path, name="wide")
    told = subprocess.run(
        [*how[:-2], "-fopt-info-vec", "-o", "/dev/null", str(tmp_path / "wide.c")],
        capture_output=True, text=True,
    ).stderr  # fmt: skip
    source = (tmp_path / "wide.c").read_text().splitlines()
    loops = {source[int(n) - 1] for n in re.findall(r"wide\.c:(\d+):\d+: opt", told)}
    assert "    for (j = 0; j < 32; ++j) {" in loops


# -- the functions -------------------------------------------------------------

EXACT = {
    "exp": np.exp,
    "tanh": np.tanh,
    "sigmoid": lambda v: np.where(
        v < 0, np.exp(-np.abs(v)), 1) / (1 + np.exp(-np.abs(v))),
    "log": np.log,
    "sqrt": np.sqrt,
    "sin": np.sin,
    "cos": np.cos,
}  # fmt: skip


@pytest.fixture(scope="module")
def mathematics(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mathematics")
    code = "".join(
        f"void all_{name}(float *y, const float *x, int n) "
        f"{{ for (int j = 0; j < n; ++j) y[j] = @_{name}(x[j]); }}\n"
        for name in EXACT
    )
    text = "#include <stdint.h>\n" + functions(code) + code
    heads = "".join(f"void all_{n}(float *, const float *, int);\n" for n in EXACT)
    (folder / "all.c").write_text(heads + text.replace("@", "m"))
    return library(folder, "-O3")


@pytest.mark.parametrize("name", EXACT)
def test_functions_are_right_to_4_ulp(mathematics, name):
    """Over floats of every exponent, both signs, subnormal ones too."""
    bits = np.arange(0, 2**32, 4801, dtype=np.uint64).astype(np.uint32)
    edges = np.array([0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000], np.uint32)
    signed = np.concatenate([bits, edges, edges | 0x80000000])
    near = np.linspace(-105, 105, 200_001, dtype=np.float32)
    x = np.concatenate([signed.view(np.float32), near])
    x = x[~np.isnan(x)]
    if name in ("sin", "cos"):
        x = x[np.abs(x) <= 1e6]
    y = np.empty_like(x)
    pointers = [v.ctypes.data_as(ctypes.c_void_p) for v in (y, x)]
    getattr(mathematics, f"all_{name}")(*pointers, len(x))
    with np.errstate(all="ignore"):
        exact = EXACT[name](x.astype(np.float64))
        rounded = exact.astype(np.float32)
        finite = np.isfinite(rounded)
        ulp = np.spacing(np.abs(rounded[finite])).astype(np.float64)
        off = np.abs(y[finite] - exact[finite]) / ulp
    assert off.max() <= 4, (off.max(), x[finite][off.argmax()])
    np.testing.assert_array_equal(y[~finite], rounded[~finite])


@pytest.mark.parametrize("name", EXACT)
def test_functions_of_nan(mathematics, name):
    x, y = np.array([np.nan, -np.nan], np.float32), np.zeros(2, np.float32)
    pointers = [v.ctypes.data_as(ctypes.c_void_p) for v in (y, x)]
    getattr(mathematics, f"all_{name}")(*pointers, 2)
    assert np.isnan(y).all()


def test_every_operation_can_be_written():
    of_derivatives = {"row_dots", "column_dots", "to_matrix", "to_vector"}
    assert {*KNOWN} == PRIMITIVES - of_derivatives


def bare(op):
    """A cell that gives an operation's value of x, or of x and another input."""
    if op.arity == 1:
        return cw.cell(lambda W, x, h: (op(x), 0.5 * h))

    @cw.cell
    def pair(W, x, h, *, other: 1):
        return op(x, other), 0.5 * h

    return pair


def test_every_operation_gives_torchs_values(tmp_path):
    """The derived ones through their definitions; NaN, infinities and ties too."""
    values = [0.0, -0.0, 1.0, -1.0, 3.5, -3.5, 25.0, -25.0, 1e-30, 0.5]
    values += [float("inf"), -float("inf"), float("nan")]
    table = {n: op for n, op in FUNCTIONS.items() if op.arity < 3 and not op.reduces}
    table = {n: op for n, op in table.items() if op.kind != "matrix"}
    for name, op in table.items():
        cw.export_c(cw.Recurrent(bare(op), 1, 1), tmp_path, name=f"op_{name}")
    built = library(tmp_path)
    for name, op in table.items():
        step = InC(built, f"op_{name}", 1)
        for row in itertools.product(values, repeat=op.arity):
            if name in ("sin", "cos") and abs(row[0]) > 1e6:
                continue
            found = step(*(np.array([v], np.float32) for v in row))
            exact = op(*torch.tensor(row, dtype=torch.float64).split(1)).numpy()
            np.testing.assert_allclose(
                found, exact, rtol=1e-6, atol=1e-6, err_msg=f"{name} {row}"
            )


@pytest.mark.parametrize("sign", [">", ">=", "<", "<=", "==", "!="])
def test_every_comparison(tmp_path, sign):
    space = {"cw": cw}
    code = f"lambda W, x, h: (cw.where(x {sign} 1.0, 2.0 + h, -3.0), 0.5 * h)"
    layer = cw.Recurrent(cw.cell(eval(code, space)), 1, 1)
    step = exported(layer, tmp_path, 1)
    for value in (0.0, 1.0, 2.0, float("inf"), float("nan")):
        right = eval(f"value {sign} 1.0", {"value": value})
        assert step(np.array([value])) == (2.0 if right else -3.0)


@settings(
    max_examples=8, suppress_health_check=[*HealthCheck], deadline=None, database=None
)
@given(st.data())
def test_random_cells(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("random")
    layer = make(make_cell(data.draw(sources())), INPUT, HIDDEN)
    cw.export_c(layer, folder, name="drawn")
    step = InC(library(folder), "drawn", layer.output_size)
    given = feeds(layer, 4)
    exact = in_float64(layer, given)
    found = np.stack([step(*row) for row in zip(*given, strict=True)])
    scale = np.abs(exact).max() + 1
    assert np.abs(found - exact).max() <= 1e-4 * scale


# -- layers --------------------------------------------------------------------


def exported(model, folder, output_size, name="model", **options):
    cw.export_c(model, folder, name=name, **options)
    return InC(library(folder), name, output_size)


def test_a_users_cell_of_several_sizes_with_names_that_c_has(tmp_path):
    @cw.cell
    def mine(W, x, int: "small", y, α=0.5, *, v5: 1, y_0: 1, y_gain=0.25):  # noqa: F821
        s = cw.tanh(W.static(int, x, size="small")) * v5 / (1 + y_0)
        y = cw.sigmoid(W.register(y, s)) + y_gain * W.scalar("a", init=0.5)
        return y, s, y, α * 0.9 + 0.1 * cw.sum(s)

    layer = cw.Recurrent(mine, 3, 6, small=4, y_gain=0.5).eval()
    check(layer, exported(layer, tmp_path, layer.output_size))


def test_the_self_test_of_a_map_of_weights_of_one_unit(tmp_path):
    @cw.cell
    def mapped(W, x, h):
        return cw.tanh(W.g(W.vector("v", size=1), 2 * W.scalar("a", init=0.5), x, h))

    files = cw.export_c(cw.Recurrent(mapped, X, H), tmp_path, self_test=True)
    shell(GCC, *STRICT, *files[1:], "-o", tmp_path / "test")
    shell(tmp_path / "test")


def test_states_may_change_places(tmp_path):
    @cw.cell
    def swap(W, x, a, b, c=1.0):
        return c * b + W.h(x), b, a, c * 0.5

    layer = cw.Recurrent(swap, 3, 40)
    check(layer, exported(layer, tmp_path, 40), 8)
    assert shell("nm", "-u", _object(tmp_path, "-O3")) == ""


def _object(folder, level):
    shell(GCC, *STRICT, level, "-c", folder / "model.c", "-o", folder / "model.o")
    return folder / "model.o"


@pytest.mark.parametrize(
    "options",
    [{"heads": 3, "exponential_forget": True}, {"learn_initial_state": True}],
    ids=["heads", "initial"],
)
def test_blocks_and_learned_initial_states(tmp_path, options):
    layer = make("slstm", H=6, **options)
    for states in layer.initial_states or ():
        for value in states.values():
            nn.init.uniform_(value, 0.5, 1.5)
    check(layer, exported(layer, tmp_path, 6))


def test_made_weights_are_written_as_they_are_made(tmp_path):
    layer = make("lstm")
    prune.l1_unstructured(layer.cells[0].f, "weight", amount=0.5)
    parametrizations.weight_norm(layer.cells[0].g)
    step = exported(layer, tmp_path, H)
    stepper = layer.stepper()
    for x in feeds(layer, 20)[0]:
        np.testing.assert_allclose(step(x), stepper(x), atol=2e-6)


def test_evaluation_is_meant(tmp_path):
    """Zoneout by its expectation, no dropout: also of a layer in training."""
    layer = make("lstm", zoneout={"h": 0.3}, recurrent_dropout=0.2).train()
    step = exported(layer, tmp_path, H)
    stepper = layer.eval().stepper()
    for x in feeds(layer, 20)[0]:
        np.testing.assert_allclose(step(x), stepper(x), atol=2e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("of", [cw, nn], ids=["drop-in", "torch"])
def test_drop_ins_and_torchs_own(tmp_path, kind, of):
    layer = getattr(of, kind)(X, H, 2)
    step = exported(layer, tmp_path, H)
    x = normal(20, X, seed=1, grad=False).float()
    with torch.no_grad():
        expected = layer(x)[0].numpy()
    np.testing.assert_allclose([step(row) for row in x], expected, atol=2e-6)


def test_float64_becomes_float32_and_a_stepper_serves(tmp_path):
    layer = make("gru", dtype=torch.float64)
    step, stepper = exported(layer.stepper(), tmp_path, H), layer.stepper()
    for x in feeds(layer, 20)[0]:
        np.testing.assert_allclose(step(x), stepper(x.double()), atol=2e-6)


def test_layers_in_a_row(tmp_path):
    first, second = make("lstm", X, 8), make("mc_lstm", 8, 6)
    end = nn.Linear(6, 3)
    model = nn.Sequential(first, nn.Dropout(0.5), second, end, nn.Tanh())
    step = exported(model, tmp_path, 3, self_test=True)
    steppers = first.stepper(), second.stepper()
    x, mass = feeds(first, 20)[0], torch.rand(20, 1)
    for row, m in zip(x, mass, strict=True):
        with torch.no_grad():
            y = end(steppers[1](steppers[0](row), mass=m)).tanh()
        np.testing.assert_allclose(step(row, m), y, atol=2e-6)


def test_one_layer_of_one_unit(tmp_path):
    layer = make("lstm", 1, 1)
    check(layer, exported(layer, tmp_path, 1))


# -- language models, and the pages --------------------------------------------

SMALL = ["--hidden", "12", "--embedding", "8", "--batch", "4", "--window", "16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    text = "".join(f'the \u00fcber king {k} of rose\nsaid "why?"\n' for k in range(200))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    how = [*SMALL, "--layers", "2", "--steps", "40"]
    command("train", folder / "text.txt", "--out", folder / "small", *how)
    return folder / "small"


def command(*arguments, ok=True):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert (done.exit_code == 0) == ok, done.output
    return done.stdout if ok else done.stderr


def test_a_run_in_c_predicts_and_generates(run, tmp_path):
    told = command("export", run, "-o", tmp_path, "--to", "c", "--self-test")
    names = ["small.h", "small.c", "small_test.c", "small_main.c"]
    assert told.split() == [str(tmp_path / name) for name in names]
    files = [tmp_path / name for name in names]
    shell(GCC, *STRICT, "-O1", files[1], files[2], "-o", tmp_path / "test")
    shell(tmp_path / "test")
    shell(
        GCC, "-O1", "-Wall", "-Werror", files[1], files[3], "-lm", "-o", tmp_path / "a"
    )
    likeliest = command(
        "generate", run, "--prompt", "the über", "--length", "60", "--temperature", "0"
    )
    assert shell(tmp_path / "a", "the über", "60", "0") == likeliest
    drawn = shell(tmp_path / "a", "", "60", "1.0", "7")
    assert len(drawn.strip("\n")) >= 50
    assert drawn != shell(tmp_path / "a", "", "60", "1.0", "8")


@pytest.mark.parametrize("tie", [False, True])
def test_a_tied_matrix_is_written_once(tmp_path, tie):
    torch.manual_seed(3)
    model = LanguageModel(
        cw.cells.lstm, ModelSizes(vocabulary=31, embedding=12, hidden=12, tie=tie)
    ).eval()
    step = exported(model, tmp_path, 31, self_test=True)
    tokens = torch.randint(31, (20, 1))
    with torch.no_grad():
        expected = model(tokens)[0][:, 0].numpy()
    np.testing.assert_allclose(
        [step(token) for token in tokens.flatten().tolist()], expected, atol=2e-6
    )
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert f"Weights: {4 * numbers} bytes" in (tmp_path / "model.h").read_text()
    files = [tmp_path / name for name in ("model.c", "model_test.c")]
    shell(GCC, *STRICT, "-O1", *files, "-o", tmp_path / "test")
    shell(tmp_path / "test")


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    tokenizer = TextTokenizer.learn("char", ["abc"])
    model = nn.Sequential(nn.Embedding(7, X), cw.GRU(X, H))
    with pytest.raises(cw.ArgumentError, match="received 4 tokens, expected the 7"):
        cw.export_c(model, tmp_path, tokenizer=tokenizer)
    with pytest.raises(cw.ArgumentError, match="a model that reads numbers"):
        cw.export_c(cw.GRU(X, H), tmp_path, tokenizer=tokenizer)


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_the_bytes_of_tokens_are_the_text(kind):
    text = "the über king\tsaid: why?\n\n" * 30
    tokenizer = TextTokenizer.learn(kind, [text], 300)
    pieces = tokenizer.pieces()
    assert b"".join(pieces[n] for n in tokenizer.encode(text)).decode() == text


def test_a_run_in_onnx(run, tmp_path):
    pytest.importorskip("onnx")
    told = command("export", run, "-o", tmp_path, "--to", "onnx", "--name", "rnn")
    assert told.split() == [str(tmp_path / "rnn.onnx")]
    assert (tmp_path / "rnn.onnx").stat().st_size > 1000
    words = ["export", run, "-o", tmp_path, "--to", "onnx", "--self-test"]
    assert "--to c" in command(*words, ok=False)


def test_the_help_shows_the_three_ways():
    told = command("export", "--help")
    for words in (
        "ONNX Runtime", "--to onnx", "onnxruntime.InferenceSession", "A C program",
        "--to c", "demo_main.c", "Arduino", "demo_step", "--self-test", "--step",
    ):  # fmt: skip
        assert words in told


PAGE = Path(__file__).parents[1] / "docs" / "deploy.md"


def blocks(language):
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert all(len(block.splitlines()) < 20 for block in found)
    return found


@pytest.mark.full
def test_the_page_generates_text_in_onnx_runtime(run, tmp_path, monkeypatch, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    command("export", run, "-o", "deploy", "--to", "onnx", "--name", "demo")
    generate = blocks("python")[0]
    known = {}
    exec(generate, known)
    assert len(known["text"]) == 400
    assert capsys.readouterr().out.rstrip("\n") == known["tokenizer"].decode(
        known["text"]
    ).rstrip("\n")
    coldest = generate.replace("/ 0.7", "/ 1e-6").replace("def ", "the über")
    exec(coldest.replace("400", "60"), known)
    words = ["generate", run, "--prompt", "the über", "--length", "60"]
    likeliest = command(*words, "--temperature", "0")
    assert "the über" + capsys.readouterr().out == likeliest


def test_the_page_deploys_a_run_in_c(run, tmp_path):
    _, script = (block.splitlines() for block in blocks("sh"))
    export, folder, *rest = script
    words = export.split()
    assert words[:3] == ["cellwright", "export", "runs/demo"]
    command("export", run, "-o", tmp_path / "deploy", *words[5:])
    assert folder == "cd deploy"
    script = "\n".join(["set -e", *rest])
    told = shell("bash", "-c", script, cwd=tmp_path / "deploy")
    assert "largest error" in told
    assert len(told) > 400
    (tmp_path / "deploy" / "own.c").write_text(blocks("c")[0])
    shell(GCC, *STRICT, "-c", "own.c", cwd=tmp_path / "deploy")


def test_the_page_deploys_a_layer_that_attends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(blocks("python")[-1], {"cw": cw})
    (tmp_path / "deploy" / "own.c").write_text(blocks("c")[1])
    shell(GCC, *STRICT, "-c", "own.c", "reader.c", cwd=tmp_path / "deploy")
    assert "State: 8100 bytes" in (tmp_path / "deploy" / "reader.h").read_text()


ARDUINO = """
const int A0 = 0;
int analogRead(int pin);
struct Port {
    void begin(int rate);
    void println(float value);
    void write(const char *text, int length);
};
static Port Serial;
%s
int analogRead(int) { static int calls = 0; return 100 * ++calls %% 1024; }
extern "C" int main() { setup(); for (int k = 0; k < 40; ++k) loop(); return 0; }
"""
ON_A_PC = """
#include <cstdio>
void Port::begin(int) {}
void Port::println(float value) { printf("%.6f\\n", (double)value); }
void Port::write(const char *text, int length) { fwrite(text, 1, length, stdout); }
"""


@pytest.mark.skipif(GXX is None, reason="g++ is not installed")
def test_the_pages_sketch_of_a_run(run, tmp_path):
    command("export", run, "-o", tmp_path, "--to", "c", "--name", "demo")
    (tmp_path / "sketch.cpp").write_text(ARDUINO % blocks("cpp")[0] + ON_A_PC)
    shell(GCC, *STRICT, "-O1", "-c", "demo.c", cwd=tmp_path)
    shell(GXX, "-Wall", "sketch.cpp", "demo.o", "-o", "sketch", cwd=tmp_path)
    told = shell(tmp_path / "sketch")
    how = ["--length", "40", "--temperature", "0"]
    assert f"{told}\n" == command("generate", run, *how)


@pytest.mark.skipif(GXX is None, reason="g++ is not installed")
def test_the_pages_sketch_of_a_layer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = {}
    exec(blocks("python")[-2], known)
    (tmp_path / "deploy" / "sketch.cpp").write_text(
        ARDUINO % blocks("cpp")[1] + ON_A_PC
    )
    sources = ["-x", "c", "amp.c", "-x", "c++", "sketch.cpp"]
    shell(GXX, "-O1", *sources, "-o", "sketch", cwd=tmp_path / "deploy")
    found = [float(line) for line in shell("deploy/sketch").split()]
    x = torch.tensor([100.0 * k % 1024 / 512 - 1 for k in range(1, 41)])
    with torch.no_grad():
        expected = known["head"](known["lstm"](x[:, None])[0])[:, 0]
    np.testing.assert_allclose(found, expected, atol=2e-6)


# -- other processors ----------------------------------------------------------

ARM, QEMU = map(shutil.which, ("arm-none-eabi-gcc", "qemu-system-arm"))
CORTEX_M4 = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"]
START = """
extern int main(void);
extern unsigned _estack;
void begin(void);
__attribute__((section(".vectors"), used)) void *vectors[2] = {(void *)&_estack, begin};
static void leave(int code) {
    int block[2] = {0x20026, code}; /* ADP_Stopped_ApplicationExit */
    register int how __asm__("r0") = 0x20;
    register int *what __asm__("r1") = block;
    __asm__ volatile("bkpt 0xab" : : "r"(how), "r"(what) : "memory");
}
void begin(void) {
    *(volatile unsigned *)0xE000ED88 |= 0xFu << 20; /* the floating-point unit */
    leave(main());
}
"""
PLACES = """
MEMORY { flash : ORIGIN = 0, LENGTH = 4M  ram : ORIGIN = 0x20000000, LENGTH = 4M }
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > flash
  .bss : { *(.bss*) *(COMMON) *(.data*) } > ram
  _estack = 0x20000000 + 0x100000;
}
"""


def on_a_board(folder, *sources, compiler=ARM):
    """Links and runs a program: what it writes."""
    files = {"start.c": START, "places.ld": PLACES}
    for name, text in files.items():
        (folder / name).write_text(text)
    shell(ARM, "-Os", *CORTEX_M4, "-c", "start.c", cwd=folder)
    how = ["-Os", *CORTEX_M4, "-nostdlib", "-ffreestanding", "-T", "places.ld"]
    what = [*sources, "start.o", "-lgcc", "-o", "program.elf"]
    shell(compiler, *how, *what, cwd=folder)
    machine = ["-M", "mps2-an386", "-display", "none", "-monitor", "none"]
    machine += ["-chardev", "stdio,id=out"]
    machine += ["-semihosting-config", "enable=on,target=native,chardev=out"]
    return shell(QEMU, *machine, "-kernel", folder / "program.elf", timeout=600)


@pytest.mark.skipif(ARM is None, reason="arm-none-eabi-gcc is not installed")
@pytest.mark.parametrize("name", FEW)
def test_a_cortex_m4(zoo, name, tmp_path):
    path = tmp_path / "model.o"
    how = [*STRICT, "-Os", "-ffreestanding", *CORTEX_M4]
    shell(ARM, *how, "-c", zoo[0] / f"one_{name}.c", "-o", path)
    calls = {
        line.split()[-1]
        for line in shell(ARM.replace("gcc", "nm"), "-u", path).split("\n")
        if line
    }
    # sin and cos reduce their angle in double precision, which is the compiler's here.
    assert all(c.startswith("__aeabi_") and name in SINES for c in calls)
    sections = shell(ARM.replace("gcc", "size"), "-A", path)
    code = sum(int(n) for n in re.findall(r"^\.text\S*\s+(\d+)", sections, re.M))
    assert code <= 8192
    if QEMU is None:
        pytest.skip("qemu-system-arm is not installed")
    test = (zoo[0] / f"one_{name}_test.c").read_text()
    test = re.sub(r"#include <stdio.h>|    printf.*\n", "", test)
    (tmp_path / "test.c").write_text(test)
    on_a_board(tmp_path, f"-I{zoo[0]}", path, "test.c")


ON_A_BOARD = """
void Port::begin(int) {}
void Port::write(const char *text, int length) {
    for (; length > 0; --length, ++text) {
        register int how __asm__("r0") = 3; /* SYS_WRITEC */
        register const char *what __asm__("r1") = text;
        __asm__ volatile("bkpt 0xab" : "+r"(how) : "r"(what) : "memory");
    }
}
"""


@pytest.mark.skipif(not (ARM and QEMU), reason="a compiler or QEMU is not installed")
def test_the_pages_sketch_on_a_cortex_m4(run, tmp_path):
    command("export", run, "-o", tmp_path, "--to", "c", "--name", "demo")
    (tmp_path / "sketch.cpp").write_text(ARDUINO % blocks("cpp")[0] + ON_A_BOARD)
    shell(
        ARM, *STRICT, "-Os", "-ffreestanding", *CORTEX_M4, "-c", "demo.c", cwd=tmp_path
    )
    cpp = ARM.replace("gcc", "g++")
    how = ["-std=gnu++14", "-fno-exceptions", "-fno-threadsafe-statics"]
    told = on_a_board(tmp_path, *how, "sketch.cpp", "demo.o", compiler=cpp)
    how = ["--length", "40", "--temperature", "0"]
    assert f"{told}\n" == command("generate", run, *how)


WASM = CLANG and shutil.which("wasm-ld") and shutil.which("node")


@pytest.mark.skipif(not WASM, reason="clang, wasm-ld or node is not installed")
@pytest.mark.parametrize("name", FEW)
def test_webassembly(zoo, name, tmp_path):
    test = (zoo[0] / f"one_{name}_test.c").read_text()
    test = re.sub(r"#include <stdio.h>|    printf.*\n", "", test).replace(
        "main", "check"
    )
    (tmp_path / "test.c").write_text(test)
    files = [zoo[0] / f"one_{name}.c", tmp_path / "test.c"]
    how = ["--target=wasm32", "-O2", "-nostdlib", f"-I{zoo[0]}", "-Wl,--no-entry"]
    how += ["-Wl,--export=check", "-fno-builtin"]
    shell(CLANG, *how, *files, "-o", tmp_path / "test.wasm")
    program = (
        "WebAssembly.instantiate(require('fs').readFileSync(process.argv[1]))"
        ".then(({instance}) => process.exit(instance.exports.check()))"
    )
    shell("node", "-e", program, tmp_path / "test.wasm")


# -- what is written -----------------------------------------------------------


def test_the_header_says_what_it_is(tmp_path):
    layer = make("lstm")
    files = cw.export_c(nn.Sequential(layer, nn.Linear(H, 2)), tmp_path, name="amp")
    assert [f.name for f in files] == ["amp.h", "amp.c"]
    text = files[0].read_text()
    products = 4 * H * (H + X) + 2 * H
    assert f"A step: {products} multiply-adds" in text
    assert f"Weights: {4 * (products + 4 * H + 2)} bytes" in text
    assert f"State: {8 * H} bytes" in text
    assert f"cellwright {cw.__version__}" in text
    for line in layer.cell.equations:
        assert line in text
    assert "#define AMP_INPUT_SIZE 5" in text
    assert "void amp_step(amp_state *state, const float *x, float *y);" in text


def test_numbers_are_written_exactly():
    for value in (0.1, -3e-42, 1e38, 7.0, -0.0, 16777216.0):
        text = literal(value).strip("()").rstrip("f")
        assert np.float32(text) == np.float32(value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (cw.TreeRecurrent("binary_lstm", 3, 4), "expected a layer over sequences"),
        (cw.Recurrent("lstm", 3, 4, bidirectional=True), "reads the end"),
        (nn.Sequential(nn.Linear(3, 4)), "no recurrent layer"),
        (nn.Sequential(cw.GRU(3, 4), nn.Linear(5, 2)), "gives 4 values"),
        (nn.Sequential(cw.GRU(3, 4), nn.Conv1d(1, 1, 1)), "received Conv1d"),
    ],
    ids=["trees", "directions", "nothing", "sizes", "kinds"],
)
def test_what_cannot_be_written_is_refused(tmp_path, model, message):
    with pytest.raises(cw.ArgumentError, match=message):
        cw.export_c(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    layer = randomise(make("gru"))
    with torch.no_grad():
        layer.cells[0].z.weight[0, 0] = torch.inf
    with pytest.raises(cw.ArgumentError, match="no finite number"):
        cw.export_c(layer, tmp_path)


class Tripled(nn.Linear):
    def forward(self, input):
        return 3 * super().forward(input)


class Scaled(cw.Recurrent):
    def forward(self, *arguments, **options):
        y, state = super().forward(*arguments, **options)
        return 2 * y, state


class InARow(nn.Sequential):
    def forward(self, input):
        return self[1](self[0](input)[0].relu())


class OwnLanguageModel(LanguageModel):
    def forward(self, *arguments, **options):
        logits, *more = super().forward(*arguments, **options)
        return logits.log_softmax(-1), *more


class OfTheSameNames(nn.Module):
    """A user's model, whose parts are called as a language model's."""

    def __init__(self):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(7, X), cw.GRU(X, H)
        self.head = nn.Linear(H, 7)

    def forward(self, tokens):
        return self.head(self.rnn(self.embed(tokens))[0].relu())


def with_hook(module):
    module.register_forward_hook(lambda module, given, found: found)
    return module


def own_forward(module):
    module.forward = module.forward
    return module


SMALL_MODEL = ModelSizes(vocabulary=7, embedding=X, hidden=H)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(cw.GRU(X, H), Tripled(H, 2)),
        nn.Sequential(cw.GRU(X, H), with_hook(nn.Linear(H, 2))),
        nn.Sequential(cw.GRU(X, H), own_forward(nn.Linear(H, 2))),
        nn.Sequential(cw.GRU(X, H), with_hook(nn.Tanh())),
        nn.Sequential(with_hook(nn.Embedding(7, X)), cw.GRU(X, H)),
        with_hook(nn.Sequential(cw.GRU(X, H))),
        with_hook(cw.Recurrent("gru", X, H)),
        with_hook(nn.GRU(X, H)),
        Scaled("gru", X, H),
        InARow(cw.GRU(X, H), nn.Linear(H, 2)),
        OfTheSameNames(),
        OwnLanguageModel(cw.cells.lstm, SMALL_MODEL),
        with_hook(LanguageModel(cw.cells.lstm, SMALL_MODEL)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_a_user_computes_himself_is_refused(tmp_path, model):
    """C would leave it out."""
    with pytest.raises(cw.ArgumentError, match="calls nothing of yours"):
        cw.export_c(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_embedding_that_shortens_its_rows_is_refused(tmp_path):
    model = nn.Sequential(nn.Embedding(7, X, max_norm=0.5), cw.GRU(X, H))
    with pytest.raises(cw.ArgumentError, match=r"max_norm=0\.5, expected none"):
        cw.export_c(model, tmp_path)
    model[0](torch.arange(7))
    model[0].max_norm = None
    cw.export_c(model, tmp_path)


def test_made_weights_around_a_layer_are_made_anew(tmp_path):
    """They were made of what the parameters were at their last call."""
    torch.manual_seed(3)
    embedding, layer, head = nn.Embedding(7, X), cw.GRU(X, H), nn.Linear(H, 3)
    prune.l1_unstructured(embedding, "weight", amount=0.5)
    prune.l1_unstructured(head, "weight", amount=0.5)
    parametrizations.weight_norm(head, "bias", dim=None)
    with torch.no_grad():
        embedding.weight_orig.mul_(2)
        head.weight_orig.mul_(-1)
    model = nn.Sequential(embedding, layer, head)
    step = exported(model, tmp_path, 3)
    tokens = torch.randint(7, (20, 1))
    with torch.no_grad():
        expected = head(layer(embedding(tokens))[0])[:, 0].numpy()
    found = [step(token) for token in tokens.flatten().tolist()]
    np.testing.assert_allclose(found, expected, atol=2e-6)


@cw.cell
def two_sigmas(W, x, Σ, σ=0.5):
    return cw.tanh(W.a(Σ, x)), 0.5 * σ + W.b(x)


@cw.cell
def words_of_c(W, x, int_, int=0.5):
    return cw.tanh(W.a(int_, x)), 0.5 * int + W.b(x)


@cw.cell
def a_state_called_result(W, x, b: 1 = 0.2, result: 1 = 0.7):
    return cw.sum(W.x(x)) * 0.1 + b - result, result, b


@pytest.mark.parametrize(
    "cell", [two_sigmas, words_of_c, a_state_called_result], ids=lambda c: c.name
)
def test_states_whose_names_are_alike_in_c(tmp_path, cell):
    layer = cw.Recurrent(cell, X, H)
    check(layer, exported(layer, tmp_path, layer.output_size))


def test_inputs_whose_names_are_alike_in_c_are_refused(tmp_path):
    @cw.cell
    def times(W, x, h, *, dt: 1, DT: 1):
        return cw.tanh(W.g(h, x)) * dt + DT

    layer = cw.Recurrent(times, X, H)
    with pytest.raises(cw.ArgumentError, match="one word for two inputs"):
        cw.export_c(layer, tmp_path)


@pytest.mark.parametrize("name", ["", "2nd", "a-b", "while", "name\n"])
def test_names_that_are_none_in_c_are_refused(tmp_path, name):
    with pytest.raises(cw.ArgumentError, match="prefix of every name"):
        cw.export_c(make("gru"), tmp_path, name=name)


def test_a_gate_with_hooks_is_refused(tmp_path):
    layer = make("gru")
    layer.cells[0].z.register_forward_hook(lambda *_: None)
    with pytest.raises(cw.ArgumentError, match="a gate is called at every step"):
        cw.export_c(layer, tmp_path)
