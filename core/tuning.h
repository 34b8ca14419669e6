// Every constant that was tuned: what it counts, and what measured it.
//
// "engine": python benchmarks/engine.py on two checkouts in turn, the LSTM's shapes of
// benchmarks/cases.py; benchmarks/paired.py now does the same in one command. "first
// experiment": hand-written kernels of one LSTM, from before this repository; no script is
// left, and docs/engine.md tells what was tried since. What a number of units must stay
// below or above was found by halving and doubling it: twice or half as much costs little.
// "attention": python benchmarks/attention.py.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace cellwright {

// -- tiles: what stays in the L1 cache

constexpr int64_t kTileBytes = 28 << 10;  // bytes of a tile's registers; engine
constexpr int64_t kWideTileRows = 8;      // rows of a tile that spans all units, at least;
                                          // first experiment
constexpr int64_t kReuseRows = 72;        // rows that a tile had better have: fewer fetch
                                          // the weights too often; engine
constexpr int64_t kPanelRows = 12;        // rows of a tile of gate gradients: no product
                                          // is in it; engine
constexpr int kTileRows = 72;             // rows of a tile at most; engine
constexpr int64_t kLineBytes = 64;        // bytes of a cache line: not tuned

// -- products

constexpr int64_t kDepth = 128;        // k of a block of weights: with 4 vectors of 64
                                       // bytes it fills the L1 cache; first experiment
constexpr int64_t kOuterRows = 128;    // rows of gate gradients that stay in the L1 cache
                                       // under a weight gradient; first experiment
constexpr int64_t kDotDepth = 256;     // k of a block of weights in bf16, where these are
                                       // multiplied; not tuned
constexpr int64_t kOuterPairs = 64;    // pairs of such rows under a weight gradient; not
                                       // tuned
constexpr int64_t kFewRows = 2;        // rows too few to fill a micro-kernel's registers;
                                       // engine --shapes 1x100x64x128
constexpr int kVectorsOfFewRows = 8;   // vectors abreast in a product of one row; likewise
constexpr int64_t kConvertedGroups = 2;  // micro-kernels of rows from which a block of bf16
                                         // weights is converted once; not tuned
constexpr int64_t kRoundedWeights = 4 << 20;  // bytes of weights that are read as rounded
                                              // floats rather than converted from bf16
constexpr int64_t kPackedDepth = 64;   // k of a block that packing writes at a time, or
                                       // unpacking reads: stays in the L1 cache; first
                                       // experiment

// -- chunks and tasks

constexpr int64_t kChunkRows = 512;    // rows of gate gradients held at a time; 256 and
                                       // 1024 make no difference; engine
constexpr int64_t kChunkItems = 8192;  // items of a chunk's rows, where they are looked at
                                       // together; not tuned
constexpr int64_t kItemBytes = 2 << 20;  // bytes of items that go through the levels
                                         // together: no more than the L2 cache; attention
constexpr int64_t kItemRows = 8;         // and at least so many rows; likewise
constexpr int64_t kForwardRows = 128;  // rows of a forward chunk: what its stages hand on
                                       // stays in the L2 cache; linear.py --threads 1
constexpr int64_t kHoistedRows = 64;   // rows whose inputs' products are held at a time;
                                       // engine --shapes 1x100x64x128
constexpr int64_t kSliceColumns = 96;  // source columns of a weight gradient's task; engine
constexpr int64_t kLeastSliceColumns = 12;  // the same where tasks are few: one micro-kernel
constexpr int64_t kBlocksEach = 4;     // blocks of a stage for each thread that shares it;
                                       // engine

// -- recurrences of matrices; benchmarks/matrices.py

constexpr int64_t kRecurrenceSteps = 16;  // steps that go together at most: what is kept of
                                          // a matrix in training is its value every so many
constexpr int64_t kLeastSteps = 64;       // steps of a row; shorter ones go one by one, with
                                          // the bits of a stepper; their gradient does not

// -- threads; engine --threads 2 --shapes 1x100x64x128,7x33x19x50,…

constexpr int64_t kOneThread = 1 << 18;    // multiply-adds not worth a second thread
constexpr int64_t kOneLevel = 1 << 18;     // multiply-adds of a level not worth sharing
constexpr int64_t kFewRowsWork = 1 << 21;  // multiply-adds of rows too few for a thread each
constexpr int64_t kOneScanner = 1 << 23;   // multiply-adds where one thread scans all levels
constexpr int64_t kOwnRows = 8;            // rows a thread needs to scan on its own
constexpr int64_t kOwnWeights = 3 << 19;   // bytes of weights a thread may scan past

constexpr int64_t kSpeed = 64;  // multiply-adds a nanosecond, roughly: of two AVX-512 cores
// Nanoseconds that a caller waits for workers to come: at least, at most, and as a part of
// what the job takes alone; engine --threads 2 with other jobs running.
constexpr int64_t kLeastPatience = 20'000, kMostPatience = 2'000'000, kPatiencePart = 10;

constexpr int kSpins = 4000;          // looks before a worker parks: about 100 microseconds
constexpr int kSpinsAtBarrier = 400;  // looks before a thread gives its core away between
                                      // them; both: engine --threads 2

// -- memory

constexpr size_t kKeptBytes = size_t(64) << 20;  // bytes of workspace kept for the next
                                                 // call, at most: a choice, not measured
constexpr size_t kHugeBytes = size_t(8) << 20;   // bytes of an output from which huge pages
                                                 // pay; engine --shapes 256x365x32x64

}  // namespace cellwright
