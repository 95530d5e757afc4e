// Many arrays in one launch: a table has where the chunks of each row end, counted over all rows, and then the rows.

#include "device.cuh"

constexpr int THREADS = 256;
constexpr int CHUNK = 4096;  // elements of one array that a block works on; minigrad/backend/cuda/tables.py has it too

// The part of an array that belongs to this block.
struct Part {
    int row;
    long long start, stop;
};

// Rows are looked at by all threads together, as a search one by one would wait for the memory at each step.
template <class Row>
DEVICE Part part_of(const long long* ends, int count, const Row* rows) {
    __shared__ int found;
    const long long chunk = blockIdx.x;
    for (int k = threadIdx.x; k < count; k += THREADS) {
        if (chunk < ends[k] && (k == 0 || chunk >= ends[k - 1])) {
            found = k;
        }
    }
    __syncthreads();
    const long long start = (chunk - (found == 0 ? 0 : ends[found - 1])) * CHUNK, n = rows[found].n;
    return {found, start, start + CHUNK < n ? start + CHUNK : n};
}

// N neighbours, which a thread reads and writes at once.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
    T at[N];
};

template <class T, int N>
DEVICE Pack<T, N> load(const void* array, long long i) {
    return *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(array) + i);
}

template <class T, int N>
DEVICE void store(void* array, long long i, const Pack<T, N>& values) {
    *reinterpret_cast<Pack<T, N>*>(static_cast<T*>(array) + i) = values;
}

DEVICE bool is_aligned(const void* array, int bytes) {
    return reinterpret_cast<unsigned long long>(array) % bytes == 0;
}
