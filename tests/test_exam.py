"""The exam's questions, its server's data and its server's manners."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("starlette", reason="needs cellwright[web]")

from starlette.testclient import TestClient

import cellwright as cw
from cellwright import lab
from cellwright.exam.evidence import _sentence
from cellwright.exam.questions import HINTS, Point, QuestionError, load
from cellwright.exam.server import ExamServer
from cellwright.lab import Claim
from cellwright.language import ArgumentError
from cellwright.look.figures import figure
from cellwright.look.web.app import make_app

HOST = "127.0.0.1:8000"
MINE = """
id = "mine"
question = "What is a leaky unit?"
[[points]]
text = "h = (1 - a) h + a u"
source = "Jaeger et al. 2007"
"""


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    app = make_app(ExamServer(load(), tmp_path).routes(), [HOST])
    return TestClient(app, base_url=f"http://{HOST}")


def test_the_eight_questions_have_points_sources_and_experiments():
    questions = load()
    assert [q.experiment for q in questions] == [
        "standout",
        "convolution",
        "bptt",
        "training-problems",
        "recursive",
        "teacher-forcing",
        "long-term",
        "forget-activation",
    ]
    assert all(len(q.points) >= 4 and q.sketch and q.figure for q in questions)
    points = [point for q in questions for point in q.points]
    assert all(point.lead for point in points)
    assert all(bool(point.finding) == bool(point.claim) for point in points)
    bonus = {q.id for q in questions if any(p.bonus for p in q.points)}
    assert bonus == {"training-problems", "teacher-forcing"}


@pytest.mark.parametrize("question", load(), ids=lambda q: q.id)
def test_claims_that_points_name_are_the_experiments_claims(question):
    for point in question.points:
        if point.claim:
            result = lab.load_result(point.experiment or question.experiment)
            names = [claim.name for claim in result.claims]
            assert sum(n.startswith(point.claim) for n in names) == 1, point.claim
    assert any(point.claim for point in question.points)


def test_relu_below_zero_deletes_and_cannot_recover():
    """What the exam says of ReLU in the forget gate: value and gradient are both 0."""
    layer = cw.Recurrent(cw.cells.lstm.replace(f=cw.relu), 3, 4, dtype=torch.float64)
    weights = dict(layer.named_parameters())
    gate = [weights.pop(f"cells.0.f.{name}") for name in ("weight", "bias")]
    with torch.no_grad():
        gate[1].fill_(-50.0)
    x, c = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(1, 2, 4).double()
    c.requires_grad_()
    y, _ = layer(x, (torch.zeros_like(c), c))
    cut, learn = [*gate, c], list(weights.values())
    found = torch.autograd.grad((y * torch.randn_like(y)).sum(), [*cut, *learn])
    assert not any(gradient.any() for gradient in found[: len(cut)])
    assert all(gradient.any() for gradient in found[len(cut) :])


def test_the_last_hint_is_the_lectures():
    assert HINTS[-1].endswith("make sure you understood it correctly).")


def test_users_add_questions(tmp_path: Path):
    (tmp_path / "mine.toml").write_text(MINE)
    assert load([tmp_path])[-1].question == "What is a leaky unit?"
    assert load([tmp_path / "mine.toml"])[-1].id == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id =", "not TOML"),
        (MINE.replace("question", "qestion"), "'question' is missing"),
        (MINE.replace('id = "mine"', 'id = "lstm"'), "id is there already"),
        (MINE.replace("source", "sourc"), "'source' is missing"),
        (MINE + 'sourrce = "x"', "unknown entry 'sourrce'"),
        (MINE + 'lead = "a b c d e f g h i"', "received 9 words, expected at most 8"),
        (MINE + 'finding = "It is {}."', "received no claim beside 'It is {}.'"),
        (MINE + 'claim = "x"\nfinding = "It is."', "has one place for a number"),
        (MINE + 'claim = "x"\nfinding = "It is {a}."', "has one place for a number"),
        (MINE.replace("[[", 'figure = "gru"\n[[', 1), "received 'gru'. Known: conv"),
        (MINE + 'experiment = "bptr"', "[mine.toml] experiment is one of cellwright's"),
        (MINE + "bonus = 1", "bonus is true or false; received 1"),
        (MINE.split("[[")[0], "has no key points"),
        (MINE.split("[[")[0] + "points = [1]", "a key point is a table; received 1"),
        (MINE.replace('"mine"', "3"), "'id' is text; received 3"),
    ],
)
def test_a_wrong_question_is_explained(tmp_path: Path, text: str, message: str):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(QuestionError, match=r"\[mine.toml") as caught:
        load([tmp_path])
    assert message in str(caught.value)


def test_no_such_folder_of_questions(tmp_path: Path):
    with pytest.raises(QuestionError, match="no such file"):
        load([tmp_path / "nowhere"])


def test_a_folder_without_questions(tmp_path: Path):
    with pytest.raises(QuestionError, match=r"holds no questions; expected files that"):
        load([tmp_path])


def test_an_unknown_experiment_is_explained(tmp_path: Path):
    text = MINE.replace("[[points]]", 'experiment = "btpt"\n[[points]]')
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(QuestionError, match=r"received 'btpt'.*bptt"):
        load([tmp_path])


def test_times_are_checked(tmp_path: Path):
    with pytest.raises(ArgumentError, match="expected more than 0"):
        ExamServer(load(), tmp_path, (0, 1, 1))


def test_the_session_outlasts_the_server(tmp_path: Path):
    for expected in (None, {"phase": "ready"}):
        app = make_app(ExamServer(load(), tmp_path).routes(), [HOST])
        with TestClient(app, base_url=f"http://{HOST}") as client:
            exam = client.get("/api/exam").json()
            assert exam["session"] == expected
            assert exam["seconds"]["answer"] == 60
            assert client.put("/api/session", json={"phase": "ready"}).is_success


def test_a_session_that_is_none_is_refused(client: TestClient):
    for body, told in ((b"[1]", "a JSON object or null"), (b"{", "expected JSON")):
        answer = client.put("/api/session", content=body)
        assert answer.status_code == 400
        assert told in answer.json()["error"]


def test_evidence_is_the_laboratorys_last_result(client: TestClient, tmp_path: Path):
    shown = client.get("/api/evidence/bptt").json()["result"]
    kept = lab.load_result("bptt")
    assert [c["measured"] for c in shown["claims"]] == [c.measured for c in kept.claims]
    assert (shown["date"], shown["holds"]) == (kept.date, kept.holds)
    plot = client.get("/api/plot/bptt")
    assert plot.content == lab.plot_path("bptt").read_bytes()


def test_a_newer_run_takes_the_shipped_results_place(
    client: TestClient, tmp_path: Path
):
    own = tmp_path / "lab" / "bptt"
    own.mkdir(parents=True)
    content = json.loads((lab.SHIPPED / "bptt.json").read_text())
    content |= {"date": "2999-01-01", "quick": True}
    content["claims"][0] |= {"low": 1e9, "high": None}
    (own / "bptt.json").write_text(json.dumps(content))
    shown = client.get("/api/evidence/bptt").json()["result"]
    assert (shown["quick"], shown["holds"]) == (True, False)


def test_what_a_quick_run_leaves_keeps_the_full_forms_evidence(
    client: TestClient, tmp_path: Path
):
    own = tmp_path / "lab" / "recursive"
    own.mkdir(parents=True)
    content = json.loads((lab.SHIPPED / "recursive.json").read_text())
    content |= {"date": "2999-01-01", "quick": True}
    content["claims"] = content["claims"][:3]  # ListOps; the treebank is left out
    (own / "recursive.json").write_text(json.dumps(content))
    shown = client.get("/api/evidence/recursive").json()["result"]
    points = next(q for q in load() if q.id == "recursive").points
    runs = [back["quick"] for back in shown["backs"] if back]
    assert len(runs) == sum(bool(p.claim) for p in points)
    full = lab.load_result("recursive")
    kept = shown["backs"][-1]
    assert kept["name"].startswith("sentiment: the tree")
    assert (kept["measured"], kept["date"]) == (full.claims[3].measured, full.date)
    assert runs.count(True) == 2


def test_a_point_may_have_evidence_of_another_experiment(client: TestClient):
    backs = client.get("/api/evidence/recursive").json()["result"]["backs"]
    claims = {c.name: c.measured for c in lab.load_result("tree-tables").claims}
    other = next(b for b in backs if b and b["name"].startswith("listops, TreeLSTM"))
    assert other["measured"] == claims[other["name"]]
    assert f"answers {other['measured']:.1f} % of ListOps" in other["sentence"]


def test_a_finding_has_the_measured_number(client: TestClient):
    backs = client.get("/api/evidence/bptt").json()["result"]["backs"]
    claims = {c.name: c.measured for c in lab.load_result("bptt").claims}
    exact = next(v for name, v in claims.items() if "autograd" in name)
    digit, power = f"{exact:.0e}".split("e-")
    assert f"agree to {digit}·10^{{−{int(power)}}} of" in backs[0]["sentence"]
    assert f"keeps {claims[backs[3]['name']]:.0%} of" in backs[3]["sentence"]


def test_a_claim_without_a_finding_speaks_for_itself():
    point = Point(text="x", source="y", claim="error")
    assert _sentence(point, Claim("error {of}", -1e-9)) == "error {of}: −1·10^{−9}."
    assert _sentence(point, Claim("error", None)) == "error: nothing was measured."
    said = Point(text="x", source="y", claim="error", finding="A two-step {:+.1f}.")
    assert _sentence(said, Claim("error", -2.0)) == "A two-step −2.0."


def test_figures_of_questions(client: TestClient):
    answer = client.get("/api/figure/bptt")
    assert answer.headers["Content-Type"] == "image/svg+xml"
    assert answer.text == figure("gradients").svg


def test_the_examiners_page_reads_the_session_without_its_sketches(client: TestClient):
    session = {"phase": "answer", "rounds": [{"id": "bptt", "strokes": [1, 2]}]}
    assert client.put("/api/session", json=session).is_success
    read = client.get("/api/session").json()
    assert read["session"] == {"phase": "answer", "rounds": [{"id": "bptt"}]}
    assert abs(read["now"] / 1000 - time.time()) < 60
    assert client.get("/api/exam").json()["session"] == session
    assert client.get("/examiner").is_success


def test_marks_wait_for_the_exams_page(client: TestClient):
    marks = [
        {"round": 1, "kind": "points", "key": 0, "mark": "said"},
        {"round": 1, "kind": "criteria", "key": "sketch", "mark": "missed"},
    ]
    for mark in marks:
        assert client.post("/api/marks", json=mark).is_success
    assert client.delete("/api/marks").json() == marks
    assert client.delete("/api/marks").json() == []


@pytest.mark.parametrize(
    "mark",
    [
        [1],
        {"kind": "points", "key": 10**9, "mark": "said"},
        {"kind": "points", "key": "0", "mark": "said"},
        {"kind": "criteria", "key": "sketch", "mark": "yes"},
        {"key": 0, "mark": "said"},
    ],
)
def test_a_mark_that_is_none_is_refused(client: TestClient, mark: object):
    answer = client.post("/api/marks", json=mark)
    assert answer.status_code == 400
    assert "[marks] received" in answer.json()["error"]
    assert client.delete("/api/marks").json() == []


def test_an_unknown_question_is_explained(client: TestClient):
    answer = client.get("/api/evidence/nothing")
    assert answer.status_code == 400
    assert "no question 'nothing'" in answer.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_other_sites_are_refused(client: TestClient, headers: dict[str, str]):
    for method, path in (("GET", "/api/exam"), ("PUT", "/api/session")):
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == 403


def test_pages_may_load_only_their_own(client: TestClient):
    answer = client.get("/", headers={"Origin": f"http://{HOST}"})
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert client.get("/static/cellwright.js").is_success
    assert client.get("/static/../app.py").status_code == 404
