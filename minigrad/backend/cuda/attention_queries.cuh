// The gradient of the queries for half types: a block of threads has some queries of one head and goes over the keys.

#include "attention_fragments.cuh"

// `logs` are log-sum-exps as exponents, infinite for queries that attend nothing; `deltas` what the gradients of weights
// are less. W: features, padded; M: blocks of 16 queries a warp; KEYS: keys of a tile, STEP of them at a time.
template <typename T, int W, int M, int KEYS, int STEP, bool Plain>
DEVICE void attention_queries(
    const Problem<T>& p, Rows<const T> query, Rows<const T> key, Rows<const T> value, Rows<const T> g_out, const float* logs,
    const float* deltas, long long padded, Rows<T> g_query, float* g_slopes
) {
    constexpr int OWN = 16 * M * WARPS, HELD = W <= 64 ? W / 16 : 1, N = STEP / 8, TILE = KEYS * PITCH<W>;
    extern __shared__ unsigned char shared_memory[];
    T* own = reinterpret_cast<T*>(shared_memory);
    T* own_g = own + OWN * PITCH<W>;
    T* tiles = own_g + OWN * PITCH<W>;
    const int blocks = (p.queries + OWN - 1) / OWN;
    const int place = blockIdx.x / blocks, batch = place / p.heads, head = place % p.heads;
    const int block = blocks - 1 - blockIdx.x % blocks;
    const int i0 = block * OWN, i1 = min(i0 + OWN, p.queries) - 1;
    const Scores<T, Plain> scores(p, batch, head);
    const T* keys = key.of(batch, head / p.group);
    const T* values = value.of(batch, head / p.group);
    const int high = scores.high(i1), warp_row = threadIdx.x / 32 * 16 * M;
    int j0 = scores.low(i0) / KEYS * KEYS;

    const auto load = [&](int j, int stage) {
        load_tile<W, KEYS>(tiles + 2 * stage * TILE, keys, key.row, j, scores.end, p.width);
        load_tile<W, KEYS>(tiles + (2 * stage + 1) * TILE, values, value.row, j, scores.end, p.value_width);
        commit_copies();
    };
    load_tile<W, OWN>(own, query.of(batch, head), query.row, i0, p.queries, p.width);
    load_tile<W, OWN>(own_g, g_out.of(batch, head), g_out.row, i0, p.queries, p.value_width);
    if (j0 < high) {
        load(j0, 0);
    }
    const float keep_scale = Plain ? 1 : static_cast<float>(p.keep_scale);
    float log[M][2], delta[M][2], slope = 0;
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int i = i0 + warp_row + row_of(m, 2 * half);
            log[m][half] = i < p.queries ? logs[place * padded + i] : infinity();
            delta[m][half] = i < p.queries ? deltas[place * padded + i] : 0;
        }
    }
    unsigned held[HELD][M][4], held_g[HELD][M][4];
    wait_copies<0>();
    __syncthreads();
    hold<W>(held, own, warp_row);
    hold<W>(held_g, own_g, warp_row);
    float mixed[M][W / 8][4] = {};
    for (int stage = 0; j0 < high; j0 += KEYS, stage ^= 1) {
        wait_copies<0>();
        __syncthreads();
        if (j0 + KEYS < high) {
            load(j0 + KEYS, stage ^ 1);
        }
#pragma unroll 1
        for (int step = 0; step < KEYS; step += STEP) {
            const int r0 = i0 + warp_row, c0 = j0 + step;
            if (scores.none(r0, r0 + 16 * M - 1, c0, c0 + STEP - 1)) {
                continue;
            }
            float s[M][N][4], g[M][N][4], bent[M][N][4];
            products<T, W>(s, held, own, warp_row, tiles + 2 * stage * TILE, step);
            products<T, W>(g, held_g, own_g, warp_row, tiles + (2 * stage + 1) * TILE, step);
            finish_scores<false>(scores, s, bent, r0, c0);
            uint64 bits = ~0ull;
            if (!Plain && p.threshold) {
                bits = draw<false, M, N>(scores, r0, c0);
            }
            each<false, M, N>(r0, c0, [&](int m, int n, int e, int i, int j) {
                const float weight = exp2_fast(fmaf(s[m][n][e], scores.factor, -log[m][e / 2]));
                const float kept = Plain ? 1 : bits >> (4 * (N * m + n) + e) & 1 ? keep_scale : 0;
                s[m][n][e] = weight * (g[m][n][e] * kept - delta[m][e / 2]);
                if (!Plain) {
                    slope -= s[m][n][e] * scores.distance(i, j);
                    s[m][n][e] *= bent[m][n][e];
                }
            });
            add_mixed<T, W>(mixed, s, tiles + 2 * stage * TILE, step, 0);
        }
    }

    const float scale = static_cast<float>(p.scale);
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int i = i0 + warp_row + row_of(m, 2 * half);
            if (i >= p.queries) {
                continue;
            }
            T* row = g_query.of(batch, head) + i * g_query.row;
#pragma unroll
            for (int c = 0; c < W / 8; ++c) {
                const int column = column_of(c, 0);
                store_pair(row + column, mixed[m][c][2 * half] * scale, mixed[m][c][2 * half + 1] * scale, p.width - column);
            }
        }
    }
    if (!Plain && p.slopes) {
#pragma unroll
        for (int d = 16; d; d /= 2) {
            slope += __shfl_xor_sync(0xFFFFFFFFu, slope, d);
        }
        if (threadIdx.x % 32 == 0) {  // a sum for each warp, to be added in order
            g_slopes[(static_cast<long long>(place) * blocks + block) * WARPS + threadIdx.x / 32] = slope;
        }
    }
}
