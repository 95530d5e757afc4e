// The gradients of keys and values for half types: a block of threads has some keys of one head, goes over the heads of
// queries that share it and over the queries that attend the keys, and so owns what it sums.

#include "attention_fragments.cuh"

// W: features, padded; M: blocks of 16 keys a warp; QUERIES: queries of a tile, STEP of them at a time; PARTS: of the features, each a block's.
template <typename T, int W, int M, int QUERIES, int STEP, int PARTS, bool Plain>
DEVICE void attention_keys(
    const Problem<T>& p, Rows<const T> query, Rows<const T> key, Rows<const T> value, Rows<const T> g_out, const float* logs,
    const float* deltas, long long padded, Rows<T> g_key, Rows<T> g_value
) {
    constexpr int OWN = 16 * M * WARPS, HELD = W <= 64 ? W / 16 : 1, N = STEP / 8, TILE = QUERIES * PITCH<W>, C = W / PARTS / 8;
    extern __shared__ unsigned char shared_memory[];
    T* own = reinterpret_cast<T*>(shared_memory);
    T* own_value = own + OWN * PITCH<W>;
    T* tiles = own_value + OWN * PITCH<W>;
    float* rows = reinterpret_cast<float*>(tiles + 4 * TILE);  // logs and deltas of two tiles
    const int blocks = (p.keys + OWN - 1) / OWN, key_heads = p.heads / p.group;
    const int part = blockIdx.x % PARTS, first_column = part * 8 * C;
    const int block = blockIdx.x / PARTS % blocks, place = blockIdx.x / PARTS / blocks;
    const int batch = place / key_heads, key_head = place % key_heads;
    const int j0 = block * OWN, j1 = min(j0 + OWN, p.keys) - 1, warp_row = threadIdx.x / 32 * 16 * M;

    const Scores<T, Plain> any(p, batch, 0);  // the keys that queries attend are those of all heads
    const int early = any.early(j0) / QUERIES * QUERIES, late = j0 < any.end ? any.late(j1) : 0;
    const int tiles_each = late > early ? (late - early + QUERIES - 1) / QUERIES : 0, count = tiles_each * p.group;

    const auto load = [&](int k) {  // tile k of all heads that share the keys
        const int head = key_head * p.group + k / tiles_each, i = early + k % tiles_each * QUERIES, t = threadIdx.x;
        T* tile = tiles + 2 * (k % 2) * TILE;
        load_tile<W, QUERIES>(tile, query.of(batch, head), query.row, i, p.queries, p.width);
        load_tile<W, QUERIES>(tile + TILE, g_out.of(batch, head), g_out.row, i, p.queries, p.value_width);
        if (t < QUERIES / 2) {
            const float* from = (t < QUERIES / 4 ? logs : deltas) + (static_cast<long long>(batch) * p.heads + head) * padded;
            copy_async(rows + 2 * (k % 2) * QUERIES + 4 * t, from + i + 4 * (t % (QUERIES / 4)));
        }
        commit_copies();
    };
    load_tile<W, OWN>(own, key.of(batch, key_head), key.row, j0, p.keys, p.width);
    load_tile<W, OWN>(own_value, value.of(batch, key_head), value.row, j0, p.keys, p.value_width);
    commit_copies();
    if (count) {
        load(0);
    }
    wait_copies<0>();
    __syncthreads();
    unsigned held[HELD][M][4], held_value[HELD][M][4];
    hold<W>(held, own, warp_row);
    hold<W>(held_value, own_value, warp_row);
    float keys[M][C][4] = {}, values[M][C][4] = {};
    for (int k = 0; k < count; ++k) {
        const int i0 = early + k % tiles_each * QUERIES;
        const T* tile = tiles + 2 * (k % 2) * TILE;
        wait_copies<0>();
        __syncthreads();
        if (k + 1 < count) {
            load(k + 1);
        }
        const Scores<T, Plain> scores(p, batch, key_head * p.group + k / tiles_each);
        const float keep_scale = Plain ? 1 : static_cast<float>(p.keep_scale);
#pragma unroll 1
        for (int step = 0; step < QUERIES; step += STEP) {
            const int r0 = j0 + warp_row, c0 = i0 + step;
            if (scores.none(c0, c0 + STEP - 1, r0, r0 + 16 * M - 1)) {
                continue;
            }
            float s[M][N][4], g[M][N][4], bent[M][N][4];
            products<T, W>(s, held, own, warp_row, tile, step);
            products<T, W>(g, held_value, own_value, warp_row, tile + TILE, step);
            finish_scores<true>(scores, s, bent, r0, c0);
            uint64 bits = ~0ull;
            if (!Plain && p.threshold) {
                bits = draw<true, M, N>(scores, r0, c0);
            }
            const float* log = rows + 2 * (k % 2) * QUERIES + step;
            const float* delta = log + QUERIES;
            each<true, M, N>(r0, c0, [&](int m, int n, int e, int, int) {
                const float2 logs2 = *reinterpret_cast<const float2*>(log + column_of(n, 0));
                const float2 deltas2 = *reinterpret_cast<const float2*>(delta + column_of(n, 0));
                const float weight = exp2_fast(fmaf(s[m][n][e], scores.factor, -(e % 2 ? logs2.y : logs2.x)));
                const float kept = Plain ? 1 : bits >> (4 * (N * m + n) + e) & 1 ? keep_scale : 0;
                s[m][n][e] = weight * kept;
                g[m][n][e] = weight * (g[m][n][e] * kept - (e % 2 ? deltas2.y : deltas2.x)) * (Plain ? 1 : bent[m][n][e]);
            });
            add_mixed<T, W>(values, s, tile + TILE, step, first_column);
            add_mixed<T, W>(keys, g, tile, step, first_column);
        }
    }

    const float scale = static_cast<float>(p.scale);
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int j = j0 + warp_row + row_of(m, 2 * half);
            if (j > j1) {
                continue;
            }
            T* key_row = g_key.of(batch, key_head) + j * g_key.row;
            T* value_row = g_value.of(batch, key_head) + j * g_value.row;
#pragma unroll
            for (int c = 0; c < C; ++c) {
                const int column = first_column + column_of(c, 0);
                const float(&k)[4] = keys[m][c], (&v)[4] = values[m][c];
                store_pair(key_row + column, k[2 * half] * scale, k[2 * half + 1] * scale, p.width - column);
                store_pair(value_row + column, v[2 * half], v[2 * half + 1], p.value_width - column);
            }
        }
    }
}
