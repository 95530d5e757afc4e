// Rotary embedding: pairs of features are turned in one pass, in whatever order the rows lie.

#include "device.cuh"

// From one sequence, head and token to the next, in elements; 0 where all have the same.
struct Steps {
    long long sequence, head, token;

    __device__ __forceinline__ long long at(long long b, long long h, long long i) const {
        return b * sequence + h * head + i * token;
    }
};

// (a, b) becomes (a cos - b sin, b cos + a sin), or, `back`, is turned the other way. `lanes` threads, a power of two,
// take a row: a pair each in turn, then the features behind the pairs.
template <class T, class Table>
DEVICE void turn(const T* x, const Table* cos, const Table* sin, T* out, Steps from, Steps to, Steps cosines, Steps sines,
                 long long rows, long long heads, long long length, int features, int pairs, int lanes, int interleaved,
                 int back) {
    typedef typename Sum<T>::type R;
    const long long row = static_cast<long long>(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
    if (row >= rows) {
        return;
    }
    const long long i = row % length, h = row / length % heads, b = row / length / heads;
    x += from.at(b, h, i);
    out += to.at(b, h, i);
    cos += cosines.at(b, h, i);
    sin += sines.at(b, h, i);
    for (int j = threadIdx.x % lanes; j < features - pairs; j += lanes) {
        if (j >= pairs) {
            out[j + pairs] = x[j + pairs];
            continue;
        }
        const int first = interleaved ? 2 * j : j, second = interleaved ? 2 * j + 1 : j + pairs;
        const R a = to_float(x[first]), c = to_float(x[second]), u = to_float(cos[j]);
        const R v = back ? -to_float(sin[j]) : to_float(sin[j]);
        out[first] = from_float<T>(a * u - c * v);
        out[second] = from_float<T>(c * u + a * v);
    }
}

#define KERNEL(NAME, T, Table)                                                                                        \
    extern "C" __global__ void rotary_##NAME(                                                                         \
        const T* x, const Table* cos, const Table* sin, T* out, long long x0, long long x1, long long x2,             \
        long long out0, long long out1, long long out2, long long cos0, long long cos1, long long cos2,               \
        long long sin0, long long sin1, long long sin2, long long rows, long long heads, long long length,            \
        int features, int pairs, int lanes, int interleaved, int back) {                                              \
        turn(x, cos, sin, out, {x0, x1, x2}, {out0, out1, out2}, {cos0, cos1, cos2}, {sin0, sin1, sin2}, rows, heads, \
             length, features, pairs, lanes, interleaved, back);                                                      \
    }

KERNEL(float16_float16, float16, float16)
KERNEL(float16_float32, float16, float)
KERNEL(bfloat16_bfloat16, bfloat16, bfloat16)
KERNEL(bfloat16_float32, bfloat16, float)
KERNEL(float32_float32, float, float)
KERNEL(float64_float64, double, double)
