// The kernels of attention for half types and heads of up to WIDTH features.

#include "attention_forward.cuh"
#include "attention_keys.cuh"
#include "attention_queries.cuh"

#define ATTENTION(T, NAME, PLAIN)                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) forward_##NAME(                                           \
        PROBLEM(T), ROWS(const T, query), ROWS(const T, key), ROWS(const T, value), ROWS(T, out), float *lse) {        \
        const Problem<T> problem = THE_PROBLEM;                                                                        \
        attention_forward<T, WIDTH, PLAIN ? FORWARD_BLOCKS : 1, FORWARD_KEYS, PLAIN>(                                  \
            problem, THE_ROWS(query), THE_ROWS(key), THE_ROWS(value), THE_ROWS(out), lse);                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) queries_##NAME(                                           \
        PROBLEM(T), ROWS(const T, query), ROWS(const T, key), ROWS(const T, value), ROWS(const T, g_out),              \
        const float *logs, const float *deltas, long long padded, ROWS(T, g_query), float *g_slopes) {                 \
        const Problem<T> problem = THE_PROBLEM;                                                                        \
        attention_queries<T, WIDTH, PLAIN ? QUERIES_BLOCKS : 1, QUERIES_KEYS, QUERIES_STEP, PLAIN>(                    \
            problem, THE_ROWS(query), THE_ROWS(key), THE_ROWS(value), THE_ROWS(g_out), logs, deltas, padded,           \
            THE_ROWS(g_query), g_slopes);                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, PLAIN ? KEYS_RESIDENT : 2) keys_##NAME(                      \
        PROBLEM(T), ROWS(const T, query), ROWS(const T, key), ROWS(const T, value), ROWS(const T, g_out),              \
        const float *logs, const float *deltas, long long padded, ROWS(T, g_key), ROWS(T, g_value)) {                  \
        const Problem<T> problem = THE_PROBLEM;                                                                        \
        attention_keys<T, WIDTH, PLAIN ? KEYS_BLOCKS : 1, KEYS_QUERIES, KEYS_STEP, KEYS_PARTS, PLAIN>(                 \
            problem, THE_ROWS(query), THE_ROWS(key), THE_ROWS(value), THE_ROWS(g_out), logs, deltas, padded,           \
            THE_ROWS(g_key), THE_ROWS(g_value));                                                                       \
    }

ATTENTION(float16, float16_plain, true)
ATTENTION(float16, float16, false)
ATTENTION(bfloat16, bfloat16_plain, true)
ATTENTION(bfloat16, bfloat16, false)
