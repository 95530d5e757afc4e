// Rows of a table that ids name: gathered, and added to those of a new table. Ids are sorted, stably, by 8 bits at a
// time, so that the rows of one id come together in the order in which it occurs. Their sum is made in pieces of the
// sorted order, which are folded in turn: the same bits in every run, without an atomic sum of floats.

#include "device.cuh"
#include "chunks.cuh"

typedef unsigned int uint32;

// ---- gather ----------------------------------------------------------------------------------------------------------

// `lanes` threads, a power of two, copy a row of so many units. A row that is not there becomes all ones: NaN in every
// floating type.
template <class Unit>
DEVICE void gather(const Unit* table, const long long* ids, Unit* out, long long count, long long rows, long long units,
                   int lanes) {
    const long long row = static_cast<long long>(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
    if (row >= count) {
        return;
    }
    const long long id = ids[row];
    const bool there = id >= 0 && id < rows;
    for (long long unit = threadIdx.x % lanes; unit < units; unit += lanes) {
        Unit found;
        if (there) {
            found = table[id * units + unit];
        } else {
            memset(&found, 0xFF, sizeof found);
        }
        out[row * units + unit] = found;
    }
}

#define GATHER(NAME, UNIT)                                                                                        \
    extern "C" __global__ void gather_##NAME(const UNIT* table, const long long* ids, UNIT* out, long long count, \
                                             long long rows, long long units, int lanes) {                        \
        gather(table, ids, out, count, rows, units, lanes);                                                       \
    }

GATHER(2, unsigned short)
GATHER(4, unsigned int)
GATHER(8, unsigned long long)
GATHER(16, uint4)

// ---- sort ------------------------------------------------------------------------------------------------------------

constexpr int DIGITS = 256, BLOCK = 256, WARPS = BLOCK / 32, ROUNDS = 8, TILE = BLOCK * ROUNDS;

// What is sorted: the rows, negative ids counted from the end if `wrap`, and `rows` for what adds nothing.
extern "C" __global__ void number_rows(const long long* ids, uint32* keys, long long count, long long rows,
                                       long long skipped, int wrap) {
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) {
        const long long id = ids[i] + (wrap && ids[i] < 0 ? rows : 0);
        keys[i] = static_cast<uint32>(id >= 0 && id < rows && id != skipped ? id : rows);
    }
}

// How often each digit occurs in each tile: counts[digit][tile].
extern "C" __global__ void count_digits(const uint32* keys, uint32* counts, long long count, int shift) {
    __shared__ uint32 own[DIGITS];
    own[threadIdx.x] = 0;
    __syncthreads();
    for (int round = 0; round < ROUNDS; ++round) {
        const long long i = static_cast<long long>(blockIdx.x) * TILE + round * BLOCK + threadIdx.x;
        if (i < count) {
            atomicAdd(&own[keys[i] >> shift & (DIGITS - 1)], 1u);
        }
    }
    __syncthreads();
    counts[static_cast<long long>(threadIdx.x) * gridDim.x + blockIdx.x] = own[threadIdx.x];
}

// Each number becomes the sum of those before it. One block does it all.
extern "C" __global__ void __launch_bounds__(1024) sum_before(uint32* counts, long long n) {
    __shared__ uint32 warps[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32 before = 0;
    for (long long start = 0; start < n; start += blockDim.x) {
        const long long i = start + threadIdx.x;
        const uint32 own = i < n ? counts[i] : 0;
        uint32 sum = own;
        for (int step = 1; step < 32; step *= 2) {
            const uint32 other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
            sum += lane >= step ? other : 0;
        }
        if (lane == 31) {
            warps[warp] = sum;
        }
        __syncthreads();
        uint32 left = 0, whole = 0;
        for (int w = 0; w < static_cast<int>(blockDim.x / 32); ++w) {
            left += w < warp ? warps[w] : 0;
            whole += warps[w];
        }
        if (i < n) {
            counts[i] = before + left + sum - own;
        }
        before += whole;
        __syncthreads();
    }
}

// Move each key, and its place in the order, to where its digit begins and behind those of its digit that come before
// it. `order` is null in the first pass, where a key has the place that it lies in.
extern "C" __global__ void move_keys(const uint32* keys, const uint32* order, const uint32* starts, uint32* sorted_keys,
                                     uint32* sorted_order, long long count, int shift) {
    __shared__ uint32 next[DIGITS], tally[WARPS][DIGITS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    next[threadIdx.x] = starts[static_cast<long long>(threadIdx.x) * gridDim.x + blockIdx.x];
    for (int round = 0; round < ROUNDS; ++round) {
        const long long i = static_cast<long long>(blockIdx.x) * TILE + round * BLOCK + threadIdx.x;
        const bool there = i < count;
        const uint32 key = there ? keys[i] : 0, digit = key >> shift & (DIGITS - 1);
        for (int w = 0; w < WARPS; ++w) {
            tally[w][threadIdx.x] = 0;
        }
        __syncthreads();
        unsigned peers = __ballot_sync(0xFFFFFFFFu, there);  // the lanes of the warp with the same digit
        for (int bit = 0; bit < 8; ++bit) {
            const bool set = digit >> bit & 1;
            const unsigned votes = __ballot_sync(0xFFFFFFFFu, set);
            peers &= set ? votes : ~votes;
        }
        const int rank = __popc(peers & ((1u << lane) - 1));
        if (there && rank == 0) {
            tally[warp][digit] = __popc(peers);
        }
        __syncthreads();
        uint32 running = next[threadIdx.x];
        for (int w = 0; w < WARPS; ++w) {
            const uint32 own = tally[w][threadIdx.x];
            tally[w][threadIdx.x] = running;
            running += own;
        }
        next[threadIdx.x] = running;
        __syncthreads();
        if (there) {
            const uint32 to = tally[warp][digit] + rank;
            sorted_keys[to] = key;
            sorted_order[to] = order ? order[i] : static_cast<uint32>(i);
        }
        __syncthreads();
    }
}

// ---- scatter-add -----------------------------------------------------------------------------------------------------

constexpr int PIECE = 32;  // places of the sorted order
constexpr int AHEAD = 4;   // rows that are asked for before the first of them is added

struct Sorted {
    const uint32* keys;
    long long count;

    // Whether the place follows one with the same key.
    __device__ __forceinline__ bool goes_on(long long place) const {
        return place > 0 && place < count && keys[place] == keys[place - 1];
    }
};

// Sums of the runs of equal keys in each piece, by `lanes` threads. A run that lies in the piece goes to its row of the
// table; parts of one that does not are kept: parts[2 p] of one that began before piece p, else parts[2 p + 1].
template <class T>
DEVICE void add_pieces(const T* values, const uint32* keys, const uint32* order, T* out, Real<T>* parts, long long count,
                       long long rows, long long width, int lanes) {
    typedef Real<T> R;
    constexpr int N = CHUNK<T>;
    const Sorted sorted = {keys, count};
    const long long piece = static_cast<long long>(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
    const long long first = piece * PIECE, last = first + PIECE < count ? first + PIECE : count;
    if (first >= count) {
        return;
    }
    for (long long column = threadIdx.x % lanes * N; column < width; column += lanes * N) {
        const int present = static_cast<int>(width - column < N ? width - column : N);
        const bool whole = width % N == 0 && aligned(values) && aligned(out);
        bool began_before = sorted.goes_on(first);
        Chunk<R, N> sums = {};
        for (long long place = first; place < last; place += AHEAD) {
            Chunk<T, N> chunks[AHEAD];
#pragma unroll
            for (int j = 0; j < AHEAD; ++j) {
                if (place + j < last && keys[place + j] != rows) {  // what adds nothing comes last
                    load(chunks[j], values + order[place + j] * width + column, whole, present);
                }
            }
#pragma unroll
            for (int j = 0; j < AHEAD; ++j) {
                if (place + j >= last || keys[place + j] == rows) {
                    break;
                }
#pragma unroll
                for (int k = 0; k < N; ++k) {
                    sums.at[k] += to_float(chunks[j].at[k]);
                }
                const bool goes_on = sorted.goes_on(place + j + 1);
                if (goes_on && place + j + 1 < last) {
                    continue;
                }
                if (began_before || goes_on) {
                    store(parts + (2 * piece + !began_before) * width + column, sums, width % N == 0, present);
                } else {
                    Chunk<T, N> total;
#pragma unroll
                    for (int k = 0; k < N; ++k) {
                        total.at[k] = from_float<T>(sums.at[k]);
                    }
                    store(out + keys[place + j] * width + column, total, whole, present);
                }
                began_before = false;
                sums = {};
            }
        }
    }
}

// The parts of each run that goes on past the piece it begins in, folded in turn.
template <class T>
DEVICE void fold_pieces(const uint32* keys, const Real<T>* parts, T* out, long long count, long long rows, long long width,
                        int lanes) {
    typedef Real<T> R;
    const Sorted sorted = {keys, count};
    const long long piece = static_cast<long long>(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
    const long long first = piece * PIECE, next = first + PIECE;
    if (next >= count || !sorted.goes_on(next) || keys[next] == rows) {
        return;
    }
    const uint32 row = keys[next];
    if (keys[first] == row && sorted.goes_on(first)) {
        return;  // it began before
    }
    long long low = next, high = count;  // where the run ends
    while (low < high) {
        const long long middle = (low + high) / 2;
        if (keys[middle] == row) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const long long end = (low - 1) / PIECE;
    for (long long column = threadIdx.x % lanes; column < width; column += lanes) {
        R sum = parts[(2 * piece + 1) * width + column];
#pragma unroll 8
        for (long long p = piece + 1; p <= end; ++p) {
            sum += parts[2 * p * width + column];
        }
        out[row * width + column] = from_float<T>(sum);
    }
}

#define KERNELS(NAME, T)                                                                                             \
    extern "C" __global__ void add_pieces_##NAME(const T* values, const uint32* keys, const uint32* order, T* out,   \
                                                 Real<T>* parts, long long count, long long rows, long long width,   \
                                                 int lanes) {                                                        \
        add_pieces(values, keys, order, out, parts, count, rows, width, lanes);                                      \
    }                                                                                                                \
    extern "C" __global__ void fold_pieces_##NAME(const uint32* keys, const Real<T>* parts, T* out, long long count, \
                                                  long long rows, long long width, int lanes) {                      \
        fold_pieces(keys, parts, out, count, rows, width, lanes);                                                    \
    }

KERNELS(float16, float16)
KERNELS(bfloat16, bfloat16)
KERNELS(float32, float)
KERNELS(float64, double)
