"""What the pages' servers answer to requests that make no sense, and to whom."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs cellwright[web]")

from starlette.testclient import TestClient

from cellwright.exam.questions import load
from cellwright.exam.server import ExamServer
from cellwright.language import ArgumentError
from cellwright.look.inspection import Inspection
from cellwright.look.web import serve as serving
from cellwright.look.web.app import make_app
from cellwright.look.web.hosts import Hosts, reachable_as
from cellwright.look.web.inspect import InspectServer
from cellwright.look.web.serve import serve, served
from web.runs import make_run

HOST = "127.0.0.1:8000"
HUGE = "9" * 5000


@pytest.fixture(scope="module")
def inspection(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    run = make_run(tmp_path_factory.mktemp("pages"))
    return Inspection(run, run.held_out_text(40), steps=40)


@pytest.fixture(scope="module")
def inspector(inspection: Inspection) -> TestClient:
    return client_of(InspectServer(inspection).routes())


@pytest.fixture
def exam(tmp_path: Path) -> TestClient:
    return client_of(ExamServer(load(), tmp_path).routes())


def client_of(routes: list, **options: int) -> TestClient:
    app = make_app(routes, Hosts([HOST]), **options)
    return TestClient(app, base_url=f"http://{HOST}")  # raises what would be a 500


def refused(answer) -> str:
    assert answer.status_code in (400, 404, 405, 413, 422), answer.text
    told = answer.json()["error"]
    assert "\n" not in told
    return told


# ── malformed requests ────────────────────────────────────────────────────────────────

PATHS = (
    "/nowhere",
    "/api/0/values",
    "/api/0/values/0.q/0/9",
    "/api/0/values/0.c/a/9",
    "/api/0/values/0.c/-1/9",
    "/api/0/values/0.c/1.5/9",
    "/api/0/values/0.c/nan/9",
    f"/api/0/values/0.c/0/{HUGE}",
    "/api/0/values/%00/0/9",
    "/api/0/values/%ff%fe/0/9",
    "/api/0/exact/0.c/-1",
    "/api/0/exact/0.c/99",
    f"/api/0/exact/0.c/{HUGE}",
    "/api/0/exact/%ed%a0%80/1",
    "/api/0/order/0.c/loudness",
    "/api/0/order/0.q/index",
    "/api/0/interesting/nothing",
    "/api/0/interesting/pattern?pattern=(",
    "/api/0/interesting/pattern?pattern=%28%3F%3Dx%29",
    f"/api/0/interesting/pattern?pattern={'(' * 20000}",
    "/api/0/flow/0",
    "/api/0/flow/-3",
    "/api/0/flow/40",
    f"/api/0/flow/{HUGE}",
    "/api/0/flow/x",
    "/api/0/triangle/z",
    "/api/0/ranges/0.q",
    "/api/0/ranges/%00",
    "/api/99/run",
    f"/api/{HUGE}/run",
    "/api/-1/run",
    "/api/run",
    "/api/read",
    "/static/%00",
    "/static/..%2fapp.py",
    f"/static/{'x' * 5000}",
    "/static/",
    "/api/live/reset",
    "/api/evidence/nothing",
    "/api/plot/%00",
)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
def test_addresses_that_lead_nowhere(
    inspector: TestClient, exam: TestClient, path: str
):
    for client in (inspector, exam):
        refused(client.get(path))


@pytest.mark.parametrize("client", ["inspector", "exam"])
def test_every_route_refuses_other_methods(client: str, request: pytest.FixtureRequest):
    served = request.getfixturevalue(client)
    allowed: dict[str, set[str]] = {}  # a path may have a route for each method
    for route in served.app.routes:
        path = re.sub(r"\{[^}]*\}", "1", getattr(route, "path", ""))
        found = getattr(route, "methods", None) or {"GET", "HEAD"}
        allowed.setdefault(path, set()).update(found)
    methods = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"}
    for path, known in allowed.items():
        for method in methods - known:
            refused(served.request(method, path))


BODIES = (
    b"",
    b"{",
    b"[1]",
    b"null",
    b"3",
    b'"x"',
    b"\xff\xfe",
    b'{"a": 1,}',
    b"a=1&b=2",
    b'{"changes": NaN}',
    b'{"text": "\\ud800"}',
    b'{"seed": 1e999}',
    b"[" * 100_000,
    b'{"a":' * 200 + b"1" + b"}" * 200,
    b"1" * 5000,
)
LIVE = (
    ("sing", {}),
    ("edit", {}),
    ("edit", {"text": 5}),
    ("edit", {"text": None}),
    ("edit", {"text": "x" * 30_000}),
    ("edit", {"text": "a", "more": 1}),
    ("show", {"key": "0.q"}),
    ("show", {"key": ["0.c"]}),
    ("show", {"page": {}}),
    ("type", {"text": "a"}),
    ("back", {}),
    *(("reset", {"seed": s}) for s in (2**64, -(2**80), 1.5, "1", True)),
    *(("sample", {"temperature": t}) for t in (-1, 1e-300, 1e300, 10**400, "hot", [])),
    *(("sample", {"top_k": k}) for k in (0, -(10**30), 2.5, False)),
)
GOOD = {"key": "0.c", "kind": "clamp", "amount": 0.0, "unit": 1}
CHANGES = (
    {"changes": 1},
    {"changes": {}},
    {"changes": [1]},
    {"changes": [{}]},
    {"chang": []},
    {"changes": [GOOD] * 1000},
    {"changes": [{**GOOD, "more": 1}]},
    *(
        {"changes": [{**GOOD, name: value}]}
        for name, values in {
            "key": ("0.q", "", 1, None, []),
            "kind": ("hold", 1, None),
            "amount": ("1", None, True, 1e300, 10**400, []),
            "unit": (-1, 99, 1.5, "1", True, 10**30, {}),
        }.items()
        for value in values
    ),
)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:20]))
def test_bodies_that_are_no_json_object(
    inspector: TestClient, exam: TestClient, body: bytes, tmp_path: Path
):
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        asked = {"content": body, "headers": {"Content-Type": kind}}
        refused(inspector.post("/api/live/edit", **asked))
        refused(inspector.post("/api/0/intervene", **asked))
        refused(inspector.post("/api/read", **asked))
        if body != b"null":  # no session
            refused(exam.put("/api/session", **asked))
            assert not (tmp_path / "session.json").exists()
    assert exam.get("/api/exam").json()["session"] is None


@pytest.mark.parametrize(("do", "body"), LIVE, ids=lambda x: str(x)[:40])
def test_live_options_that_make_no_sense(inspector: TestClient, do: str, body: dict):
    refused(inspector.post(f"/api/live/{do}", content=json.dumps(body)))


@pytest.mark.parametrize("body", CHANGES, ids=lambda x: str(x)[:60])
def test_interventions_that_make_no_sense(inspector: TestClient, body: dict):
    refused(inspector.post("/api/0/intervene", content=json.dumps(body)))


def test_an_intervention_with_which_nothing_is_a_number(inspector: TestClient):
    change = {**GOOD, "key": "1.h", "kind": "scale", "amount": 3e38, "unit": None}
    told = refused(inspector.post("/api/0/intervene", json={"changes": [change] * 3}))
    assert "NaN or infinity; received amounts 3e+38" in told


def test_what_is_asked_twice_or_needlessly_is_answered(inspector: TestClient):
    answer = inspector.get("/api/0/interesting/pattern?pattern=a&pattern=b&x=1")
    assert answer.is_success
    assert inspector.get("/api/0/interesting/pattern?pattern=%ff").is_success
    assert inspector.get("/api/0/values/0.c/9/3").headers["X-Columns"] == "0"
    assert inspector.request("GET", "/api/0/run", content=b"{").is_success
    body = {"temperature": None, "top_k": 10**30, "key": None, "page": "p"}
    assert inspector.post("/api/live/sample", json=body).is_success
    assert inspector.post("/api/0/intervene", json={"changes": []}).is_success


READ = ({}, {"text": None}, {"text": 5}, {"text": ""}, {"text": "a"}, {"txt": "abc"})


@pytest.mark.parametrize("body", READ, ids=str)
def test_texts_that_are_none(inspector: TestClient, body: dict):
    refused(inspector.post("/api/read", content=json.dumps(body)))


def test_another_text_is_another_reading(inspection: Inspection):
    client = client_of(InspectServer(inspection, inspection).routes())
    first = client.get("/api/0/run").json()
    text = "say(é) élan"
    numbers = [
        client.post("/api/read", json={"text": text * n}).json()["reading"]
        for n in (1, 2, 3, 4, 9)
    ]
    assert numbers == [1, 2, 3, 4, 5]
    told = refused(client.get("/api/1/run"))
    assert told.endswith("expected one of 0, 2, 3, 4, 5. Read the text again")
    described = client.get("/api/2/run").json()
    assert "".join(described["pieces"]) == text * 2
    assert [described["pieces"][n] for n in described["unknown"]] == ["é"] * 4
    assert len(client.get("/api/5/run").json()["pieces"]) == 40
    assert client.get("/api/0/run").json() == first
    columns = client.get("/api/2/values/0.c/0/99").headers["X-Columns"]
    assert int(columns) == 2 * len(text)
    assert set(client.get("/api/2/saturation").json()) == {"run", "beside", "constant"}
    other = inspection.reread(text * 2)
    assert client.get("/api/2/flow/3").json() == other.flow_at(3)


# ── long bodies ───────────────────────────────────────────────────────────────────────


def test_a_long_body_is_refused_before_it_is_read(tmp_path: Path):
    exam = client_of(ExamServer(load(), tmp_path).routes(), body_limit=1000)
    sent = 0

    def pieces() -> Iterator[bytes]:  # without a Content-Length
        nonlocal sent
        while True:
            sent += 100
            yield b" " * 100

    def endless() -> Iterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    answer = exam.put(
        "/api/session", content=endless(), headers={"Content-Length": "1001"}
    )
    assert answer.status_code == 413
    assert "expected at most 1000 bytes" in refused(answer)
    assert exam.put("/api/session", content=b" " * 998 + b"{}").is_success
    assert exam.put("/api/session", content=b" " * 999 + b"{}").status_code == 413


def test_a_body_of_no_declared_length_is_cut_off(tmp_path: Path):
    with served(ExamServer(load(), tmp_path).routes()) as address:
        host = address.split("/")[2]
        with socket.create_connection(host.split(":"), timeout=60) as connection:
            connection.sendall(
                f"PUT /api/session HTTP/1.1\r\nHost: {host}\r\n"
                "Transfer-Encoding: chunked\r\n\r\n".encode()
            )
            piece = b"100000\r\n" + b" " * 2**20 + b"\r\n"
            for _ in range(32):  # as much as may be
                connection.sendall(piece)
            # Nothing stays unread, or the connection could be reset before the answer.
            connection.sendall(b"1\r\n \r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 413")


# ── a search that others wait for ─────────────────────────────────────────────────────


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+b", "(x+x+)+y|(a*)*c"])
def test_a_hostile_pattern_takes_no_time(pattern: str):
    pytest.importorskip("re2", reason="needs cellwright[web]")
    from cellwright.look.detectors import matches

    text = "a" * 5000 + "!"  # Python's own engine would need 2 ** 5000 steps
    assert not matches(pattern)(text).any()


# ── files that break ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "content",
    [
        b'{"phase": ',
        b"[1]",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\\udc00"}',
        b"",
        b"\xff",
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ],
    ids=lambda content: repr(content[:16]),
)
def test_a_broken_session_is_set_aside(
    exam: TestClient, tmp_path: Path, content: bytes
):
    for number in (1, 2):
        (tmp_path / "session.json").write_bytes(content)
        found = exam.get("/api/exam").json()
        assert found["session"] is None
        assert f"is session-broken-{number}.json now" in found["notice"]
        aside = tmp_path / f"session-broken-{number}.json"
        assert aside.read_bytes() == content
    assert exam.put("/api/session", json={"phase": "ready"}).is_success
    again = exam.get("/api/exam").json()
    assert (again["session"], again["notice"]) == ({"phase": "ready"}, None)


def test_a_full_disk_is_told(exam: TestClient, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("cellwright.exam.server.write_atomically", full)
    answer = exam.put("/api/session", json={})
    assert answer.status_code == 500
    assert "session.json] No space left on device" in answer.json()["error"]


# ── who may ask ───────────────────────────────────────────────────────────────────────


@pytest.fixture
def _named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Mybox.example.org")


@pytest.mark.usefixtures("_named")
@pytest.mark.parametrize(
    ("listens", "welcome", "foreign"),
    [
        (
            "127.0.0.1",
            "127.0.0.1:8000 localhost:8000 LOCALHOST:8000 [::1]:8000",
            "127.0.0.1:8001 localhost 192.168.1.5:8000 mybox:8000 evil.example:8000",
        ),
        (
            "0.0.0.0",
            "192.168.1.5:8000 192.168.1.5:9000 10.0.0.1 [fe80::1]:8000 mybox:8000 "
            "mybox.local:8000 MYBOX.example.org:9000 localhost:8000 127.0.0.1:9000",
            "evil.example:8000 mybox.evil.example:8000 192.168.1.5.evil.example 1.2.3",
        ),
        ("::", "[fe80::1]:8000 127.0.0.1:8000", "evil.example:8000"),
        ("192.168.1.5", "192.168.1.5:8000 mybox:8000", "evil.example:8000"),
        ("box.lan", "box.lan:8000 box.lan:1 192.168.1.5:8000", "evil.lan:8000"),
    ],
)
def test_who_may_ask(listens: str, welcome: str, foreign: str):
    hosts = reachable_as(listens, 8000)
    for host in welcome.split():
        assert host in hosts, host
    for host in (
        *foreign.split(),
        "",
        ":",
        "a:b",
        "x@127.0.0.1:8000",
        "localhost:8000/",
    ):
        assert host not in hosts, host


@pytest.mark.usefixtures("_named")
def test_a_page_for_others_still_keeps_out_other_sites(tmp_path: Path):
    app = make_app(ExamServer(load(), tmp_path).routes(), reachable_as("0.0.0.0", 8000))
    client = TestClient(app, base_url="http://192.168.1.5:8000")
    for headers in (
        {"Host": "evil.example:8000"},
        {"Origin": "http://evil.example:8000"},
        {"Origin": "http://192.168.1.6:8000"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert client.get("/", headers=headers).status_code == 403
    told = client.get("/", headers={"Host": "evil.example"}).text
    assert "an address in numbers" in told
    assert client.get("/").is_success


def test_the_default_port_goes_unsaid():
    assert "localhost" in reachable_as("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("", 0, r"\[host\] received ''.*0.0.0.0 for whoever reaches it"),
        ("no host", 0, "cannot listen on no host:0"),
        ("a" * 300, 0, "cannot listen on a"),
        ("\udcff", 0, "cannot listen on"),
        ("127.0.0.1", 70000, r"\[port\] received 70000"),
        ("127.0.0.1", -1, r"\[port\] received -1"),
        ("203.0.113.1", 0, "cannot listen on 203.0.113.1:0"),
    ],
)
def test_an_address_that_cannot_be_had(host: str, port: int, message: str):
    with pytest.raises(ArgumentError, match=message):
        serve([], host=host, port=port, browse=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::1", "localhost"])
def test_an_explicit_host_is_served(host: str, monkeypatch: pytest.MonkeyPatch):
    """A request by the machine's address in numbers, on a server that was opened."""
    servers, said = [], []
    monkeypatch.setattr(
        serving.uvicorn.Server, "startup", _remembering(servers, serving.uvicorn.Server)
    )
    options = {"host": host, "port": 0, "browse": False, "say": said.append}
    try:
        serving._listen(host, 0).close()
    except ArgumentError:
        pytest.skip(f"no {host} here")
    thread = threading.Thread(target=serve, args=([],), kwargs=options)
    thread.start()
    while thread.is_alive() and not servers:
        time.sleep(0.01)
    try:
        port = int(re.findall(r":(\d+)/ ", said[-1])[0])
        name = {"0.0.0.0": "127.0.0.2", "::1": "::1"}.get(host, "127.0.0.1")
        with socket.create_connection((name, port), timeout=20) as connection:
            named = f"[{name}]" if ":" in name else name
            connection.sendall(
                f"GET / HTTP/1.1\r\nHost: {named}:{port}\r\n\r\n".encode()
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 404")  # and not 403
    finally:
        servers[0].should_exit = True
        thread.join()
    assert ("anyone who reaches" in said[0]) == (host == "0.0.0.0")


def _remembering(servers: list, kind: type):
    startup = kind.startup

    async def started(self, sockets=None):
        await startup(self, sockets)
        servers.append(self)

    return started
