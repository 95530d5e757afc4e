// Tiles of half types in shared memory, fragments of them, and what is done to a block of scores held in registers.

#include "attention_problem.cuh"

constexpr int WARPS = 4, THREADS = 32 * WARPS;

// Rows of a tile are 16 bytes longer than they need be: eight rows then begin in eight different banks of 16 bytes.
template <int W>
constexpr int PITCH = W + 8;

// Begin to copy rows from `first` on; rows from `end` on and columns from `columns` on become 0.
template <int W, int COUNT, typename T>
DEVICE void load_tile(T* tile, const T* rows, long long step, int first, int end, int columns) {
    constexpr int CHUNKS = W / 8, APART = THREADS / CHUNKS;  // of 16 bytes in a row; rows that are copied at a time
    const int row = threadIdx.x / CHUNKS, column = threadIdx.x % CHUNKS * 8;
    const T* from = rows + (first + row) * step + column;
    T* to = tile + row * PITCH<W> + column;
    const int there = column < columns ? end - first - row : 0;
#pragma unroll
    for (int k = 0; k < COUNT; k += APART) {
        copy_async(to + k * PITCH<W>, from, k < there ? 16 : 0);
        from += APART * step;
    }
}

// The left operand: 16 rows and 16 columns of a tile.
template <int W, typename T>
DEVICE void load_left(unsigned (&a)[4], const T* tile, int row, int column) {
    const int lane = threadIdx.x % 32;
    load_matrices(a, tile + (row + lane % 16) * PITCH<W> + column + lane / 16 * 8);
}

// The right operand, of which the tile is the transpose: 16 of its columns (rows of the tile), 16 rows.
template <int W, typename T>
DEVICE void load_right_turned(unsigned (&b)[4], const T* tile, int row, int column) {
    const int lane = threadIdx.x % 32;
    load_matrices(b, tile + (row + lane / 16 * 8 + lane % 8) * PITCH<W> + column + lane / 8 % 2 * 8);
}

// The right operand as it lies in the tile: 16 rows, 16 columns.
template <int W, typename T>
DEVICE void load_right(unsigned (&b)[4], const T* tile, int row, int column) {
    const int lane = threadIdx.x % 32;
    load_matrices_transposed(b, tile + (row + lane % 16) * PITCH<W> + column + lane / 16 * 8);
}

// Two neighbours of 8 columns each: d += a b.
template <typename T>
DEVICE void multiply(float (&d0)[4], float (&d1)[4], const unsigned (&a)[4], const unsigned (&b)[4]) {
    const unsigned low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
    mma_16x8x16(d0, a, low, T());
    mma_16x8x16(d1, a, high, T());
}

// Rows times the rows of a tile: M blocks of 16 rows of `left`, whose fragments are in `held` where they are kept,
// and 8 N rows of `right` from `row` on.
template <typename T, int W, int M, int N, int HELD>
DEVICE void products(float (&d)[M][N][4], const unsigned (&held)[HELD][M][4], const T* left, int left_row, const T* right, int row) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                d[m][n][e] = 0;
            }
        }
    }
#pragma unroll
    for (int k = 0; k < W / 16; ++k) {
        unsigned a[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) {
            if (HELD > 1) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    a[m][e] = held[HELD > 1 ? k : 0][m][e];
                }
            } else {
                load_left<W>(a[m], left, left_row + 16 * m, 16 * k);
            }
        }
#pragma unroll
        for (int n = 0; n < N / 2; ++n) {
            unsigned b[4];
            load_right_turned<W>(b, right, row + 16 * n, 16 * k);
#pragma unroll
            for (int m = 0; m < M; ++m) {
                multiply<T>(d[m][2 * n], d[m][2 * n + 1], a[m], b);
            }
        }
    }
}

// Adds weights (16 M rows, 8 N columns), rounded to T, times 8 N rows of a tile from `row` on, columns from `column` on.
template <typename T, int W, int M, int N, int C>
DEVICE void add_mixed(float (&d)[M][C][4], const float (&weights)[M][N][4], const T* tile, int row, int column) {
#pragma unroll
    for (int k = 0; k < N / 2; ++k) {
        unsigned a[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) {
            const float(&first)[4] = weights[m][2 * k], (&second)[4] = weights[m][2 * k + 1];
            a[m][0] = pack_halves(first[0], first[1], T());
            a[m][1] = pack_halves(first[2], first[3], T());
            a[m][2] = pack_halves(second[0], second[1], T());
            a[m][3] = pack_halves(second[2], second[3], T());
        }
#pragma unroll
        for (int c = 0; c < C / 2; ++c) {
            unsigned b[4];
            load_right<W>(b, tile, row + 16 * k, column + 16 * c);
#pragma unroll
            for (int m = 0; m < M; ++m) {
                multiply<T>(d[m][2 * c], d[m][2 * c + 1], a[m], b);
            }
        }
    }
}

// All fragments of M blocks of 16 rows, or none where HELD is 1.
template <int W, int M, int HELD, typename T>
DEVICE void hold(unsigned (&held)[HELD][M][4], const T* tile, int row) {
    if (HELD > 1) {
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
#pragma unroll
            for (int m = 0; m < M; ++m) {
                load_left<W>(held[k][m], tile, row + 16 * m, 16 * k);
            }
        }
    }
}

// Where element e of the block (m, n) lies.
DEVICE int row_of(int m, int e) { return 16 * m + threadIdx.x % 32 / 4 + e / 2 * 8; }
DEVICE int column_of(int n, int e) { return 8 * n + threadIdx.x % 4 * 2 + e % 2; }

// f(m, n, e, i, j) for each element of a block and its query and key: rows are queries from r0 and columns keys from c0
// on, or the other way round where Turned.
template <bool Turned, int M, int N, typename F>
DEVICE void each(int r0, int c0, F f) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int r = r0 + row_of(m, e), c = c0 + column_of(n, e);
                f(m, n, e, Turned ? c : r, Turned ? r : c);
            }
        }
    }
}

// Products become scores; the derivatives of caps go to `bent`. An option at a time, so that a warp branches once for it.
template <bool Turned, bool Plain, typename T, int M, int N>
DEVICE void finish_scores(const Scores<T, Plain>& scores, float (&s)[M][N][4], float (&bent)[M][N][4], int r0, int c0) {
    const Problem<T>& p = scores.p;
    if (!Plain) {
        each<Turned, M, N>(r0, c0, [&](int m, int n, int e, int, int) {
            s[m][n][e] *= static_cast<float>(p.scale);
            bent[m][n][e] = 1;
        });
        if (p.cap != 0) {
            const float cap = static_cast<float>(p.cap), inverse = 2 * Exponent<float>::unit / cap;
            each<Turned, M, N>(r0, c0, [&](int m, int n, int e, int, int) {
                const float t = 1 - __fdividef(2, 1 + exp2_fast(s[m][n][e] * inverse));  // a tanh
                bent[m][n][e] = (1 - t) * (1 + t);
                s[m][n][e] = cap * t;
            });
        }
        if (scores.bias) {
            each<Turned, M, N>(r0, c0, [&](int m, int n, int e, int i, int j) { s[m][n][e] += scores.bias_at(i, j); });
        }
        if (p.slopes) {
            each<Turned, M, N>(r0, c0, [&](int m, int n, int e, int i, int j) {
                s[m][n][e] -= scores.slope * scores.distance(i, j);
            });
        }
        if (scores.mask) {
            each<Turned, M, N>(r0, c0, [&](int m, int n, int e, int i, int j) {
                s[m][n][e] = scores.mask_at(i, j) ? s[m][n][e] : -infinity();
            });
        }
    }
    const int i0 = Turned ? c0 : r0, j0 = Turned ? r0 : c0;
    const int i1 = i0 + (Turned ? 8 * N : 16 * M) - 1, j1 = j0 + (Turned ? 16 * M : 8 * N) - 1;
    if (!scores.all(i0, i1, j0, j1)) {
        each<Turned, M, N>(r0, c0, [&](int m, int n, int e, int i, int j) {
            s[m][n][e] = scores.attends(i, j) ? s[m][n][e] : -infinity();
        });
    }
}

// Which weights dropout keeps: of each a bit, element e of block (m, n) at 4 (N m + n) + e.
template <bool Turned, int M, int N, typename T>
DEVICE uint64 draw(const Scores<T, false>& scores, int r0, int c0) {
    static_assert(4 * M * N <= 64, "a bit for each element");
    uint64 bits = 0;
#pragma unroll 1
    for (int k = 0; k < 4 * M * N; k += Turned ? 1 : 2) {  // two keys of a query are drawn at once
        const int r = r0 + row_of(k / (4 * N), k % 4), c = c0 + column_of(k / 4 % N, k % 4);
        bits |= static_cast<uint64>(Turned ? scores.kept(c, r) : scores.kept_pair(r, c)) << k;
    }
    return bits;
}

template <bool Turned, int M, int N, typename T>
DEVICE uint64 draw(const Scores<T, true>&, int, int) {
    return ~0ull;
}

// Two neighbours to memory, where at least one is there: rows of results have room for an even number.
template <typename T>
DEVICE void store_pair(T* place, float first, float second, int there) {
    if (there > 0) {
        *reinterpret_cast<unsigned*>(place) = pack_halves(first, second, T());
    }
}
