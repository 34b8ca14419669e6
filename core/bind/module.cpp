// The Python module cellwright._core: programs in, arrays through, nothing kept.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <numeric>

#include "../isa.h"
#include "../scan.h"
#include "../setting.h"
#include "../stepper.h"
#include "../threads.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace cellwright;

namespace {

// -- programs: each struct of program.h is a class of the same name, its fields keywords

template <class T, class Member> struct Field {
    const char* name;
    Member T::*member;
};
template <class T, class Member> Field(const char*, Member T::*) -> Field<T, Member>;

// A constructor that takes every field by name, and no other; what can check itself does.
template <class T, class... Members>
void bind_struct(nb::module_& m, const char* name, Field<T, Members>... fields) {
    nb::class_<T>(m, name).def(
        "__init__",
        [fields...](T* self, Members... values) {
            T made{};
            ((made.*fields.member = std::move(values)), ...);
            if constexpr (requires { made.validate(); }) made.validate();
            new (self) T(std::move(made));
        },
        nb::kw_only(), nb::arg(fields.name)...);
}

void bind_program(nb::module_& m) {
    nb::enum_<Opcode>(m, "Opcode")
#define OPCODE(name, reads, kind) .value(#name, Opcode::name##_)
#include "../opcodes.def"
#undef OPCODE
        ;
    nb::enum_<Rows>(m, "Rows")
        .value("sequence", Rows::sequence)
        .value("rolling", Rows::rolling)
        .value("initial", Rows::initial)
        .value("chunk", Rows::chunk)
        .value("panel", Rows::panel)
        .value("batch", Rows::batch)
        .value("input", Rows::input)
        .value("parameter", Rows::parameter)
        .value("spaced", Rows::spaced);
    nb::enum_<Axis::Kind>(m, "AxisKind")
        .value("node", Axis::node)
        .value("child", Axis::child)
        .value("item", Axis::item)
        .value("matrix", Axis::matrix);
    nb::enum_<Form>(m, "Form")
        .value("whole", Form::whole)
        .value("matrix", Form::matrix)
        .value("rows", Form::rows)
        .value("columns", Form::columns)
        .value("heads", Form::heads)
        .value("number", Form::number);
    nb::enum_<When>(m, "When")
        .value("level", When::level)
        .value("chunk", When::chunk)
        .value("after_chunk", When::after_chunk);
    nb::enum_<Precision>(m, "Precision")
        .value("full", Precision::full)
        .value("bf16", Precision::bf16)
        .value("int8", Precision::int8);
    m.attr("EVERY_CHILD") = kEveryChild;
    bind_struct(m, "Axis", Field{"kind", &Axis::kind}, Field{"set", &Axis::set});
    bind_struct(m, "Array", Field{"name", &Array::name}, Field{"rows", &Array::rows},
                Field{"columns", &Array::columns}, Field{"depth", &Array::depth},
                Field{"initial", &Array::initial}, Field{"stage", &Array::stage},
                Field{"scratch", &Array::scratch}, Field{"axis", &Array::axis},
                Field{"parameter", &Array::parameter});
    bind_struct(m, "View", Field{"array", &View::array}, Field{"previous", &View::previous},
                Field{"slot", &View::slot}, Field{"form", &View::form});
    bind_struct(m, "Piece", Field{"parameter", &Piece::parameter},
                Field{"offset", &Piece::offset}, Field{"stride", &Piece::stride});
    bind_struct(m, "Term", Field{"view", &Term::view}, Field{"width", &Term::width},
                Field{"heads", &Term::heads}, Field{"columns", &Term::columns},
                Field{"pieces", &Term::pieces}, Field{"transposed", &Term::transposed},
                Field{"first", &Term::first});
    bind_struct(m, "Accumulator", Field{"tile", &Accumulator::tile},
                Field{"start", &Accumulator::start});
    nb::class_<Instruction>(m, "Instruction")
        .def(
            "__init__",
            [](Instruction* self, Opcode op, int32_t dst, std::vector<int32_t> args,
               double immediate) {
                if (args.size() > 3)
                    throw std::invalid_argument(
                        "[program] an instruction has three arguments at most");
                args.resize(3);
                new (self) Instruction{op, dst, args[0], args[1], args[2], immediate};
            },
            nb::kw_only(), "op"_a, "dst"_a, "args"_a, "immediate"_a);
    bind_struct(m, "Recurrence", Field{"steps", &Recurrence::steps},
                Field{"decay", &Recurrence::decay}, Field{"gate", &Recurrence::gate},
                Field{"v", &Recurrence::v}, Field{"k", &Recurrence::k},
                Field{"q", &Recurrence::q}, Field{"y", &Recurrence::y},
                Field{"before", &Recurrence::before}, Field{"after", &Recurrence::after},
                Field{"d_gate", &Recurrence::d_gate}, Field{"d_v", &Recurrence::d_v},
                Field{"d_k", &Recurrence::d_k}, Field{"d_q", &Recurrence::d_q},
                Field{"d_before", &Recurrence::d_before},
                Field{"d_after", &Recurrence::d_after});
    m.attr("RECURRENCE_STEPS") = kRecurrenceSteps;
    bind_struct(m, "Stage", Field{"units", &Stage::units}, Field{"tiles", &Stage::tiles},
                Field{"row_registers", &Stage::row_registers}, Field{"views", &Stage::views},
                Field{"vectors", &Stage::vectors}, Field{"accumulators", &Stage::accumulators},
                Field{"terms", &Stage::terms}, Field{"prologue", &Stage::prologue},
                Field{"code", &Stage::code}, Field{"whole", &Stage::whole},
                Field{"when", &Stage::when}, Field{"axis", &Stage::axis},
                Field{"loop", &Stage::loop}, Field{"heads", &Stage::heads},
                Field{"matrix_rows", &Stage::matrix_rows},
                Field{"recurrence", &Stage::recurrence});
    bind_struct(m, "Gradient", Field{"panel", &Gradient::panel},
                Field{"first", &Gradient::first}, Field{"source", &Gradient::source},
                Field{"width", &Gradient::width}, Field{"heads", &Gradient::heads},
                Field{"pieces", &Gradient::pieces});
    bind_struct(m, "Reduction", Field{"panel", &Reduction::panel},
                Field{"column", &Reduction::column}, Field{"piece", &Reduction::piece});
    bind_struct(m, "Program", Field{"backward", &Program::backward},
                Field{"tree", &Program::tree}, Field{"precision", &Program::precision},
                Field{"arrays", &Program::arrays},
                Field{"parameters", &Program::parameters}, Field{"stages", &Program::stages},
                Field{"gradients", &Program::gradients},
                Field{"reductions", &Program::reductions});
}

// -- schedules are kept by the caller and used in many calls

using Indices = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

struct OwnedTrees {
    std::vector<int64_t> place, input, children, first_child, child, parent;
    int64_t inputs, slots;

    Trees view() const {
        return {.place = place.data(),
                .input = input.data(),
                .inputs = inputs,
                .slots = slots,
                .children = children.data(),
                .first_child = first_child.empty() ? nullptr : first_child.data(),
                .child = child.data(),
                .parent = parent.data(),
                .child_count = int64_t(child.size())};
    }
};

struct OwnedSchedule {
    std::vector<int64_t> offsets, counts, batch_rows, places;
    std::vector<Reset> resets;
    int64_t rows, initial_rows, width, gradient_rows;
    std::optional<OwnedTrees> trees = {};
    std::vector<int64_t> first_item = {};
    int64_t sets = 0;

    // `of` is where its trees are described, if it has any.
    Schedule view(Trees& of) const {
        if (trees) of = trees->view();
        return {.levels = int64_t(offsets.size()),
                .offsets = offsets.data(),
                .counts = counts.data(),
                .rows = rows,
                .initial_rows = initial_rows,
                .batch_rows = batch_rows.data(),
                .batch_row_count = int64_t(batch_rows.size()),
                .width = width,
                .places = places.empty() ? nullptr : places.data(),
                .resets = resets.data(),
                .reset_count = int64_t(resets.size()),
                .gradient_rows = gradient_rows,
                .trees = trees ? &of : nullptr,
                .first_item = first_item.data(),
                .first_item_count = sets == 0 ? 0 : int64_t(first_item.size()) / sets,
                .sets = sets};
    }
};

using Resets = nb::ndarray<const int64_t, nb::shape<-1, 4>, nb::c_contig, nb::device::cpu>;

void init_schedule(OwnedSchedule* self, std::vector<int64_t> offsets,
                   std::vector<int64_t> counts, int64_t initial_rows,
                   std::vector<int64_t> batch_rows, std::vector<int64_t> places,
                   int64_t width, int64_t rows, std::optional<Resets> resets,
                   int64_t gradient_rows) {
    if (offsets.size() != counts.size())
        throw std::invalid_argument("[schedule] offsets and counts differ in length");
    if (!places.empty() && places.size() != batch_rows.size())
        throw std::invalid_argument("[schedule] expected a place for each row of the batch");
    std::vector<Reset> list;
    for (size_t i = 0; resets && i < resets->shape(0); ++i) {
        const int64_t* r = resets->data() + 4 * i;
        list.push_back({r[0], r[1], r[2], r[3]});
    }
    if (width == 0) rows = std::accumulate(counts.begin(), counts.end(), int64_t(0));
    new (self) OwnedSchedule{.offsets = std::move(offsets),
                             .counts = std::move(counts),
                             .batch_rows = std::move(batch_rows),
                             .places = std::move(places),
                             .resets = std::move(list),
                             .rows = rows,
                             .initial_rows = initial_rows,
                             .width = width,
                             .gradient_rows = gradient_rows};
}

std::vector<int64_t> copied(const Indices& a) { return {a.data(), a.data() + a.shape(0)}; }

OwnedSchedule make_trees(const Indices& counts, const Indices& place, const Indices& input,
                         int64_t inputs, const Table& children, const Indices& first_child,
                         const Indices& child, const Indices& parent) {
    OwnedSchedule s{};
    for (const int64_t n : copied(counts)) {
        s.offsets.push_back(s.rows);
        s.counts.push_back(n);
        if (n < 0 || n > int64_t(place.shape(0)))
            throw std::invalid_argument("[trees] a level's count");
        s.rows += n;
    }
    const size_t rows = size_t(s.rows), slots = children.shape(0);
    const bool summed = first_child.shape(0) > 0;
    if (place.shape(0) != rows || input.shape(0) != rows ||
        (slots > 0 && children.shape(1) != rows) ||
        (summed && first_child.shape(0) != rows + 1) || child.shape(0) != parent.shape(0))
        throw std::invalid_argument("[trees] expected an index for each row");
    s.trees = OwnedTrees{.place = copied(place),
                         .input = copied(input),
                         .children = {children.data(), children.data() + slots * rows},
                         .first_child = copied(first_child),
                         .child = copied(child),
                         .parent = copied(parent),
                         .inputs = inputs,
                         .slots = int64_t(slots)};
    return s;
}

// The same schedule over the items of a call: of each set where those of each row begin.
OwnedSchedule with_items(const OwnedSchedule& schedule, const nb::args& sets) {
    OwnedSchedule s = schedule;
    s.sets = int64_t(sets.size());
    s.first_item.clear();
    for (nb::handle set : sets) {
        const auto first = nb::cast<Indices>(set);
        s.first_item.insert(s.first_item.end(), first.data(), first.data() + first.shape(0));
        if (first.shape(0) != nb::cast<Indices>(sets[0]).shape(0))
            throw std::invalid_argument("[schedule] sets of items are of the same rows");
    }
    return s;
}

template <class T> T get(const nb::handle& tuple, size_t i) {
    return nb::cast<T>(tuple[i]);
}

// -- a buffer is any DLPack array of two dimensions, or, without its cost, the tuple
// (address, rows, columns, stride in elements) of memory that the caller keeps alive, or
// (address, elements) of rows without gaps, or (address, elements, 2) of such rows in
// bf16; None is left to the core

Buffer read_buffer(const nb::handle& h, int element_size) {
    if (h.is_none()) return {};
    if (nb::isinstance<nb::tuple>(h)) {
        void* const data = reinterpret_cast<void*>(get<uintptr_t>(h, 0));
        const int64_t count = get<int64_t>(h, 1);
        const size_t length = nb::len(h);
        if (length == 2) return {data, 1, count, count};
        if (length == 3 && get<int>(h, 2) == 2) return {data, 1, count, count, true};
        if (length != 4)
            throw std::invalid_argument("[call] expected memory of 2, 3 or 4 numbers");
        return {data, count, get<int64_t>(h, 2), get<int64_t>(h, 3)};
    }
    const auto a = nb::cast<nb::ndarray<nb::device::cpu>>(h);
    const bool fits = a.dtype().code == uint8_t(nb::dlpack::dtype_code::Float) &&
                      a.dtype().bits == element_size * 8 && a.ndim() >= 1 && a.ndim() <= 2;
    if (!fits)
        throw std::invalid_argument("[call] expected a matrix of " +
                                    std::to_string(element_size * 8) + "-bit floats");
    if (a.stride(a.ndim() - 1) != 1 && a.shape(a.ndim() - 1) > 1)
        throw std::invalid_argument("[call] the elements of a row must be contiguous");
    if (a.ndim() == 1) return {a.data(), 1, int64_t(a.shape(0)), int64_t(a.shape(0))};
    return {a.data(), int64_t(a.shape(0)), int64_t(a.shape(1)), a.stride(0)};
}

std::vector<Buffer> read_buffers(const nb::handle& items, int element_size) {
    std::vector<Buffer> out;
    out.reserve(nb::len(items));
    for (nb::handle item : items) out.push_back(read_buffer(item, element_size));
    return out;
}

// Each is (array, first row, address, elements).
std::vector<Final> read_finals(const nb::handle& items, const Program& program) {
    std::vector<Final> out;
    out.reserve(nb::len(items));
    for (nb::handle f : items) {
        const auto array = get<size_t>(f, 0);
        if (array >= program.arrays.size())
            throw std::invalid_argument("[call] a final row's array is not among them");
        const int64_t columns = program.arrays[array].columns, count = get<int64_t>(f, 3);
        if (count < 0 || count % columns != 0)
            throw std::invalid_argument("[call] final rows must be whole rows");
        void* const data = reinterpret_cast<void*>(get<uintptr_t>(f, 2));
        out.push_back({array, get<int64_t>(f, 1), {data, count / columns, columns, columns}});
    }
    return out;
}

// One row that holds an array's rows one after the other becomes those rows.
void fold(std::vector<Buffer>& buffers, const std::vector<Array>& arrays) {
    for (size_t i = 0; i < std::min(buffers.size(), arrays.size()); ++i) {
        Buffer& b = buffers[i];
        const int64_t columns = arrays[i].columns;
        if (b.rows == 1 && b.columns % columns == 0)
            b = {b.data, b.columns / columns, columns, columns, b.bf16};
    }
}

void run_program(const Program& program, const OwnedSchedule& schedule, int element_size,
                 nb::handle arrays, nb::handle parameters, nb::handle gradients, int threads,
                 const std::string& isa, nb::handle finals) {
    Trees trees{};
    Call call{element_size,
              read_buffers(arrays, element_size),
              read_buffers(parameters, element_size),
              read_buffers(gradients, element_size),
              schedule.view(trees),
              threads_or(threads),
              &choose_isa(isa),
              read_finals(finals, program)};
    fold(call.arrays, program.arrays);
    const nb::gil_scoped_release released;
    run(program, call);
}

// -- a stepper: layers arrive as (program, parameters, states, items, where each row's
// items begin); a step is addresses

void init_stepper(Stepper* self, nb::handle layers, int element_size, int64_t rows,
                  const std::string& isa) {
    std::vector<StepperLayer> given;
    for (nb::handle layer : layers)
        given.push_back({get<const Program&>(layer, 0),
                         read_buffers(layer[1], element_size),
                         read_buffers(layer[2], element_size),
                         read_buffers(layer[3], element_size),
                         get<std::vector<int64_t>>(layer, 4)});
    new (self) Stepper(std::move(given), element_size, rows, choose_isa(isa));
}

void step(Stepper& self, uintptr_t x, uintptr_t y) {
    const void* inputs[] = {reinterpret_cast<const void*>(x)};
    const nb::gil_scoped_release released;
    self.step(inputs, 1, reinterpret_cast<void*>(y));
}

void step_named(Stepper& self, const std::vector<uintptr_t>& inputs, uintptr_t y) {
    std::vector<const void*> addresses;
    for (uintptr_t i : inputs) addresses.push_back(reinterpret_cast<const void*>(i));
    const nb::gil_scoped_release released;
    self.step(addresses.data(), addresses.size(), reinterpret_cast<void*>(y));
}

void raise_setting_error(const std::exception_ptr& caught, void*) {
    try {
        std::rethrow_exception(caught);
    } catch (const SettingError& error) {
        const nb::object kind =
            nb::module_::import_("cellwright.language.errors").attr("ArgumentError");
        PyErr_SetString(kind.ptr(), error.what());
    }
}

}  // namespace

NB_MODULE(_core, m) {
    nb::register_exception_translator(raise_setting_error);
    nb::set_leak_warnings(false);  // Python's caches of schedules live to the end
    m.doc() = "The native core: runs programs (see core/program.h) over schedules.";
    bind_program(m);
    nb::class_<OwnedSchedule>(m, "Schedule")
        .def("__init__", &init_schedule, nb::kw_only(), "offsets"_a, "counts"_a,
             "initial_rows"_a, "batch_rows"_a = std::vector<int64_t>(),
             "places"_a = std::vector<int64_t>(), "width"_a = 0, "rows"_a = 0,
             "resets"_a.none() = nb::none(), "gradient_rows"_a = 0)
        .def("with_items", &with_items, "sets"_a)
        .def_static("trees", &make_trees, nb::kw_only(), "counts"_a, "place"_a, "input"_a,
                    "inputs"_a, "children"_a, "first_child"_a, "child"_a, "parent"_a);
    m.def("run", &run_program, "program"_a, "schedule"_a, "element_size"_a, "arrays"_a,
          "parameters"_a, "gradients"_a, "threads"_a, "isa"_a,
          "finals"_a = nb::tuple());
    nb::class_<Stepper>(m, "Stepper")
        .def("__init__", &init_stepper, "layers"_a, "element_size"_a, "rows"_a, "isa"_a)
        .def("step", &step, "x"_a, "y"_a)  // addresses of contiguous rows
        .def("step", &step_named, "inputs"_a, "y"_a);
    m.def(
        "use_openmp",
        [](uintptr_t parallel, uintptr_t thread_number, uintptr_t team_size,
           uintptr_t in_parallel) {
            use_openmp({reinterpret_cast<decltype(OpenMP::parallel)>(parallel),
                        reinterpret_cast<decltype(OpenMP::thread_number)>(thread_number),
                        reinterpret_cast<decltype(OpenMP::team_size)>(team_size),
                        reinterpret_cast<decltype(OpenMP::in_parallel)>(in_parallel)});
        },
        "parallel"_a, "thread_number"_a, "team_size"_a, "in_parallel"_a,
        "Jobs run on the threads of this OpenMP runtime, given by its functions' addresses.");
    m.def("isas", [] {
        std::vector<std::string> names;
        for (const KernelSet* set : available_isas()) names.push_back(set->isa);
        return names;
    });
    m.def("refused_isas", &refused_isas);
    m.def("isa", [](const std::string& name) { return std::string(choose_isa(name).isa); },
          "name"_a = "");
    m.def("threads", &threads_or, "otherwise"_a);
}
