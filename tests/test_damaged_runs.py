"""Whatever happens to a run's files: one line says what is wrong, nothing is lost.

Every mutation of a small run goes through every command that reads runs.
"""

import hashlib
import json
import os
import random
import shutil

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cellwright.cli import app
from cellwright.text.job import evaluate_held_out
from cellwright.text.model import NextToken
from cellwright.text.run import Run
from test_cli import small_text, words

OPTIONS = words(
    "--cell lstm --hidden 8 --embedding 4 --batch 4 --window 8 --steps 3 --log-every 1 "
    "--validate-every 1 --checkpoint-every 1"
)
COMMANDS = {
    "evaluate": ("evaluate", "DIR", "--json"),
    "generate": ("generate", "DIR", "--length", 3),
    "info": ("info", "DIR"),
    "inspect": ("inspect", "DIR", "--report", "OUT.html", "--steps", 4),
    "draw": ("draw", "DIR", "--out", "OUT.svg"),
    "draw --steps": ("draw", "DIR", "--out", "OUT.svg", "--steps", "--at", 3),
    "resume": ("train", "--resume", "--out", "DIR"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was stopped at step 2 of 3, with a last checkpoint and a best one."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "text.txt").write_text(small_text()[:2000])
    objective, run = NextToken.__call__, folder / "run"

    def stopped(self, model, batch, state, step):
        if step == 2:
            raise KeyboardInterrupt
        return objective(self, model, batch, state, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NextToken, "__call__", stopped)
        code, errors = invoke(
            "train", folder / "text.txt", "--out", run, *OPTIONS, code=130
        )
    assert (code, errors) == (130, "")
    evaluate_held_out(Run(run))  # which keeps result.json
    return run


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "place" / "run")


def invoke(*arguments, code=None):
    """The status and standard error of a command; a traceback is raised."""
    AcceleratorState._reset_state(reset_partial_state=False)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if code is not None:
        assert result.exit_code == code, result.output
    return result.exit_code, result.stderr


def files_of(directory):
    """Every file, link and pipe, but for the lock: what it is, and its bytes."""
    found = {}
    for folder, folders, names in os.walk(directory):
        for name in [*names, *folders]:
            path = os.path.join(folder, name)
            if name == ".lock":
                continue
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif os.path.isfile(path) and os.access(path, os.R_OK):
                with open(path, "rb") as file:
                    found[path] = file.read()
            else:
                found[path] = os.stat(path).st_mode
    return found


def told(run, name):
    """What a command says of a run: its error, or None. Nothing may have changed."""
    before = files_of(run.parent)
    places = {
        "DIR": run,
        "OUT.html": run.parent / "o.html",
        "OUT.svg": run / "../o.svg",
    }
    code, errors = invoke(*(places.get(a, a) for a in COMMANDS[name]))
    for place in run.parent.glob("o*"):
        place.unlink()
    if code == 0:
        return None
    assert code in (1, 2)
    assert errors.startswith("error: [")
    assert errors.count("\n") == 1, errors
    assert files_of(run.parent) == before, errors
    return errors


# -- mutations -----------------------------------------------------------------------


def newest(run):
    return run / "checkpoints" / "step-00000002"


def sign(run):
    """Record the hashes of the newest checkpoint anew, as one who forges it would."""
    path = newest(run)
    manifest = path / "checkpoint.json"
    content = json.loads(manifest.read_text())
    for name in content["files"]:
        data = (path / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        content["files"][name] = {"bytes": len(data), "sha256": digest}
    manifest.write_text(json.dumps(content))
    point(run)


def point(run):
    for pointer in ("last", "best"):
        place = run / "checkpoints" / f"{pointer}.json"
        content = json.loads(place.read_text())
        data = (newest(run) / "checkpoint.json").read_bytes()
        content["sha256"] = hashlib.sha256(data).hexdigest()
        place.write_text(json.dumps(content))


def put(name, *path):
    """A mutation: the last of `path` is the value of the field that the others name."""

    def mutate(run):
        *keys, last, value = path
        content = json.loads((run / name).read_text())
        place = content
        for key in keys:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value
        (run / name).write_text(json.dumps(content))

    return mutate


def weights(change):
    def mutate(run):
        path = newest(run) / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        sign(run)

    return mutate


def forged(*path):
    def mutate(run):
        put("checkpoints/step-00000002/checkpoint.json", *path)(run)
        point(run)

    return mutate


def without(name):
    """A checkpoint whose progress lacks a field."""

    def mutate(run):
        path = newest(run) / "checkpoint.json"
        content = json.loads(path.read_text())
        progress = dict(content["training"]["dict"])["progress"]
        progress["dict"] = [[k, v] for k, v in progress["dict"] if k != name]
        path.write_text(json.dumps(content))
        point(run)

    return mutate


def replaced(name, how):
    def mutate(run):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        how(path)

    return mutate


def link(target):
    return lambda path: path.symlink_to(target)


def tokens(name):
    return lambda run: (run / name).write_bytes(
        b"\xff\xff" + (run / name).read_bytes()[2:]
    )


CONFIG, LAST, STEP = "config.json", "checkpoints/last.json", "checkpoints/step-00000002"
MODEL = f"{STEP}/model.safetensors"
READERS = ("evaluate", "generate", "inspect", "draw --steps", "resume")
ALL, FEW = tuple(COMMANDS), ("info", "resume")
WEIGHED = (*READERS, "info")
TEXT = ("evaluate", "inspect", "draw --steps", "resume")

TABLE = [
    # config.json: types, ranges, keys
    (put(CONFIG, "model", "hidden", 10**6), "model.hidden] received 1000000", ALL),
    (put(CONFIG, "model", "vocabulary", 10**10), "model.vocabulary] received", ALL),
    (put(CONFIG, "model", "layers", 10**6), "model.layers] received 1000000", ALL),
    (put(CONFIG, "model", "hidden", 65536), "expected (65536, ", WEIGHED),
    (put(CONFIG, "model", "layers", 1000), "received 1000, expected fewer", WEIGHED),
    (put(CONFIG, "model", "layers", 2), "cells.1.f.weight] the checkpoint", WEIGHED),
    (put(CONFIG, "model", "vocabulary", 10**7), "the model's 10000000", WEIGHED),
    (put(CONFIG, "model", "hidden", None), "received None, expected a valid int", FEW),
    (put(CONFIG, "model", "hidden", "8"), "received '8', expected a valid int", FEW),
    (put(CONFIG, "model", "hidden", True), "received True, expected a valid", FEW),
    (put(CONFIG, "model", "hidden", 8.5), "received 8.5, expected", FEW),
    (put(CONFIG, "model", "hidden", ...), "config.json, model.hidden] is missing", ALL),
    (put(CONFIG, "model", "dropout", float("nan")), "expected a finite number", FEW),
    (put(CONFIG, "model", "zoneout", {"h": 2.0}), "zoneout.h] received 2.0", FEW),
    (put(CONFIG, "model", "zoneout", {"q": 0.1}), "has no state 'q'", WEIGHED),
    (put(CONFIG, "settings", "lr", float("inf")), "settings.lr] received inf", FEW),
    (put(CONFIG, "settings", "hiden", 3), "no field that cellwright writes", FEW),
    (put(CONFIG, "settings", "seed", 2**64), "settings.seed] received", FEW),
    (put(CONFIG, "settings", "forcing", "exponential:0"), "settings.forcing] rec", FEW),
    (put(CONFIG, "settings", "minutes", 1.0), "settings] received both minutes", FEW),
    (put(CONFIG, "settings", "tokenizer", "word"), "expected word, that is", WEIGHED),
    (put(CONFIG, "settings", "window", None), "a window of None, exp", ["resume"]),
    (put(CONFIG, "settings", []), "settings] received [], expected an object", FEW),
    (put(CONFIG, "sources", [1]), "sources.0] received 1", FEW),
    (put(CONFIG, "text", "characters", -1), "text.characters] received -1", FEW),
    (put(CONFIG, "train", "path", "../../text.txt"), "train.path] received '../", FEW),
    (put(CONFIG, "train", "dtype", "O"), "train.dtype] received 'O'", FEW),
    (put(CONFIG, "held_out", "count", 10**12), "held-out.tokens] is not whole", TEXT),
    # the other files
    (put("plan.json", "steps", 0), "plan.json, steps] received 0", ("info", "resume")),
    (put("plan.json", "steps", 9), "received 9, expected the settings' 3", ["resume"]),
    (put("result.json", "tokens", -1), "result.json, tokens] received -1", ["info"]),
    (put("tokenizer.json", "model", "vocab", "t", 10**9), "with gaps", WEIGHED),
    (put("tokenizer.json", "model", "vocab", "t", ...), "with gaps", WEIGHED),
    (put("tokenizer.json", "model", "vocab", "zz", 22), "is of another run", WEIGHED),
    (tokens("held-out.tokens"), "received a token 65535", TEXT),
    (tokens("train.tokens"), "received a token 65535, expected less", ["resume"]),
    # the checkpoint
    (put(LAST, "checkpoint", "../../.."), "checkpoint] received '../../..'", ["info"]),
    (put(LAST, "checkpoint", f"{STEP}/"), "last.json, checkpoint] received", ["info"]),
    (put(LAST, "sha256", 3), "last.json, sha256] received 3", ["info", "resume"]),
    (forged("step", -1), "checkpoint.json, step] received -1", WEIGHED),
    (forged("files", "x", {}), "checkpoint.json, files", WEIGHED),
    (forged("files", "model.safetensors", "bytes", 10**15), "was cut short", WEIGHED),
    (forged("training", {"tuple": 3}), "training] is not what", READERS),
    (forged("training", {"tensor": "x"}), "training] is not what", READERS),
    (without("step"), "training.progress, step] is missing", ["resume"]),
    (without("best"), "training.progress, best] is missing", ["resume"]),
    (weights(lambda w: w["head.bias"].fill_(torch.nan)), "received NaN", READERS),
    (weights(lambda w: w["head.bias"].fill_(torch.inf)), "or infinity", READERS),
    (weights(lambda w: w.pop("head.bias")), "no such weight, expected (", WEIGHED),
    (weights(lambda w: w.update(more=torch.ones(1))), "more] the checkp", WEIGHED),
    (
        weights(lambda w: w.update({"head.bias": w["head.bias"].double()})),
        "received torch.float64, expected torch.float32",
        READERS,
    ),
    # links and special files
    (replaced(CONFIG, link("nowhere")), "config.json] cannot be read: No such", ALL),
    (replaced(CONFIG, link("config.json")), "Too many levels", ALL),
    (replaced(CONFIG, link("/dev/zero")), "is a device, expected a file", ALL),
    (replaced(CONFIG, os.mkfifo), "is a pipe, expected a file", ALL),
    (replaced(CONFIG, os.mkdir), "is a folder, expected a file", ALL),
    (replaced("cell.txt", link("/etc/hostname")), "is a link out of", ALL),
    (replaced("cell.txt", os.mkfifo), "is a pipe, expected a file", ALL),
    (replaced("tokenizer.json", os.mkfifo), "is a pipe, expected a file", WEIGHED),
    (replaced("plan.json", link("nowhere")), "No such file", ("info", "resume")),
    (replaced("metrics.jsonl", os.mkfifo), "is a pipe", ["resume"]),
    (replaced("metrics.jsonl", link("/etc/hostname")), "is a link out", ["resume"]),
    (replaced("train.tokens", os.mkfifo), "is a pipe, expected a file", ["resume"]),
    (replaced("held-out.tokens", link("/dev/zero")), "is a device", TEXT),
    (replaced(LAST, os.mkfifo), "is a pipe, expected a file", ("info", "resume")),
    (replaced(MODEL, link("/etc/hostname")), "is a link out of", WEIGHED),
    (replaced(MODEL, os.mkfifo), "is a pipe, expected a file", WEIGHED),
    (replaced("checkpoints", os.mkfifo), "checkpoints] cannot be read", WEIGHED),
    (replaced("checkpoints", link("checkpoints")), "cannot be read", WEIGHED),
]


@pytest.mark.parametrize(("mutate", "message", "refused"), TABLE, ids=lambda v: None)
def test_what_is_wrong_is_told_in_one_line(run, mutate, message, refused):
    mutate(run)
    for name in refused:
        error = told(run, name)
        assert error is not None, f"{name} accepts it"
        assert message in error


def test_a_whole_run_goes_through_every_command(run):
    for name in COMMANDS:
        assert told(run, name) is None


VALUES = (
    None,
    True,
    -1,
    0,
    1,
    3,
    10**6,
    10**30,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../..",
    "/dev/zero",
    [],
    {},
    [[]],
    {"dict": []},
    {"tensor": 3},
)


def places_of(content, path=()):
    """Every place in a JSON tree, as a path of keys."""
    keys = content if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield (*path, key)
        if isinstance(content[key], dict | list):
            yield from places_of(content[key], (*path, key))


def mutate_json(run, name, draw):
    content = json.loads((run / name).read_text())
    places = list(places_of(content))
    if draw.random() < 0.7:  # long lists are the generators' states
        places = [p for p in places if len(p) < 8] or places
    place = draw.choice(places)
    if "accumulate" in place:  # a large one is no damage, and takes its time
        return
    value = ... if draw.random() < 0.2 else draw.choice(VALUES)
    put(name, *place, value)(run)


def mutate_bytes(run, name, draw):
    data = bytearray((run / name).read_bytes())
    at = draw.randrange(len(data))
    kind = draw.randrange(3)
    if kind == 0:
        data = data[:at]
    elif kind == 1:
        data[at] = draw.randrange(256)
    else:
        data[at:at] = draw.randbytes(3)
    (run / name).write_bytes(data)


FULL = [pytest.param(seed, marks=pytest.mark.full) for seed in range(20, 140)]


@pytest.mark.parametrize("seed", [*range(20), *FULL])
def test_random_mutations_are_told_in_one_line_or_do_no_harm(run, seed):
    draw = random.Random(seed)
    manifest = f"{STEP}/checkpoint.json"
    jsons = [CONFIG, CONFIG, "plan.json", "result.json", "tokenizer.json", manifest]
    jsons += [manifest, LAST, "checkpoints/best.json"]
    if draw.random() < 0.6:
        name = draw.choice(jsons)
        mutate_json(run, name, draw)
        if name == manifest:
            point(run)
    else:
        name = draw.choice(
            [*jsons, "cell.txt", "train.tokens", "held-out.tokens", "metrics.jsonl"]
            + [MODEL, f"{STEP}/training.safetensors"] * 2
        )
        mutate_bytes(run, name, draw)
        if name.startswith(STEP) and name != manifest and draw.random() < 0.7:
            sign(run)
    for command in COMMANDS:
        told(run, command)
