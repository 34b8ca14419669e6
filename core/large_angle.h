// sin and cos of arguments that the vector code cannot reduce. Compiled once, not per
// instruction set: the same bits everywhere.
#pragma once

namespace cellwright {

// sin(x + quarter * pi / 2) for |x| >= 2^-9, to 2 ulp; NaN if x is infinite or NaN.
// `quarter` is 0 for sin, 1 for cos.
double sine_of_large(double x, int quarter);

}  // namespace cellwright
