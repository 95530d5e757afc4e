// The gradient of the bias of attention, for all dtypes: that of the scores, computed anew for each block of them and
// summed, in order, over the batches and heads that share a bias; where queries or keys share it, over those of a block.

#include "attention_blocks.cuh"

template <typename T>
DEVICE void attention_bias(
    const Problem<T>& p, Rows<const T> query, Rows<const T> key, Rows<const T> value, Rows<const T> g_out,
    const typename Sum<T>::type* logs, const typename Sum<T>::type* deltas, long long padded, int batches, int own_batches,
    int own_heads, bool over_queries, bool over_keys, typename Sum<T>::type* g_bias
) {
    typedef typename Sum<T>::type real;
    extern __shared__ unsigned char shared_memory[];
    const int pitch = max(p.width, p.value_width) | 1;
    real* queries = reinterpret_cast<real*>(shared_memory);
    real* g_outs = queries + TILE * pitch;
    real* keys = g_outs + TILE * pitch;
    real* values = keys + TILE * pitch;
    real* sums = values + TILE * pitch;
    const int rows = (p.queries + TILE - 1) / TILE, columns = (p.keys + TILE - 1) / TILE;
    const int column = blockIdx.x % columns, row = blockIdx.x / columns % rows, place = blockIdx.x / columns / rows;
    const int i0 = row * TILE, i1 = min(i0 + TILE, p.queries) - 1, j0 = column * TILE, j1 = min(j0 + TILE, p.keys) - 1;
    const int own_batch = place / own_heads, own_head = place % own_heads;
    Block<real> whole = {};
    for (int batch = own_batch; batch < batches; batch += own_batches) {
        for (int head = own_head; head < p.heads; head += own_heads) {
            const Scores<T, false> scores(p, batch, head);
            if (scores.none(i0, i1, j0, j1)) {
                continue;
            }
            const long long first = (static_cast<long long>(batch) * p.heads + head) * padded;
            __syncthreads();
            fill(queries, pitch, query.of(batch, head), query.row, i0, p.queries, p.width);
            fill(g_outs, pitch, g_out.of(batch, head), g_out.row, i0, p.queries, p.value_width);
            fill(keys, pitch, key.of(batch, head / p.group), key.row, j0, scores.end, p.width);
            fill(values, pitch, value.of(batch, head / p.group), value.row, j0, scores.end, p.value_width);
            __syncthreads();
            Block<real> s, g, bent;
            products(s, queries, keys, pitch, p.width);
            products(g, g_outs, values, pitch, p.value_width);
            grade<false>(scores, s, g, bent, logs + first, deltas + first, i0, j0);
#pragma unroll
            for (int a = 0; a < OWN; ++a) {
#pragma unroll
                for (int b = 0; b < OWN; ++b) {
                    whole[a][b] += g[a][b];
                }
            }
        }
    }
    keep(sums, whole);
    __syncthreads();
    const int down_step = over_queries ? TILE : 1, along_step = over_keys ? TILE : 1;
    const int height = over_queries ? rows : p.queries, length = over_keys ? columns : p.keys;
    const int tall = over_queries ? 1 : TILE, wide = over_keys ? 1 : TILE;
    for (int k = threadIdx.x; k < tall * wide; k += THREADS) {
        const int r = k / wide, c = k % wide, i = over_queries ? row : i0 + r, j = over_keys ? column : j0 + c;
        if (i < height && j < length) {
            real sum = 0;
            for (int a = 0; a < down_step; ++a) {
                for (int b = 0; b < along_step; ++b) {
                    sum += sums[(r + a) * (TILE + 1) + c + b];
                }
            }
            g_bias[(static_cast<long long>(place) * height + i) * length + j] = sum;
        }
    }
}

#define BIAS(T, NAME, real)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS) bias_##NAME(                                                 \
        PROBLEM(T), ROWS(const T, query), ROWS(const T, key), ROWS(const T, value), ROWS(const T, g_out),              \
        const real *logs, const real *deltas, long long padded, int batches, int own_batches, int own_heads,           \
        bool over_queries, bool over_keys, real *g_bias) {                                                             \
        const Problem<T> problem = THE_PROBLEM;                                                                        \
        attention_bias<T>(                                                                                             \
            problem, THE_ROWS(query), THE_ROWS(key), THE_ROWS(value), THE_ROWS(g_out), logs, deltas, padded, batches,  \
            own_batches, own_heads, over_queries, over_keys, g_bias);                                                  \
    }

BIAS(float16, float16, float)
BIAS(bfloat16, bfloat16, float)
BIAS(float, float32, float)
BIAS(double, float64, double)
