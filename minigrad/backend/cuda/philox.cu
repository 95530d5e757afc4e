// Random numbers: what minigrad/_core/philox.pyx draws, bit for bit. So only operations that IEEE 754 rounds correctly
// are used, never fused, and the series for log, sin and cos from there.
// A thread makes as many blocks as fill 16 bytes, or one.

#include "device.cuh"
#include "chunks.cuh"
#include "philox.cuh"

// out[i] says whether element first + i is kept: its word is at least the threshold, a share of 2^32.
extern "C" __global__ void keep_mask(uint64 seed, uint64 counter, const uint64* offset, uint64 first, uint64 threshold,
                                     long long n, bool* out) {
    const uint64 j = static_cast<uint64>(blockIdx.x) * blockDim.x + threadIdx.x;
    const uint64 block = first / 4 + j;
    const long long start = static_cast<long long>(4 * block) - static_cast<long long>(first);
    if (start >= n) {
        return;
    }
    const Words words = philox(seed, moved(counter, offset), block);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const long long i = start + k;
        if (i >= 0 && i < n) {
            out[i] = words.w[k] >= threshold;
        }
    }
}

extern "C" __global__ void fill_bits(uint64 seed, uint64 counter, const uint64* offset, long long n, uint32* out) {
    const long long block = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (4 * block < n) {
        const Words words = philox(seed, moved(counter, offset), block);
        const int count = static_cast<int>(n - 4 * block < 4 ? n - 4 * block : 4);
        Chunk<uint32, 4> chunk = {{words.w[0], words.w[1], words.w[2], words.w[3]}};
        store(out + 4 * block, chunk, count == 4 && aligned(out), count);
    }
}

// ---- integers: the high part of the product of their number and random bits ------------------------------------------

// out[i] = low + an integer below span < 2^32, modulo 2^64.
extern "C" __global__ void fill_below_32(uint64 seed, uint64 counter, const uint64* offset, uint64 low, uint64 span,
                                         long long n, uint64* out) {
    const long long block = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (2 * block < n) {
        const Words words = philox(seed, moved(counter, offset), block);
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            if (2 * block + k < n) {
                const uint64 lower = words.w[2 * k + 1] * span >> 32;
                out[2 * block + k] = low + ((words.w[2 * k] * span + lower) >> 32);
            }
        }
    }
}

// The same for a span from 2^32 on, or for span 0, which stands for 2^64.
extern "C" __global__ void fill_below_64(uint64 seed, uint64 counter, const uint64* offset, uint64 low, uint64 span,
                                         long long n, uint64* out) {
    const long long block = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (block < n) {
        const Words words = philox(seed, moved(counter, offset), block);
        const uint64 high = static_cast<uint64>(words.w[0]) << 32 | words.w[1];
        const uint64 rest = static_cast<uint64>(words.w[2]) << 32 | words.w[3];
        const uint64 carry = __umul64hi(rest, span);
        const uint64 product = __umul64hi(high, span) + (high * span + carry < carry);
        out[block] = low + (span ? product : high);
    }
}

// ---- real numbers ----------------------------------------------------------------------------------------------------

// Never fused with what comes after.
DEVICE float times(float x, float y) { return __fmul_rn(x, y); }
DEVICE double times(double x, double y) { return __dmul_rn(x, y); }
DEVICE float plus(float x, float y) { return __fadd_rn(x, y); }
DEVICE double plus(double x, double y) { return __dadd_rn(x, y); }

// A polynomial in z, the first coefficient that of the highest power.
template <class R>
DEVICE R polynomial(R, R p) {
    return p;
}
template <class R, class... More>
DEVICE R polynomial(R z, R p, R next, More... more) {
    return polynomial(z, plus(times(p, z), next), static_cast<R>(more)...);
}

// -log(u) = -(e log(2) + 2 s + 2 s (s^2 / 3 + ...)), 0 < u <= 1, u = 2^e m, sqrt(1/2) <= m < sqrt(2), s = (m - 1) / (m + 1).
template <class R>
DEVICE R minus_log(R e, R s, R series) {
    const R twice = plus(s, s);
    return -plus(times(e, R(0.6931471805599453)), plus(twice, times(twice, times(times(s, s), series))));
}

DEVICE float minus_log(float u) {
    const uint32 bits = __float_as_uint(u);
    const int e = static_cast<int>((bits - 0x3F3504F3u + (256u << 23)) >> 23) - 256;
    const float m = __uint_as_float(bits - (static_cast<uint32>(e) << 23));
    const float s = static_cast<float>((m - 1.0) / (m + 1.0));  // in double, as C does with Cython's constants
    return minus_log(static_cast<float>(e), s, polynomial<float>(times(s, s), 1 / 9.0, 1 / 7.0, 1 / 5.0, 1 / 3.0));
}

DEVICE double minus_log(double u) {
    const uint64 bits = static_cast<uint64>(__double_as_longlong(u));
    const int e = static_cast<int>((bits - 0x3FE6A09E667F3BCDull + (2048ull << 52)) >> 52) - 2048;
    const uint64 exponent = static_cast<uint64>(static_cast<uint32>(e)) << 52;
    const double m = __longlong_as_double(static_cast<long long>(bits - exponent));
    const double s = (m - 1.0) / (m + 1.0);
    const double series = polynomial<double>(times(s, s), 1 / 21.0, 1 / 19.0, 1 / 17.0, 1 / 15.0, 1 / 13.0, 1 / 11.0,
                                             1 / 9.0, 1 / 7.0, 1 / 5.0, 1 / 3.0);
    return minus_log(static_cast<double>(e), s, series);
}

// Taylor's series for |x| <= pi / 4.
template <class R>
DEVICE void sine_cosine(R x, R z, R p, R q, R& sine, R& cosine) {
    sine = plus(x, times(x, times(z, p)));
    cosine = plus(R(1), times(z, q));
}

DEVICE void sine_cosine(float x, float& sine, float& cosine) {
    const float z = times(x, x);
    const float p = polynomial<float>(z, 1 / 362880.0, -1 / 5040.0, 1 / 120.0, -1 / 6.0);
    const float q = polynomial<float>(z, -1 / 3628800.0, 1 / 40320.0, -1 / 720.0, 1 / 24.0, -1 / 2.0);
    sine_cosine(x, z, p, q, sine, cosine);
}

DEVICE void sine_cosine(double x, double& sine, double& cosine) {
    const double z = times(x, x);
    const double p = polynomial<double>(z, 1 / 355687428096000.0, -1 / 1307674368000.0, 1 / 6227020800.0,
                                        -1 / 39916800.0, 1 / 362880.0, -1 / 5040.0, 1 / 120.0, -1 / 6.0);
    const double q = polynomial<double>(z, 1 / 20922789888000.0, -1 / 87178291200.0, 1 / 479001600.0, -1 / 3628800.0,
                                        1 / 40320.0, -1 / 720.0, 1 / 24.0, -1 / 2.0);
    sine_cosine(x, z, p, q, sine, cosine);
}

// Of [0, 1), 53 bits.
DEVICE double half_open(uint32 high, uint32 low) {
    return (static_cast<double>(high >> 5) * 67108864.0 + static_cast<double>(low >> 6)) * (1 / 9007199254740992.0);
}

// Of (0, 1], 53 and 31 bits.
DEVICE double open_unit(uint32 high, uint32 low) { return half_open(high, low) + 1 / 18014398509481984.0; }
DEVICE float open_unit(uint32 word) {
    return (static_cast<float>(static_cast<int>(word >> 1)) + 0.5f) * static_cast<float>(1 / 2147483648.0);
}

template <class R>
DEVICE void box_muller(R radius, R angle, uint32 quadrant, R* out) {
    R sine, cosine;
    sine_cosine(angle * R(1.4629180792671596e-09), sine, cosine);  // 2 pi / 2^32
    out[0] = radius * R(1 - static_cast<int>((quadrant + 1) & 2)) * (quadrant & 1 ? sine : cosine);
    out[1] = radius * R(1 - static_cast<int>(quadrant & 2)) * (quadrant & 1 ? cosine : sine);
}

// What a block of words becomes: four floats or two doubles.

struct Uniform {
    static __device__ __forceinline__ void make(const Words& words, float* out) {
        for (int k = 0; k < 4; ++k) {
            out[k] = static_cast<float>(static_cast<int>(words.w[k] >> 8)) * static_cast<float>(1 / 16777216.0);
        }
    }
    static __device__ __forceinline__ void make(const Words& words, double* out) {
        out[0] = half_open(words.w[0], words.w[1]);
        out[1] = half_open(words.w[2], words.w[3]);
    }
};

struct Exponential {
    static __device__ __forceinline__ void make(const Words& words, float* out) {
        for (int k = 0; k < 4; ++k) {
            out[k] = minus_log(open_unit(words.w[k]));
        }
    }
    static __device__ __forceinline__ void make(const Words& words, double* out) {
        out[0] = minus_log(open_unit(words.w[0], words.w[1]));
        out[1] = minus_log(open_unit(words.w[2], words.w[3]));
    }
};

struct Normal {
    static __device__ __forceinline__ void make(const Words& words, float* out) {
        for (int k = 0; k < 4; k += 2) {
            const uint32 turn = words.w[k + 1], quadrant = (turn + 0x20000000u) >> 30;
            const float angle = static_cast<float>(static_cast<int>(turn - (quadrant << 30)));
            box_muller(sqrtf(2.0f * minus_log(open_unit(words.w[k]))), angle, quadrant, out + k);
        }
    }
    static __device__ __forceinline__ void make(const Words& words, double* out) {
        const uint32 turn = words.w[2], quadrant = (turn + 0x20000000u) >> 30;
        const double whole = static_cast<double>(static_cast<int>(turn - (quadrant << 30)));
        const double angle = whole + static_cast<double>(words.w[3] >> 8) * (1 / 16777216.0);
        box_muller(sqrt(2.0 * minus_log(open_unit(words.w[0], words.w[1]))), angle, quadrant, out);
    }
};

// out[i] = the number times `scale` plus `shift`, each rounded, then rounded to T, and at most `limit`.
template <class F, class T>
DEVICE void fill(uint64 seed, uint64 counter, const uint64* offset, double scale, double shift, double limit,
                     long long n, T* out) {
    typedef Real<T> R;
    constexpr int N = CHUNK<T>, PER_BLOCK = 16 / sizeof(R);
    const long long thread = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x, start = thread * N;
    if (start >= n) {
        return;
    }
    const int count = static_cast<int>(n - start < N ? n - start : N);
    const R factor = static_cast<R>(scale), summand = static_cast<R>(shift), most = static_cast<R>(limit);
    counter = moved(counter, offset);
    Chunk<T, N> chunk;
#pragma unroll
    for (int j = 0; j < N; j += PER_BLOCK) {
        R numbers[PER_BLOCK];
        F::make(philox(seed, counter, (start + j) / PER_BLOCK), numbers);
#pragma unroll
        for (int k = 0; k < PER_BLOCK; ++k) {
            R x = times(numbers[k], factor);
            x = shift == 0.0 ? x : plus(x, summand);  // a sum with 0 would lose the sign of a zero
            const T made = from_float<T>(x);
            chunk.at[j + k] = to_float(made) > most ? from_float<T>(most) : made;
        }
    }
    store(out + start, chunk, count == N && aligned(out), count);
}

#define KERNEL(NAME, F, TYPE, T)                                                                                      \
    extern "C" __global__ void fill_##NAME##_##TYPE(uint64 seed, uint64 counter, const uint64* offset, double scale,  \
                                                    double shift, double limit, long long n, T* out) {                \
        fill<F>(seed, counter, offset, scale, shift, limit, n, out);                                                  \
    }

#define KERNELS(NAME, F)                \
    KERNEL(NAME, F, float16, float16)   \
    KERNEL(NAME, F, bfloat16, bfloat16) \
    KERNEL(NAME, F, float32, float)     \
    KERNEL(NAME, F, float64, double)

KERNELS(uniform, Uniform)
KERNELS(exponential, Exponential)
KERNELS(normal, Normal)
