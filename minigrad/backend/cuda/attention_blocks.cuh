// Attention without tensor cores: tiles of 32 rows in shared memory, of which each of 64 threads has four rows and four
// columns of a block of scores, and eight features of four rows of what is summed.

#include "attention_problem.cuh"

constexpr int TILE = 32, SIDE = 8, THREADS = SIDE * SIDE, OWN = TILE / SIDE, FEATURES = 64, CHUNK = FEATURES / SIDE;

template <typename real>
using Block = real[OWN][OWN];
template <typename real>
using Sums = real[OWN][CHUNK];

DEVICE int down() { return threadIdx.x / SIDE; }
DEVICE int along() { return threadIdx.x % SIDE; }

// Rows from `first` on, of which those from `end` on are 0.
template <typename T, typename real>
DEVICE void fill(real* tile, int pitch, const T* rows, long long step, int first, int end, int columns) {
    for (int i = threadIdx.x; i < TILE * columns; i += THREADS) {
        const int row = i / columns, column = i % columns;
        tile[row * pitch + column] = first + row < end ? static_cast<real>(to_float(rows[(first + row) * step + column])) : 0;
    }
}

// Rows of x times rows of y.
template <typename real>
DEVICE void products(Block<real>& d, const real* x, const real* y, int pitch, int columns) {
    for (int a = 0; a < OWN; ++a) {
        for (int b = 0; b < OWN; ++b) {
            d[a][b] = 0;
        }
    }
    x += down() * pitch;
    y += along() * pitch;
    for (int k = 0; k < columns; ++k) {
        real left[OWN], right[OWN];
#pragma unroll
        for (int a = 0; a < OWN; ++a) {
            left[a] = x[a * SIDE * pitch + k];
            right[a] = y[a * SIDE * pitch + k];
        }
#pragma unroll
        for (int a = 0; a < OWN; ++a) {
#pragma unroll
            for (int b = 0; b < OWN; ++b) {
                d[a][b] = product_sum(left[a], right[b], d[a][b]);
            }
        }
    }
}

// Keep a block where all threads that share its rows read it.
template <typename real>
DEVICE void keep(real* weights, const Block<real>& s) {
#pragma unroll
    for (int a = 0; a < OWN; ++a) {
#pragma unroll
        for (int b = 0; b < OWN; ++b) {
            weights[(down() + a * SIDE) * (TILE + 1) + along() + b * SIDE] = s[a][b];
        }
    }
}

// Adds weights times rows, features from `first` on.
template <typename real>
DEVICE void add_mixed(Sums<real>& sums, const real* weights, const real* rows, int pitch, int first, int columns) {
    const int there = (columns - first - along() + SIDE - 1) / SIDE;  // of the thread's features
    weights += down() * (TILE + 1);
    rows += first + along();
    for (int k = 0; k < TILE; ++k) {
        real left[OWN];
#pragma unroll
        for (int a = 0; a < OWN; ++a) {
            left[a] = weights[a * SIDE * (TILE + 1) + k];
        }
#pragma unroll
        for (int c = 0; c < CHUNK; ++c) {
            const real right = c < there ? rows[k * pitch + c * SIDE] : 0;
#pragma unroll
            for (int a = 0; a < OWN; ++a) {
                sums[a][c] = product_sum(left[a], right, sums[a][c]);
            }
        }
    }
}

// Write sums, each times the scale of its row.
template <typename T, typename real>
DEVICE void store(const Sums<real>& sums, const real (&scale)[OWN], T* rows, long long step, int first, int end, int column, int columns) {
#pragma unroll
    for (int a = 0; a < OWN; ++a) {
        const int row = first + down() + a * SIDE;
#pragma unroll
        for (int c = 0; c < CHUNK; ++c) {
            const int place = column + along() + c * SIDE;
            if (row < end && place < columns) {
                rows[row * step + place] = from_float<T>(sums[a][c] * scale[a]);
            }
        }
    }
}

// The sum or the largest of the eight threads that share rows.
template <typename real>
DEVICE real sum_along(real x) {
#pragma unroll
    for (int d = SIDE / 2; d; d /= 2) {
        x += __shfl_xor_sync(0xFFFFFFFFu, x, d);
    }
    return x;
}

template <typename real>
DEVICE real max_along(real x) {
#pragma unroll
    for (int d = SIDE / 2; d; d /= 2) {
        x = max(x, __shfl_xor_sync(0xFFFFFFFFu, x, d));
    }
    return x;
}

// Weights and the gradients of scores of one block: queries are its rows, or its columns where Turned. s and g hold
// products; s becomes the weights that dropout leaves, g the gradients of scores, `bent` those of their caps.
template <bool Turned, typename T, typename real>
DEVICE void grade(
    const Scores<T, false>& scores, Block<real>& s, Block<real>& g, Block<real>& bent, const real* logs, const real* deltas, int r0, int c0
) {
#pragma unroll
    for (int a = 0; a < OWN; ++a) {
#pragma unroll
        for (int b = 0; b < OWN; ++b) {
            const int r = r0 + down() + a * SIDE, c = c0 + along() + b * SIDE, i = Turned ? c : r, j = Turned ? r : c;
            const real score = scores.score(s[a][b], i, j, bent[a][b]);
            const real weight = Exponent<real>::of(product_sum(score, scores.factor, -logs[i]));
            const bool kept = !scores.p.threshold || scores.kept(i, j);
            const real left = kept ? static_cast<real>(scores.p.keep_scale) : 0;
            s[a][b] = weight * left;
            g[a][b] = weight * (g[a][b] * left - deltas[i]);
        }
    }
}
