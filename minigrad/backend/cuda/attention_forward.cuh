// The forward of attention for half types: a block of threads has some queries of one head, in registers or shared
// memory, and goes over the keys that they attend. T. Dao, "FlashAttention-2", 2023.

#include "attention_fragments.cuh"

// W: features, padded; M: blocks of 16 queries a warp; KEYS: keys of a tile.
template <typename T, int W, int M, int KEYS, bool Plain>
DEVICE void attention_forward(const Problem<T>& p, Rows<const T> query, Rows<const T> key, Rows<const T> value, Rows<T> out, float* lse) {
    constexpr int OWN = 16 * M * WARPS, HELD = W <= 64 ? W / 16 : 1, N = KEYS / 8, TILE = KEYS * PITCH<W>;
    extern __shared__ unsigned char shared_memory[];
    T* own = reinterpret_cast<T*>(shared_memory);
    T* tiles = own + OWN * PITCH<W>;
    const int blocks = (p.queries + OWN - 1) / OWN;
    const int place = blockIdx.x / blocks, batch = place / p.heads, head = place % p.heads;
    const int block = blocks - 1 - blockIdx.x % blocks;  // the longest of a causal mask first
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
    if (j0 < high) {
        load(j0, 0);
    }
    wait_copies<0>();
    __syncthreads();
    unsigned held[HELD][M][4];
    hold<W>(held, own, warp_row);
    float mixed[M][W / 8][4] = {}, top[M][2], total[M][2] = {};
#pragma unroll
    for (int m = 0; m < M; ++m) {
        top[m][0] = top[m][1] = -infinity();
    }
    for (int stage = 0; j0 < high; j0 += KEYS, stage ^= 1) {
        wait_copies<0>();
        __syncthreads();
        if (j0 + KEYS < high) {
            load(j0 + KEYS, stage ^ 1);
        }
        if (scores.none(i0 + warp_row, i0 + warp_row + 16 * M - 1, j0, j0 + KEYS - 1)) {
            continue;
        }
        float s[M][N][4], bent[M][N][4];
        products<T, W>(s, held, own, warp_row, tiles + 2 * stage * TILE, 0);
        finish_scores<false>(scores, s, bent, i0 + warp_row, j0);
        uint64 bits = ~0ull;
        if (!Plain && p.threshold) {
            bits = draw<false, M, N>(scores, i0 + warp_row, j0);
        }
        float base[M][2], shrink[M][2];
        bool grown = false;
#pragma unroll
        for (int m = 0; m < M; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float best = top[m][half];
#pragma unroll
                for (int n = 0; n < N; ++n) {
                    best = fmaxf(best, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
                }
                best = fmaxf(best, __shfl_xor_sync(0xFFFFFFFFu, best, 1));
                best = fmaxf(best, __shfl_xor_sync(0xFFFFFFFFu, best, 2));
                base[m][half] = base_of(best, scores.factor);
                shrink[m][half] = shrink_of(top[m][half], best, scores.factor);
                grown = grown || best != top[m][half];
                top[m][half] = best;
            }
        }
        if (__any_sync(0xFFFFFFFFu, grown)) {  // else all shrink by 1
#pragma unroll
            for (int m = 0; m < M; ++m) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    total[m][half] *= shrink[m][half];
#pragma unroll
                    for (int c = 0; c < W / 8; ++c) {
                        mixed[m][c][2 * half] *= shrink[m][half];
                        mixed[m][c][2 * half + 1] *= shrink[m][half];
                    }
                }
            }
        }
        each<false, M, N>(0, 0, [&](int m, int n, int e, int, int) {
            const float weight = exp2_fast(fmaf(s[m][n][e], scores.factor, -base[m][e / 2]));
            total[m][e / 2] += weight;
            s[m][n][e] = Plain || bits >> (4 * (N * m + n) + e) & 1 ? weight : 0;
        });
        add_mixed<T, W>(mixed, s, tiles + (2 * stage + 1) * TILE, 0, 0);
    }

#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = total[m][half];
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
            const int i = i0 + warp_row + row_of(m, 2 * half);
            if (i >= p.queries) {
                continue;
            }
            if (threadIdx.x % 4 == 0) {
                const float log = (base_of(top[m][half], scores.factor) + log2f(sum)) * Exponent<float>::logarithm;
                lse[static_cast<long long>(place) * p.queries + i] = sum == 0 ? -infinity() : log;
            }
            const float scale = sum == 0 ? 0 : (Plain ? 1 : static_cast<float>(p.keep_scale)) / sum;
            T* row = out.of(batch, head) + i * out.row;
#pragma unroll
            for (int c = 0; c < W / 8; ++c) {
                const int column = column_of(c, 0);
                store_pair(row + column, mixed[m][c][2 * half] * scale, mixed[m][c][2 * half + 1] * scale, p.value_width - column);
            }
        }
    }
}
