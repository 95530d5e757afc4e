// Attention in float32 and float64, forward and backward, in the order of the kernels for half types.

#include "attention_blocks.cuh"

// Each block of threads has 32 queries and 64 of the features of a value.
template <typename T>
DEVICE void attention_forward(const Problem<T>& p, Rows<const T> query, Rows<const T> key, Rows<const T> value, Rows<T> out, T* lse) {
    extern __shared__ unsigned char shared_memory[];
    const int pitch = max(p.width, p.value_width) | 1, parts = (p.value_width + FEATURES - 1) / FEATURES;
    T* own = reinterpret_cast<T*>(shared_memory);
    T* keys = own + TILE * pitch;
    T* values = keys + TILE * pitch;
    T* weights = values + TILE * pitch;
    const int blocks = (p.queries + TILE - 1) / TILE, column = blockIdx.x % parts * FEATURES;
    const int place = blockIdx.x / parts / blocks, batch = place / p.heads, head = place % p.heads;
    const int i0 = (blocks - 1 - blockIdx.x / parts % blocks) * TILE, i1 = min(i0 + TILE, p.queries) - 1;
    const Scores<T, false> scores(p, batch, head);
    const int high = scores.high(i1);
    fill(own, pitch, query.of(batch, head), query.row, i0, p.queries, p.width);
    Sums<T> sums = {};
    T top[OWN], total[OWN] = {};
    for (int a = 0; a < OWN; ++a) {
        top[a] = -static_cast<T>(infinity());
    }
    for (int j0 = scores.low(i0) / TILE * TILE; j0 < high; j0 += TILE) {
        __syncthreads();
        fill(keys, pitch, key.of(batch, head / p.group), key.row, j0, scores.end, p.width);
        fill(values, pitch, value.of(batch, head / p.group), value.row, j0, scores.end, p.value_width);
        __syncthreads();
        Block<T> s;
        products(s, own, keys, pitch, p.width);
#pragma unroll
        for (int a = 0; a < OWN; ++a) {
            const int i = i0 + down() + a * SIDE;
            T best = top[a], bent;
#pragma unroll
            for (int b = 0; b < OWN; ++b) {
                s[a][b] = scores.score(s[a][b], i, j0 + along() + b * SIDE, bent);
                best = max(best, s[a][b]);
            }
            best = max_along(best);
            const T base = base_of(best, scores.factor);
            const T shrink = shrink_of(top[a], best, scores.factor);
            top[a] = best;
            total[a] *= shrink;
#pragma unroll
            for (int c = 0; c < CHUNK; ++c) {
                sums[a][c] *= shrink;
            }
#pragma unroll
            for (int b = 0; b < OWN; ++b) {
                const T weight = Exponent<T>::of(product_sum(s[a][b], scores.factor, -base));
                total[a] += weight;
                s[a][b] = !p.threshold || scores.kept(i, j0 + along() + b * SIDE) ? weight : 0;
            }
        }
        __syncwarp();
        keep(weights, s);
        __syncwarp();
        add_mixed(sums, weights, values, pitch, column, p.value_width);
    }
    T scale[OWN];
    for (int a = 0; a < OWN; ++a) {
        const T sum = sum_along(total[a]);
        const int i = i0 + down() + a * SIDE;
        scale[a] = sum == 0 ? 0 : static_cast<T>(p.keep_scale) / sum;
        if (column == 0 && along() == 0 && i < p.queries) {
            const T log = (base_of(top[a], scores.factor) + Exponent<T>::log(sum)) * Exponent<T>::logarithm;
            lse[static_cast<long long>(place) * p.queries + i] = sum == 0 ? -static_cast<T>(infinity()) : log;
        }
    }
    store(sums, scale, out.of(batch, head), out.row, i0, p.queries, column, p.value_width);
}

// The gradient of 32 queries, 64 of their features; the first block of them also sums that of the slope.
template <typename T>
DEVICE void attention_queries(
    const Problem<T>& p, Rows<const T> query, Rows<const T> key, Rows<const T> value, Rows<const T> g_out, const T* logs,
    const T* deltas, long long padded, Rows<T> g_query, T* g_slopes
) {
    extern __shared__ unsigned char shared_memory[];
    const int pitch = max(p.width, p.value_width) | 1, parts = (p.width + FEATURES - 1) / FEATURES;
    T* own = reinterpret_cast<T*>(shared_memory);
    T* own_g = own + TILE * pitch;
    T* keys = own_g + TILE * pitch;
    T* values = keys + TILE * pitch;
    T* weights = values + TILE * pitch;
    const int blocks = (p.queries + TILE - 1) / TILE, column = blockIdx.x % parts * FEATURES;
    const int place = blockIdx.x / parts / blocks, batch = place / p.heads, head = place % p.heads;
    const int block = blocks - 1 - blockIdx.x / parts % blocks, i0 = block * TILE, i1 = min(i0 + TILE, p.queries) - 1;
    const Scores<T, false> scores(p, batch, head);
    const int high = scores.high(i1);
    fill(own, pitch, query.of(batch, head), query.row, i0, p.queries, p.width);
    fill(own_g, pitch, g_out.of(batch, head), g_out.row, i0, p.queries, p.value_width);
    Sums<T> sums = {};
    T slope = 0;
    for (int j0 = scores.low(i0) / TILE * TILE; j0 < high; j0 += TILE) {
        __syncthreads();
        fill(keys, pitch, key.of(batch, head / p.group), key.row, j0, scores.end, p.width);
        fill(values, pitch, value.of(batch, head / p.group), value.row, j0, scores.end, p.value_width);
        __syncthreads();
        Block<T> s, g, bent;
        products(s, own, keys, pitch, p.width);
        products(g, own_g, values, pitch, p.value_width);
        grade<false>(scores, s, g, bent, logs + place * padded, deltas + place * padded, i0, j0);
#pragma unroll
        for (int a = 0; a < OWN; ++a) {
#pragma unroll
            for (int b = 0; b < OWN; ++b) {
                slope -= g[a][b] * scores.distance(i0 + down() + a * SIDE, j0 + along() + b * SIDE);
                g[a][b] *= bent[a][b];
            }
        }
        __syncwarp();
        keep(weights, g);
        __syncwarp();
        add_mixed(sums, weights, keys, pitch, column, p.width);
    }
    const T one = static_cast<T>(p.scale), scale[OWN] = {one, one, one, one};
    store(sums, scale, g_query.of(batch, head), g_query.row, i0, p.queries, column, p.width);
    if (p.slopes && column == 0) {
#pragma unroll
        for (int d = 16; d; d /= 2) {
            slope += __shfl_xor_sync(0xFFFFFFFFu, slope, d);
        }
        if (threadIdx.x % 32 == 0) {
            g_slopes[(static_cast<long long>(place) * blocks + block) * (THREADS / 32) + threadIdx.x / 32] = slope;
        }
    }
}

// The gradients of 32 keys and values, 64 of their features, summed over the heads of queries that share them.
template <typename T>
DEVICE void attention_keys(
    const Problem<T>& p, Rows<const T> query, Rows<const T> key, Rows<const T> value, Rows<const T> g_out, const T* logs,
    const T* deltas, long long padded, Rows<T> g_key, Rows<T> g_value
) {
    extern __shared__ unsigned char shared_memory[];
    const int widest = max(p.width, p.value_width), pitch = widest | 1, parts = (widest + FEATURES - 1) / FEATURES;
    T* own = reinterpret_cast<T*>(shared_memory);
    T* own_value = own + TILE * pitch;
    T* queries = own_value + TILE * pitch;
    T* g_outs = queries + TILE * pitch;
    T* weights = g_outs + TILE * pitch;
    T* g_scores = weights + TILE * (TILE + 1);
    const int blocks = (p.keys + TILE - 1) / TILE, column = blockIdx.x % parts * FEATURES, key_heads = p.heads / p.group;
    const int place = blockIdx.x / parts / blocks, batch = place / key_heads, key_head = place % key_heads;
    const int j0 = blockIdx.x / parts % blocks * TILE, j1 = min(j0 + TILE, p.keys) - 1;
    fill(own, pitch, key.of(batch, key_head), key.row, j0, p.keys, p.width);
    fill(own_value, pitch, value.of(batch, key_head), value.row, j0, p.keys, p.value_width);
    Sums<T> keys = {}, values = {};
    for (int head = key_head * p.group; head < (key_head + 1) * p.group; ++head) {
        const Scores<T, false> scores(p, batch, head);
        const int late = j0 < scores.end ? scores.late(j1) : 0;
        const long long first = (static_cast<long long>(batch) * p.heads + head) * padded;
        for (int i0 = scores.early(j0) / TILE * TILE; i0 < late; i0 += TILE) {
            __syncthreads();
            fill(queries, pitch, query.of(batch, head), query.row, i0, p.queries, p.width);
            fill(g_outs, pitch, g_out.of(batch, head), g_out.row, i0, p.queries, p.value_width);
            __syncthreads();
            Block<T> s, g, bent;
            products(s, own, queries, pitch, p.width);
            products(g, own_value, g_outs, pitch, p.value_width);
            grade<true>(scores, s, g, bent, logs + first, deltas + first, j0, i0);
#pragma unroll
            for (int a = 0; a < OWN; ++a) {
#pragma unroll
                for (int b = 0; b < OWN; ++b) {
                    g[a][b] *= bent[a][b];
                }
            }
            __syncwarp();
            keep(weights, s);
            keep(g_scores, g);
            __syncwarp();
            add_mixed(values, weights, g_outs, pitch, column, p.value_width);
            add_mixed(keys, g_scores, queries, pitch, column, p.width);
        }
    }
    const T one = static_cast<T>(p.scale), scale[OWN] = {one, one, one, one}, ones[OWN] = {1, 1, 1, 1};
    store(keys, scale, g_key.of(batch, key_head), g_key.row, j0, p.keys, column, p.width);
    store(values, ones, g_value.of(batch, key_head), g_value.row, j0, p.keys, column, p.value_width);
}

#define ATTENTION(T, NAME)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) forward_##NAME(                                              \
        PROBLEM(T), ROWS(const T, query), ROWS(const T, key), ROWS(const T, value), ROWS(T, out), T *lse) {            \
        const Problem<T> problem = THE_PROBLEM;                                                                        \
        attention_forward<T>(problem, THE_ROWS(query), THE_ROWS(key), THE_ROWS(value), THE_ROWS(out), lse);            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) queries_##NAME(                                              \
        PROBLEM(T), ROWS(const T, query), ROWS(const T, key), ROWS(const T, value), ROWS(const T, g_out),              \
        const T *logs, const T *deltas, long long padded, ROWS(T, g_query), T *g_slopes) {                             \
        const Problem<T> problem = THE_PROBLEM;                                                                        \
        attention_queries<T>(                                                                                          \
            problem, THE_ROWS(query), THE_ROWS(key), THE_ROWS(value), THE_ROWS(g_out), logs, deltas, padded,           \
            THE_ROWS(g_query), g_slopes);                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) keys_##NAME(                                                 \
        PROBLEM(T), ROWS(const T, query), ROWS(const T, key), ROWS(const T, value), ROWS(const T, g_out),              \
        const T *logs, const T *deltas, long long padded, ROWS(T, g_key), ROWS(T, g_value)) {                          \
        const Problem<T> problem = THE_PROBLEM;                                                                        \
        attention_keys<T>(                                                                                             \
            problem, THE_ROWS(query), THE_ROWS(key), THE_ROWS(value), THE_ROWS(g_out), logs, deltas, padded,           \
            THE_ROWS(g_key), THE_ROWS(g_value));                                                                       \
    }

ATTENTION(float, float32)
ATTENTION(double, float64)
