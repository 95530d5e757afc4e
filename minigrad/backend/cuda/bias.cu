// What a linear layer does beside its product: a bias and an activation in one pass over the product, in place, and the
// gradient of the bias, sums of columns. Each sum is cut by the shape alone and folded in a fixed order.

#include "device.cuh"
#include "chunks.cuh"
#include "functions.cuh"

enum Activation { NONE, RELU, GELU, GELU_TANH, SILU, SIGMOID, TANH };

template <class R>
DEVICE R activated(R x, int activation) {
    switch (activation) {
        case RELU: return Relu::value(x, R(0), R(0));
        case GELU: return Gelu::value(x, R(0), R(0));
        case GELU_TANH: return GeluTanh::value(x, R(0), R(0));
        case SILU: return Silu::value(x, R(0), R(0));
        case SIGMOID: return Sigmoid::value(x, R(0), R(0));
        case TANH: return Tanh::value(x, R(0), R(0));
        default: return x;
    }
}

// A thread takes a chunk of the n elements of `out`, whose rows have `columns`.
template <class T>
DEVICE void add_bias(T* out, const T* bias, long long n, long long columns, int activation) {
    typedef Real<T> R;
    constexpr int N = CHUNK<T>;
    const long long start = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (start >= n) {
        return;
    }
    const int count = static_cast<int>(n - start < N ? n - start : N);
    const bool whole = count == N && aligned(out);
    long long column = (n >> 32) ? start % columns : static_cast<unsigned>(start) % static_cast<unsigned>(columns);
    Chunk<T, N> chunk, shift;
    load(chunk, out + start, whole, count);
    if (columns % N == 0) {  // then no chunk has parts of two rows
        load(shift, bias + column, aligned(bias), N);
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k) {
            shift.at[k] = bias[column];
            column = column + 1 == columns ? 0 : column + 1;
        }
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
        const R sum = to_float(chunk.at[k]) + to_float(shift.at[k]);
        chunk.at[k] = from_float<T>(activated(sum, activation));
    }
    store(out + start, chunk, whole, count);
}

constexpr int LANES = 32, TEAMS = 8;

// Sums of the columns of g over the rows of one piece, blockIdx.y. A thread has a chunk of N columns and every eighth
// row. Where `kept` is there, the result of a relu, g counts where that is positive.
template <class T, class Out, int N>
DEVICE void column_sums(const T* g, const T* kept, Out* out, long long rows, long long columns, long long piece) {
    typedef Real<T> R;
    __shared__ R parts[TEAMS][LANES * N];
    const int lane = threadIdx.x % LANES, team = threadIdx.x / LANES;
    const long long column = (static_cast<long long>(blockIdx.x) * LANES + lane) * N;
    const long long first = blockIdx.y * piece, last = first + piece < rows ? first + piece : rows;
    const int count = static_cast<int>(columns - column < N ? (columns > column ? columns - column : 0) : N);
    const bool whole = count == N && columns % N == 0 && aligned(g) && aligned(kept);
    R sums[N];
#pragma unroll
    for (int k = 0; k < N; ++k) {
        sums[k] = R(0);
    }
    if (count > 0) {
#pragma unroll 4
        for (long long row = first + team; row < last; row += TEAMS) {
            Chunk<T, N> chunk, mask;
            load(chunk, g + row * columns + column, whole, count);
            if (kept) {
                load(mask, kept + row * columns + column, whole, count);
            }
#pragma unroll
            for (int k = 0; k < N; ++k) {
                const R value = to_float(chunk.at[k]);
                sums[k] += !kept || to_float(mask.at[k]) > R(0) ? value : R(0);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
        parts[team][lane * N + k] = sums[k];
    }
    __syncthreads();
    for (int j = threadIdx.x; j < LANES * N; j += LANES * TEAMS) {
        const long long at = static_cast<long long>(blockIdx.x) * LANES * N + j;
        if (at < columns) {
            R total = parts[0][j];
            for (int t = 1; t < TEAMS; ++t) {
                total += parts[t][j];
            }
            out[blockIdx.y * columns + at] = from_float<Out>(total);
        }
    }
}

// column_sums: of all rows at once; column_parts: one row of sums a piece; column_fold: the sum of these.
#define KERNELS(NAME, T)                                                                                         \
    extern "C" __global__ void add_bias_##NAME(T* out, const T* bias, long long n, long long columns,            \
                                               int activation) {                                                 \
        add_bias(out, bias, n, columns, activation);                                                             \
    }                                                                                                            \
    extern "C" __global__ void column_sums_##NAME(const T* g, const T* kept, T* out, long long rows,             \
                                                  long long columns, long long piece) {                          \
        column_sums<T, T, CHUNK<T>>(g, kept, out, rows, columns, piece);                                         \
    }                                                                                                            \
    extern "C" __global__ void column_parts_##NAME(const T* g, const T* kept, Real<T>* out, long long rows,      \
                                                   long long columns, long long piece) {                         \
        column_sums<T, Real<T>, CHUNK<T>>(g, kept, out, rows, columns, piece);                                   \
    }                                                                                                            \
    extern "C" __global__ void column_fold_##NAME(const Real<T>* parts, T* out, long long pieces,                \
                                                  long long columns) {                                           \
        column_sums<Real<T>, T, 1>(parts, nullptr, out, pieces, columns, pieces);                                \
    }

KERNELS(float16, float16)
KERNELS(bfloat16, bfloat16)
KERNELS(float32, float)
KERNELS(float64, double)
