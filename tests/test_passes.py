"""The compiler's passes: what each hands on is checked, and frozen."""

import re
from dataclasses import FrozenInstanceError, replace
from importlib import import_module

import pytest

import cellwright as cw
from cellwright.compiler import lower
from cellwright.compiler.bindings import own_parameters
from cellwright.compiler.differentiate import differentiate, verified
from cellwright.compiler.emit import emit
from cellwright.compiler.plan import Plan
from cellwright.compiler.program import View
from cellwright.compiler.schedule import schedule
from cellwright.compiler.split import split_affines
from cellwright.compiler.store import store
from cellwright.compiler.verify import (
    verify_groups,
    verify_stages,
    verify_step,
    verify_stored,
)
from cellwright.language import CellError, verify


def bound(name):
    graph = cw.cells.get(name).graph
    return graph.bind(**{n: 3 if n == "input_size" else 4 for n in graph.size_names})


def forward(name="peephole"):
    graph = bound(name)
    return lower.forward_step(graph, lower.forward_memory(graph))


def backward(name="peephole"):
    graph = bound(name)
    vjp = differentiate(graph)
    memory = lower.forward_memory(graph)
    memory = lower.forward_memory(graph, saved=lower.needed(vjp, memory))
    cotangents = lower.cotangent_memory(vjp, memory.arrays, ("x",))
    return lower.backward_step(vjp, cotangents, memory.places, {})


def arranged(step):
    return store(step, schedule(step))


def refused(check, *args, after, match):
    """A failure names the pass, the node, and the line that wrote it."""
    where = rf"\[.*\.py:\d+, cell 'peephole', after {after}\] node \d+ \(\w+\): "
    with pytest.raises(CellError, match=f"{where}.*{match}"):
        check(*args, after=after)


def at(step, op, place=0):
    """The position of one of the nodes of an operation."""
    return [n for n, node in enumerate(step.nodes) if node.op == op][place]


def test_every_pass_accepts_its_own_work():
    """The zoo, forward and backward; what they make is the plan's programs."""
    for name in cw.cells.all():
        graph = bound(name)
        plan = Plan(graph, own_parameters(graph))
        for step, program in (
            (
                lower.forward_step(graph, lower.forward_memory(graph, (), plan.saved)),
                plan.training,
            ),
            (backward(name), plan.backward(("x",))),
        ):
            chunked = program.backward or plan.is_split
            scratch = "chunk" if chunked else "rolling"
            stored = store(step, schedule(step, plan.is_split), scratch)
            assert stored.step.arrays == program.arrays
            assert emit(stored, plan.binding) == program.stages


@pytest.mark.parametrize(
    ("module", "check"),
    [
        ("differentiate", "verified"),
        ("lower", "verify_step"),
        ("schedule", "verify_groups"),
        ("store", "verify_stored"),
        ("emit", "verify_stages"),
    ],
)
def test_every_pass_is_checked_before_the_next(monkeypatch, module, check):
    def refuse(*args, after):
        raise CellError(f"after {after}")

    monkeypatch.setattr(import_module(f"cellwright.compiler.{module}"), check, refuse)
    graph = bound("lstm")
    with pytest.raises(CellError, match=f"^after {module}$"):
        Plan(graph, own_parameters(graph)).backward(("x",))


def test_what_passes_hand_on_cannot_be_changed():
    stored = arranged(forward())
    for data, name in (
        (stored.step, "nodes"),
        (stored, "groups"),
        (stored.groups[0], "members"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(data, name, ())


def test_an_affine_over_children_and_its_node_is_split_and_checked():
    graph = bound("child_sum_lstm")
    split, binding, new = split_affines(graph, own_parameters(graph))
    assert [split.nodes[n].size for n in new] == [node.size for node in graph.nodes]
    names = {w.name for w in split.weights}
    assert {"f[0]", "f[1]"} <= names
    assert "f" not in names
    assert split_affines(split, binding)[:2] == (split, binding)  # nothing left to cut
    broken = replace(split, weights=split.weights[1:])
    with pytest.raises(
        CellError, match=r"after split\] node \d+ \(affine\): no matrix"
    ):
        verify(broken, after="split")


def test_a_derivative_is_checked():
    vjp = differentiate(bound("peephole"))
    first = len(vjp.forward.nodes)
    seed = replace(vjp.nodes[first], op="sigmoid")
    broken = replace(vjp, nodes=(*vjp.nodes[:first], seed, *vjp.nodes[first + 1 :]))
    refused(verified, broken, after="differentiate", match="received 0 arguments")
    at_ = at(vjp, "transposed")
    moved = replace(vjp.nodes[at_], attrs=(("operand", 9), ("weight", "o")))
    broken = replace(vjp, nodes=(*vjp.nodes[:at_], moved, *vjp.nodes[at_ + 1 :]))
    refused(verified, broken, after="differentiate", match="no operand 9 of a matrix")
    x, *_, last = vjp.cotangent_of  # x of 3 units
    wrong = {**vjp.cotangent_of, x: vjp.cotangent_of[last]}
    where = r"after differentiate\] node \d+ .*the cotangent of node 0 has 4 units"
    with pytest.raises(CellError, match=where):
        verified(replace(vjp, cotangent_of=wrong), after="differentiate")


def test_lowered_steps_are_checked():
    step, put = forward(), at(forward(), "put")
    node = replace(step.nodes[put], attrs=(("view", View(99)),))
    broken = replace(step, nodes=(*step.nodes[:put], node, *step.nodes[put + 1 :]))
    refused(verify_step, broken, after="lower", match="array 99 is not there")
    narrow = replace(step, places={**step.places, 0: View(1)})
    refused(verify_step, narrow, after="lower", match="3 units in array 1, of 4")
    result = replace(step, roots=(at(step, "sigmoid"),))
    refused(verify_step, result, after="lower", match="is not a result")


@pytest.mark.parametrize("make", [forward, backward])
def test_schedules_are_checked(make):
    step = make()
    groups = schedule(step)
    assert len(groups) > 1
    refused(
        verify_groups,
        step,
        groups[::-1],
        after="schedule",
        match="reads node .* before",
    )
    refused(
        verify_groups, step, (*groups, groups[0]), after="schedule", match="is computed"
    )
    refused(
        verify_groups, step, groups[:-1], after="schedule", match="is computed in no"
    )
    wide = replace(groups[0], units=7)
    refused(
        verify_groups,
        step,
        (wide, *groups[1:]),
        after="schedule",
        match="is in a stage of 7",
    )


def test_a_product_of_this_steps_value_cannot_join_its_stage():
    step = forward()
    first, second = schedule(step)
    joined = replace(first, members=(*first.members, *second.members))
    refused(
        verify_groups, step, (joined,), after="schedule", match="reads node .* before"
    )


def test_what_is_stored_is_checked():
    stored = arranged(backward())
    assert stored.panels
    lost = replace(stored, step=replace(stored.step, stored={}))
    refused(verify_stored, lost, after="store", match="reads node .* it is stored")
    cotangent, column = next(iter(stored.panels.items()))
    none = {c: p for c, p in stored.panels.items() if c != cotangent}
    refused(
        verify_stored, replace(stored, panels=none), after="store", match="in no panel"
    )
    shared = dict.fromkeys(stored.panels, column)
    refused(
        verify_stored, replace(stored, panels=shared), after="store", match="is taken"
    )


def test_emitted_code_is_checked():
    stored = arranged(forward())
    binding = own_parameters(bound("peephole"))
    stages = emit(stored, binding)
    for changed in (
        {"code": tuple(i for i in stages[0].code if i.op != "load")},
        {"prologue": ()},
        {"accumulators": stages[0].accumulators[1:]},
    ):
        broken = (replace(stages[0], **changed), *stages[1:])
        refused(
            verify_stages, broken, stored, after="emit", match="before it is written"
        )


def test_a_listing_names_only_registers_as_operands():
    graph = bound("mc_lstm")
    listing = Plan(graph, own_parameters(graph)).inference.disassemble()
    operands = re.findall(r"= (?:sum|softmax) (.*)", listing)
    assert len(operands) == 2
    assert all(re.fullmatch(r"[rv]\d+", operand) for operand in operands)
