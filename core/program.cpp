#include "program.h"

#include <algorithm>
#include <stdexcept>

#include "tuning.h"

namespace cellwright {

namespace {

enum class Kind { memory, elementwise, reduction };
struct OpcodeInfo {
    const char* name;
    int reads;
    Kind kind;
};
constexpr OpcodeInfo kOpcodes[] = {
#define OPCODE(name, reads, kind) {#name, reads, Kind::kind},
#include "opcodes.def"
#undef OPCODE
};
constexpr int kOpcodeCount = sizeof kOpcodes / sizeof *kOpcodes;

// No size, offset or stride of a program is larger: products of two cannot overflow.
constexpr int64_t kLimit = int64_t(1) << 31;

struct Checker {
    const Program& program;
    std::string where = "program";

    void require(bool fact, const std::string& what) const {
        if (!fact) throw std::invalid_argument("[" + where + "] " + what);
    }
    void index(int64_t i, size_t size, const char* what) const {
        require(i >= 0 && i < int64_t(size), std::string(what) + " " +
                                                 std::to_string(i) + " is not among the " +
                                                 std::to_string(size));
    }
    void size(int64_t n, const char* what) const {
        require(n >= 1 && n < kLimit,
                std::string(what) + " must be positive; received " + std::to_string(n));
    }

    void array(const Array& a, bool after_scratch) const {
        size(a.columns, "columns");
        require(a.rows >= Rows::sequence && a.rows <= Rows::spaced, "unknown kind of rows");
        axis(a.axis);
        require(a.axis != Axis::matrix, "an array has no rows of a matrix");
        const bool of_nodes = a.rows == Rows::input || a.rows == Rows::initial;
        require(!of_nodes || a.axis == Axis::node, "a child or an item has no such rows");
        require(a.rows != Rows::input || program.tree, "only trees may lack an input");
        require(a.rows != Rows::initial || !program.tree, "trees have no initial rows");
        require(a.scratch || !after_scratch, "the caller's arrays must come first");
        const bool core_only = a.rows == Rows::chunk || a.rows == Rows::panel ||
                               a.rows == Rows::parameter;
        require(!core_only || a.scratch, "chunks, panels and parameters are the core's own");
        require(!a.scratch || core_only || a.rows == Rows::rolling,
                "scratch is rolling, a chunk, a panel or a parameter");
        if (a.rows == Rows::parameter) {
            index(a.parameter, program.parameters.size(), "parameter");
            require(a.columns == program.parameters[a.parameter], "a row is all of a parameter");
        }
        if (a.rows == Rows::rolling || a.rows == Rows::spaced) size(a.depth, "depth");
        require(a.rows != Rows::spaced || (!program.tree && a.axis == Axis::node),
                "only states of sequences are spaced");
        if (a.rows == Rows::panel) {
            index(a.stage, program.stages.size(), "the panel's stage");
            require(program.backward && program.stages[a.stage].when != When::after_chunk,
                    "a panel belongs to a stage of a backward scan, not after a chunk");
            require(program.stages[a.stage].axis == a.axis, "a panel is its stage's");
        }
        if (a.initial >= 0) {
            index(a.initial, program.arrays.size(), "the initial array");
            const Array& initial = program.arrays[a.initial];
            require(initial.rows == Rows::initial && initial.columns == a.columns,
                    "the initial array must have initial rows of the same columns");
            require(a.rows == Rows::sequence || a.rows == Rows::rolling ||
                        a.rows == Rows::spaced,
                    "only sequence, rolling and spaced arrays have initial rows");
        }
    }

    void axis(Axis a) const {
        require(a.kind >= Axis::node && a.kind <= Axis::matrix, "unknown axis");
        require(a != Axis::child || program.tree, "only a scan of trees has children");
        require(a != Axis::item || !program.tree, "only a scan of sequences has items");
        require(a != Axis::matrix || !program.tree, "only a scan of sequences has matrices");
        require(a == Axis::item ? a.set >= 0 && a.set < kMaxSets : a.set == 0,
                "no such set of items");
    }

    void view(const View& v) const {
        index(v.array, program.arrays.size(), "array");
        const Array& a = program.arrays[v.array];
        require(a.rows != Rows::initial, "initial rows are read through their array");
        require(!v.previous || a.axis != Axis::item, "an item has no predecessor");
        require(v.slot == 0 || (program.tree && v.slot >= kEveryChild && v.slot < 1024),
                "only a tree has several predecessors");
        if (v.previous && program.tree)
            require(a.rows == Rows::sequence && a.axis == Axis::node,
                    "array '" + a.name + "' has no children's rows");
        if (v.previous && !program.tree)
            require(a.rows == Rows::sequence || a.rows == Rows::spaced
                        ? a.initial >= 0
                        : a.rows == Rows::rolling &&
                                                   (a.initial >= 0 || a.depth == 1),
                    "array '" + a.name + "' has no predecessors' rows");
    }

    void piece(const Piece& p, int64_t units, int64_t width) const {
        index(p.parameter, program.parameters.size(), "parameter");
        require(p.offset >= 0 && p.offset < kLimit && p.stride >= 0 && p.stride < kLimit,
                "a piece's offset and stride must not be negative");
        require(p.offset + (units - 1) * p.stride + width <=
                    program.parameters[p.parameter],
                "a piece reaches past parameter " + std::to_string(p.parameter));
    }

    void heads(int64_t n, int64_t units, int64_t width) const {
        size(n, "heads");
        require(units % n == 0 && width % n == 0, "heads must divide units and width");
    }

    int64_t panel_units(int32_t array_index, int64_t first, int64_t count) const {
        index(array_index, program.arrays.size(), "array");
        const Array& a = program.arrays[array_index];
        require(a.rows == Rows::panel, "'" + a.name + "' is no panel");
        require(first >= 0 && count >= 1 && first + count <= a.columns,
                "columns past the end of panel '" + a.name + "'");
        return program.stages[a.stage].units;
    }

    void term(const Stage& s, const Term& t) const {
        index(t.view, s.views.size(), "view");
        size(t.width, "width");
        heads(t.heads, s.units, t.width);
        require(!t.pieces.empty() && t.pieces.size() < 1024, "a term needs pieces");
        require(t.columns.size() == (t.transposed ? 1 : t.pieces.size()),
                "a term needs a register for each piece");
        for (int32_t c : t.columns) {
            bool found = false;
            for (const Accumulator& a : s.accumulators) found |= a.tile == c;
            require(found, "register " + std::to_string(c) + " is no accumulator");
        }
        const View& v = s.views[t.view];
        require(program.axis(v) == Axis::node || program.axis(v) == s.axis,
                "a product reads array '" + program.arrays[v.array].name +
                    "' of other children or items");
        if (t.transposed) {
            const int64_t units = panel_units(v.array, t.first, t.pieces.size());
            require(units == t.width, "a transposed term's width is the panel's units");
            for (const Piece& p : t.pieces) piece(p, units, s.units / t.heads);
        } else {
            const Array& a = program.arrays[v.array];
            require(a.rows != Rows::panel && a.columns == t.width,
                    "a term's width must be that of array '" + a.name + "'");
            for (const Piece& p : t.pieces) piece(p, s.units, t.width / t.heads);
        }
    }

    void instruction(const Stage& s, const Instruction& in, bool prologue) const {
        index(int64_t(in.op), kOpcodeCount, "opcode");
        const OpcodeInfo& info = kOpcodes[int(in.op)];
        const int64_t registers = int64_t(s.tiles) + s.row_registers;
        const int64_t args[] = {in.a, in.b, in.c};
        for (int i = 0; i < info.reads; ++i) {
            index(args[i], registers, "register");
            require(!prologue || args[i] >= s.tiles, "the prologue has row registers only");
        }
        if (!stores(in)) {
            index(in.dst, registers, "register");
            require((in.dst >= s.tiles) == prologue,
                    "the code writes tiles, the prologue row registers");
        }
        if (in.op == Opcode::vector_ || in.op == Opcode::constant_) {
            require(prologue, std::string(info.name) + " belongs in the prologue");
            if (in.op == Opcode::vector_) index(in.a, s.vectors.size(), "vector");
            return;
        }
        require(!prologue || info.kind == Kind::elementwise, "the prologue only computes");
        if (info.kind == Kind::reduction) {
            require(s.whole, std::string(info.name) + " needs a stage that spans all units");
            if (in.op == Opcode::layer_norm_ || in.op == Opcode::block_mean_)
                heads(in.b, s.units, s.units);
        }
        if (s.axis == Axis::matrix) return of_matrix(s, in);
        const auto access = [&](int64_t v, bool fits, bool reads) {
            const Array& a = program.arrays[s.views[v].array];
            require(fits, std::string(info.name) + " does not fit the rows of its stage");
            require(reads || (a.rows != Rows::batch && a.rows != Rows::parameter),
                    "'" + a.name + "' is only read");
            require(a.rows != Rows::panel && (a.columns == s.units || a.columns == 1),
                    "array '" + a.name + "' does not fit the stage's units");
        };
        const auto axis_of = [&](int64_t v) {
            index(v, s.views.size(), "view");
            return program.axis(s.views[v]);
        };
        const bool node = s.axis == Axis::node;
        const auto items = [&](int64_t v, bool reads) {
            access(v, node && axis_of(v) == Axis::item, reads);
        };
        const auto one_set = [&](int64_t v, int64_t other) {
            require(axis_of(v) == axis_of(other), std::string(info.name) + " reads one set");
        };
        const auto columns = [&](int64_t v) {
            index(v, s.views.size(), "view");
            return program.arrays[s.views[v].array].columns;
        };
        const auto number = [&](int64_t v) {
            require(columns(v) == 1, "expected one number for each item");
        };
        switch (in.op) {
            case Opcode::load_: {
                const Axis axis = axis_of(in.a);
                return access(in.a, axis == Axis::node || axis == s.axis, true);
            }
            case Opcode::total_: return access(in.a, node && axis_of(in.a) == Axis::child, true);
            case Opcode::store_: return access(in.b, axis_of(in.b) == s.axis, false);
            case Opcode::accumulate_: {
                const Axis axis = axis_of(in.b);
                const bool total = s.axis == Axis::item && axis == Axis::node;
                return access(in.b, axis == s.axis || total, false);
            }
            case Opcode::attention_:
                one_set(in.a, in.b);
                items(in.a, true);
                return items(in.b, false);
            case Opcode::attention_gradient_:
                for (const int64_t v : {in.a, in.b, in.c}) {
                    number(v);
                    one_set(v, in.a);
                    items(v, v != in.b);
                }
                return;
            case Opcode::weighted_total_:
                number(in.a);
                one_set(in.a, in.b);
                items(in.a, true);
                return items(in.b, true);
            case Opcode::dot_items_:
                require(s.whole, "dot_items needs a stage that spans all units");
                one_set(in.b, in.c);
                items(in.b, false);
                number(in.b);
                items(in.c, true);
                return require(columns(in.c) == s.units, "dot_items reads all units");
            case Opcode::outer_items_:
                one_set(in.b, in.c);
                items(in.b, false);
                items(in.c, true);
                return number(in.c);
            case Opcode::load_scaled_:
            case Opcode::add_outer_:
            case Opcode::dot_columns_:
            case Opcode::dot_rows_:
            case Opcode::sum_block_:
            case Opcode::dot_block_:
                return require(false, std::string(info.name) + " is of matrices");
            default: break;
        }
        if (in.op == Opcode::store_panel_) {
            index(in.b, s.views.size(), "view");
            const View& v = s.views[in.b];
            panel_units(v.array, in.c, 1);
            require(&program.stages[program.arrays[v.array].stage] == &s,
                    "a panel is written by its own stage");
        }
    }

    // What may stand in a stage of matrices, and where it reads and writes.
    void of_matrix(const Stage& s, const Instruction& in) const {
        using enum Form;
        const auto sees = [&](int64_t v, std::initializer_list<Form> forms, bool reads) {
            index(v, s.views.size(), "view");
            const View& view = s.views[v];
            const Array& a = program.arrays[view.array];
            require(std::find(forms.begin(), forms.end(), view.form) != forms.end(),
                    "array '" + a.name + "' is not seen in a form that the instruction takes");
            require(reads || (a.rows != Rows::batch && a.rows != Rows::parameter),
                    "'" + a.name + "' is only read");
            require(a.rows != Rows::panel && a.columns == elements(s, view.form),
                    "array '" + a.name + "' does not fit the stage's matrix");
        };
        switch (in.op) {
            case Opcode::load_: return sees(in.a, {matrix, rows, columns, heads, number}, true);
            case Opcode::store_: return sees(in.b, {matrix, rows}, false);
            case Opcode::accumulate_: return sees(in.b, {matrix, columns, heads, number}, false);
            case Opcode::load_scaled_:
                sees(in.a, {matrix}, true);
                return sees(in.b, {rows, heads, number}, true);
            case Opcode::add_outer_:
                sees(in.b, {rows, heads, number}, true);
                return sees(in.c, {columns}, true);
            case Opcode::dot_columns_:
                sees(in.b, {rows}, false);
                return sees(in.c, {columns}, true);
            case Opcode::dot_rows_:
                sees(in.b, {columns}, false);
                return sees(in.c, {rows, heads, number}, true);
            case Opcode::sum_block_: return sees(in.b, {heads, number}, false);
            case Opcode::dot_block_:
                sees(in.b, {heads, number}, false);
                return sees(in.c, {matrix}, true);
            default:
                require(kOpcodes[int(in.op)].kind != Kind::memory,
                        std::string(kOpcodes[int(in.op)].name) + " is not of matrices");
        }
    }

    void stage(const Stage& s) const {
        size(s.units, "units");
        size(s.tiles, "tiles");
        require(s.tiles < 4096 && s.row_registers >= 0 && s.row_registers < 4096,
                "too many registers");
        require(s.views.size() <= size_t(kMaxViews), "too many views");
        require(s.when >= When::level && s.when <= When::after_chunk, "unknown when");
        require(s.when != When::after_chunk || program.backward,
                "only a backward scan has work after a chunk");
        axis(s.axis);
        for (const View& v : s.views) {
            view(v);
            require((v.form == Form::whole) == (s.axis != Axis::matrix) &&
                        v.form >= Form::whole && v.form <= Form::number,
                    "a stage of matrices, and no other, sees arrays in a form");
        }
        if (s.axis == Axis::matrix) {
            size(s.heads, "heads");
            size(s.matrix_rows, "rows of a block");
            require(s.heads * s.matrix_rows < kLimit / s.units, "too large a matrix");
            require(s.whole && s.terms.empty() && s.vectors.empty(),
                    "a stage of matrices spans their columns, and has no products");
            require(s.when != When::after_chunk, "nor does it run after a chunk");
        }
        recurrence(s);
        for (const Piece& p : s.vectors) piece(p, s.units, 1);
        for (const Accumulator& a : s.accumulators) {
            index(a.tile, s.tiles, "tile");
            require(a.start >= s.tiles && a.start < s.tiles + s.row_registers,
                    "an accumulator starts from a row register");
        }
        for (const Term& t : s.terms) term(s, t);
        for (const Instruction& in : s.prologue) instruction(s, in, true);
        for (const Instruction& in : s.code) instruction(s, in, false);
        reads_in_place(s);
    }

    // A recurrence sees what it needs, each in its form; and nothing else sees what it keeps.
    void recurrence(const Stage& s) const {
        const Recurrence& r = s.recurrence;
        for (const View& v : s.views) {
            const Array& a = program.arrays[v.array];
            require(a.rows != Rows::spaced || r.steps == a.depth,
                    "array '" + a.name + "' is spaced for a recurrence");
        }
        if (r.steps == 0) return;
        require(s.axis == Axis::matrix && s.when == When::level,
                "a recurrence is of matrices, level by level");
        require(r.steps == kRecurrenceSteps, "a recurrence is of another number of levels");
        const auto alone = [&](const Stage& other) {
            return &other == &s || other.when != When::level || other.loop != s.loop;
        };
        require(std::all_of(program.stages.begin(), program.stages.end(), alone),
                "a recurrence is alone in its loop");
        const auto sees = [&](int32_t v, Form form, bool needed) {
            if (v == -1) return require(!needed, "a recurrence lacks a view");
            index(v, s.views.size(), "view");
            const Form found = s.views[v].form;
            const bool number = form == Form::heads && found == Form::number && s.heads == 1;
            require(found == form || number, "a recurrence sees a view in another form");
        };
        for (const int32_t v : {r.v, r.y}) sees(v, Form::rows, true);
        for (const int32_t v : {r.k, r.q}) sees(v, Form::columns, true);
        for (const int32_t v : {r.before, r.after}) sees(v, Form::matrix, true);
        for (const int32_t v : {r.d_before, r.d_after}) sees(v, Form::matrix, program.backward);
        sees(r.gate, Form::heads, false);
        sees(r.d_gate, Form::heads, false);
        sees(r.d_v, Form::rows, false);
        for (const int32_t v : {r.d_k, r.d_q}) sees(v, Form::columns, false);
    }

    // What a load leaves in memory (b = 1) is read by the next instruction that is no
    // load, a sum, difference or product, and by no other: see opcodes.def.
    void reads_in_place(const Stage& s) const {
        std::vector<bool> absent(size_t(s.tiles) + size_t(s.row_registers));
        std::vector<int32_t> waiting;
        for (const Instruction& in : s.code) {
            const int32_t args[] = {in.a, in.b, in.c};
            const auto reads = [&](int32_t tile) {
                return std::find(args, args + kOpcodes[int(in.op)].reads, tile) !=
                       args + kOpcodes[int(in.op)].reads;
            };
            const bool reader = in.op == Opcode::add_ || in.op == Opcode::sub_ ||
                                in.op == Opcode::mul_;
            if (in.op != Opcode::load_) {
                for (const int32_t tile : waiting) {
                    require(reader && reads(tile), "what a load leaves in memory is read next");
                    absent[tile] = false;
                }
            }
            for (size_t tile = 0; tile < absent.size(); ++tile)
                require(!absent[tile] || !reads(int32_t(tile)),
                        "what a load leaves in memory is read once");
            for (const int32_t tile : waiting)
                if (in.op != Opcode::load_) absent[tile] = true;
            if (in.op != Opcode::load_) waiting.clear();
            if (!stores(in)) absent[in.dst] = false;
            if (in.op != Opcode::load_) continue;
            require(std::find(waiting.begin(), waiting.end(), in.dst) == waiting.end(),
                    "what a load leaves in memory is written again before it is read");
            if (in.b != 0) waiting.push_back(in.dst);
        }
        require(waiting.empty(), "what a load leaves in memory is read next");
    }

    void gradient(const Gradient& g) const {
        const int64_t units = panel_units(g.panel, g.first, g.pieces.size());
        view(g.source);
        require(g.source.form == Form::whole, "a gradient's source is a whole row");
        const Array& source = program.arrays[g.source.array];
        require(source.rows != Rows::panel && source.columns == g.width,
                "a gradient's width must be that of array '" + source.name + "'");
        require(source.rows == Rows::sequence || source.rows == Rows::chunk ||
                    source.rows == Rows::input || source.rows == Rows::batch ||
                    (source.rows == Rows::rolling && source.depth == 1),
                "a gradient's source must outlive its level");
        require(program.axis(g.source) == Axis::node ||
                    program.axis(g.source) == program.arrays[g.panel].axis,
                "a gradient reads array '" + source.name + "' of other children or items");
        heads(g.heads, units, g.width);
        for (const Piece& p : g.pieces) piece(p, units, g.width / g.heads);
    }

    void check() {
        require(program.precision >= Precision::full && program.precision <= Precision::int8,
                "unknown precision");
        require(program.precision != Precision::int8 || !program.backward,
                "weights of 8 bits are for forward scans");
        bool scratch = false;
        for (const Array& a : program.arrays) {
            where = "array '" + a.name + "'";
            array(a, scratch);
            scratch |= a.scratch;
        }
        for (size_t i = 0; i < program.stages.size(); ++i) {
            where = "stage " + std::to_string(i);
            stage(program.stages[i]);
        }
        where = "gradient";
        require(program.backward || (program.gradients.empty() && program.reductions.empty()),
                "only a backward scan has gradients");
        for (const Gradient& g : program.gradients) gradient(g);
        for (const Reduction& r : program.reductions)
            piece(r.piece, panel_units(r.panel, r.column, 1), 1);
    }
};

}  // namespace

std::vector<int32_t> views_of(const Instruction& in) {
    switch (in.op) {
        case Opcode::load_:
        case Opcode::total_: return {in.a};
        case Opcode::store_:
        case Opcode::accumulate_:
        case Opcode::sum_block_:
        case Opcode::store_panel_: return {in.b};
        case Opcode::weighted_total_:
        case Opcode::attention_:
        case Opcode::load_scaled_: return {in.a, in.b};
        case Opcode::dot_items_:
        case Opcode::outer_items_:
        case Opcode::add_outer_:
        case Opcode::dot_columns_:
        case Opcode::dot_rows_:
        case Opcode::dot_block_: return {in.b, in.c};
        case Opcode::attention_gradient_: return {in.a, in.b, in.c};
        default: return {};
    }
}

void Program::validate() const { Checker{*this}.check(); }

int Program::given_arrays() const {
    int given = 0;
    for (const Array& a : arrays) given += !a.scratch;
    return given;
}

std::vector<bool> Program::written() const {
    std::vector<bool> writes(arrays.size());
    for (const Stage& s : stages)
        for (const Instruction& in : s.code)
            if (stores(in)) {
                const View& v = s.views[in.b];
                writes[v.array] = true;
                if (v.previous && arrays[v.array].initial >= 0)
                    writes[arrays[v.array].initial] = true;
            }
    return writes;
}

int32_t Program::sets() const {
    int32_t count = 0;
    for (const Array& a : arrays)
        if (a.axis == Axis::item) count = std::max(count, a.axis.set + 1);
    return count;
}

}  // namespace cellwright
