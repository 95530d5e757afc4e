// The gradients of keys and values for half types: a block of threads has some keys of one head, goes over the heads of
// queries that share it and over the queries that attend the keys, and so owns what it sums.

#include "attention_fragments.cuh"

// W: features, padded; QUERIES: queries of a tile, STEP of them at a time; PARTS: of the features, each a block's.
template <typename T, int W, int QUERIES, int STEP, int PARTS, bool Plain>
DEVICE void attention_keys(
    const Problem<T>& p, Rows<const T> query, Rows<const T> key, Rows<const T> value, Rows<const T> g_out, const float* logs,
    const float* deltas, long long padded, Rows<T> g_key, Rows<T> g_value
) {
    constexpr int OWN = 16 * WARPS, HELD = W <= 64 ? W / 16 : 1, N = STEP / 8, TILE = QUERIES * PITCH<W>, C = W / PARTS / 8;
    extern __shared__ unsigned char shared_memory[];
    T* own = reinterpret_cast<T*>(shared_memory);
    T* own_value = own + OWN * PITCH<W>;
    T* tiles = own_value + OWN * PITCH<W>;
    float* rows = reinterpret_cast<float*>(tiles + 4 * TILE);  // logs and deltas of two tiles
    const int blocks = (p.keys + OWN - 1) / OWN, key_heads = p.heads / p.group;
    const int part = blockIdx.x % PARTS, first_column = part * 8 * C;
    const int block = blockIdx.x / PARTS % blocks, place = blockIdx.x / PARTS / blocks;
    const int batch = place / key_heads, key_head = place % key_heads;
    const int j0 = block * OWN, j1 = min(j0 + OWN, p.keys) - 1, warp_row = threadIdx.x / 32 * 16;

    load_tile<W, OWN>(own, key.of(batch, key_head), key.row, j0, p.keys, p.width);
    load_tile<W, OWN>(own_value, value.of(batch, key_head), value.row, j0, p.keys, p.value_width);
    const auto load = [&](int head, int i, int stage) {
        load_tile<W, QUERIES>(tiles + 2 * stage * TILE, query.of(batch, head), query.row, i, p.queries, p.width);
        load_tile<W, QUERIES>(tiles + (2 * stage + 1) * TILE, g_out.of(batch, head), g_out.row, i, p.queries, p.value_width);
        const int t = threadIdx.x;
        if (t < QUERIES / 2) {
            const float* from = (t < QUERIES / 4 ? logs : deltas) + (static_cast<long long>(batch) * p.heads + head) * padded;
            copy_async(rows + 2 * stage * QUERIES + 4 * t, from + i + 4 * (t % (QUERIES / 4)));
        }
        commit_copies();
    };
    unsigned held[HELD][1][4], held_value[HELD][1][4];
    float keys[1][C][4] = {}, values[1][C][4] = {};
    int head = key_head * p.group, stage = 0;
    const Scores<T, Plain> any(p, batch, head);  // bands are those of all heads
    const int early = any.early(j0) / QUERIES * QUERIES, late = j0 < any.end ? any.late(j1) : 0;
    int i0 = early;
    if (i0 < late) {
        load(head, i0, 0);
    }
    bool fresh = true;
    while (i0 < late && head < (key_head + 1) * p.group) {
        const int next = i0 + QUERIES < late ? i0 + QUERIES : early, next_head = next == early ? head + 1 : head;
        wait_copies<0>();
        __syncthreads();
        if (HELD > 1 && fresh) {
            hold<W>(held, own, warp_row);
            hold<W>(held_value, own_value, warp_row);
        }
        fresh = false;
        if (next_head < (key_head + 1) * p.group) {
            load(next_head, next, stage ^ 1);
        }
        const Scores<T, Plain> scores(p, batch, head);
        const float keep_scale = Plain ? 1 : static_cast<float>(p.keep_scale);
#pragma unroll 1
        for (int step = 0; step < QUERIES; step += STEP) {
            const int r0 = j0 + warp_row, c0 = i0 + step;
            if (c0 >= late || scores.none(c0, c0 + STEP - 1, r0, r0 + 15)) {
                continue;
            }
            float s[1][N][4], g[1][N][4], bent[1][N][4];
            products<T, W>(s, held, own, warp_row, tiles + 2 * stage * TILE, step);
            products<T, W>(g, held_value, own_value, warp_row, tiles + (2 * stage + 1) * TILE, step);
            finish_scores<true>(scores, s, bent, r0, c0);
            uint64 bits = ~0ull;
            if (!Plain && p.threshold) {
                bits = draw<true, 1, N>(scores, r0, c0);
            }
            const float* log = rows + 2 * stage * QUERIES + step;
            const float* delta = log + QUERIES;
            each<true, 1, N>(r0, c0, [&](int, int n, int e, int, int) {
                const float2 logs2 = *reinterpret_cast<const float2*>(log + column_of(n, 0));
                const float2 deltas2 = *reinterpret_cast<const float2*>(delta + column_of(n, 0));
                const float weight = exp2_fast(fmaf(s[0][n][e], scores.factor, -(e % 2 ? logs2.y : logs2.x)));
                const float kept = Plain ? 1 : bits >> (4 * n + e) & 1 ? keep_scale : 0;
                s[0][n][e] = weight * kept;
                g[0][n][e] = weight * (g[0][n][e] * kept - (e % 2 ? deltas2.y : deltas2.x)) * (Plain ? 1 : bent[0][n][e]);
            });
            add_mixed<T, W>(values, s, tiles + (2 * stage + 1) * TILE, step, first_column);
            add_mixed<T, W>(keys, g, tiles + 2 * stage * TILE, step, first_column);
        }
        i0 = next;
        head = next_head;
        stage ^= 1;
    }

    const float scale = static_cast<float>(p.scale);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int j = j0 + warp_row + row_of(0, 2 * half);
        if (j > j1) {
            continue;
        }
        T* key_row = g_key.of(batch, key_head) + j * g_key.row;
        T* value_row = g_value.of(batch, key_head) + j * g_value.row;
#pragma unroll
        for (int c = 0; c < C; ++c) {
            const int column = first_column + column_of(c, 0);
            store_pair(key_row + column, keys[0][c][2 * half] * scale, keys[0][c][2 * half + 1] * scale, p.width - column, p.width % 2 == 0);
            store_pair(value_row + column, values[0][c][2 * half], values[0][c][2 * half + 1], p.value_width - column, p.value_width % 2 == 0);
        }
    }
}
