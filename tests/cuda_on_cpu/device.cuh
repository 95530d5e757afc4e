// minigrad/backend/cuda/device.cuh for the CPU: the same functions, by their definitions.

#define DEVICE static inline

struct float16 {
    unsigned short bits;
};

struct bfloat16 {
    unsigned short bits;
};

DEVICE float to_float(float x) { return x; }
DEVICE double to_float(double x) { return x; }

DEVICE float to_float(float16 x) {
    _Float16 h;
    std::memcpy(&h, &x.bits, 2);
    return h;
}

DEVICE float to_float(bfloat16 x) { return __uint_as_float(unsigned(x.bits) << 16); }

template <typename T>
struct From {
    DEVICE T of(double x) { return T(x); }
};

template <>
struct From<float16> {
    DEVICE float16 of(float x) {
        const _Float16 h = x;
        float16 made;
        std::memcpy(&made.bits, &h, 2);
        return made;
    }
};

template <>
struct From<bfloat16> {
    DEVICE bfloat16 of(float x) {
        const unsigned u = __float_as_uint(x);
        if (x != x) {
            return {0x7FFF};
        }
        return {static_cast<unsigned short>((u + 0x7FFF + (u >> 16 & 1)) >> 16)};
    }
};

template <>
struct From<float> {
    DEVICE float of(float x) { return x; }
};

template <typename T, typename S>
DEVICE T from_float(S x) {
    return From<T>::of(x);
}

template <typename T>
struct Sum {
    typedef float type;
};

template <>
struct Sum<double> {
    typedef double type;
};

DEVICE float infinity() { return __int_as_float(0x7f800000); }

DEVICE float exp2_fast(float x) {
    const float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y;
}

// Copies are held back until the thread waits for them: who reads too early reads what was there before.
struct Copies {
    struct One {
        void* shared;
        unsigned char bytes[16];
    };
    std::vector<std::vector<One>> groups;
    unsigned long long block = 0;
};

DEVICE Copies& copies() {
    static std::vector<Copies> all(1024);
    const uint3 t = threadIdx;
    Copies& own = all[t.x + blockDim.x * (t.y + blockDim.y * t.z)];
    if (own.block != cuda::block_serial) {
        own.block = cuda::block_serial;
        own.groups.assign(1, {});
    }
    return own;
}

DEVICE void copy_async(void* shared, const void* global, int bytes = 16) {
    if (reinterpret_cast<uintptr_t>(shared) % 16 || (bytes && reinterpret_cast<uintptr_t>(global) % 16)) {
        cuda::fail("an address that is no multiple of 16", "copy_async");
    }
    Copies::One one{shared, {}};
    std::memcpy(one.bytes, global, bytes);
    copies().groups.back().push_back(one);
}

DEVICE void commit_copies() { copies().groups.emplace_back(); }

template <int N>
DEVICE void wait_copies() {
    std::vector<std::vector<Copies::One>>& groups = copies().groups;
    while (groups.size() > N + 1) {  // the last one is open
        for (const Copies::One& one : groups.front()) {
            std::memcpy(one.shared, one.bytes, 16);
        }
        groups.erase(groups.begin());
    }
}

DEVICE void cuda_load(unsigned (&r)[4], const void* shared, bool transposed) {
    if (reinterpret_cast<uintptr_t>(shared) % 16) {
        cuda::fail("an address that is no multiple of 16", "load_matrices");
    }
    const unsigned char(*table)[64] = cuda::meet(0xFFFFFFFFu, &shared, sizeof shared, "load_matrices");
    const int g = cuda::self->lane / 4, t = cuda::self->lane % 4;
    for (int i = 0; i < 4; ++i) {
        unsigned short pair[2];
        for (int k = 0; k < 2; ++k) {
            const int row = transposed ? 2 * t + k : g, column = transposed ? g : 2 * t + k;
            const unsigned short* start;
            std::memcpy(&start, table[8 * i + row], sizeof start);
            pair[k] = start[column];
        }
        std::memcpy(&r[i], pair, 4);
    }
    __syncwarp();  // all have read before one goes on to write
}

DEVICE void load_matrices(unsigned (&r)[4], const void* shared) { cuda_load(r, shared, false); }
DEVICE void load_matrices_transposed(unsigned (&r)[4], const void* shared) { cuda_load(r, shared, true); }

template <typename T>
DEVICE void mma_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], T) {
    unsigned char own[24];
    std::memcpy(own, a, 16);
    std::memcpy(own + 16, b, 8);
    const unsigned char(*table)[64] = cuda::meet(0xFFFFFFFFu, own, sizeof own, "mma_16x8x16");
    const int g = cuda::self->lane / 4, t = cuda::self->lane % 4;
    const auto element = [&](int lane, int place) {  // of a lane's fragments, in halves
        T h;
        std::memcpy(&h, table[lane] + 2 * place, 2);
        return to_float(h);
    };
    for (int i = 0; i < 4; ++i) {
        const int high = i / 2, column = 2 * t + i % 2;  // row g or g + 8
        float sum = 0;
        for (int k = 0; k < 16; ++k) {
            const int lane = k % 8 / 2, place = k % 2;
            sum += element(4 * g + lane, 2 * (high + 2 * (k / 8)) + place) * element(4 * column + lane, 8 + 2 * (k / 8) + place);
        }
        d[i] += sum;
    }
}

template <typename T>
DEVICE unsigned pack_halves(float low, float high, T) {
    return from_float<T>(low).bits | unsigned(from_float<T>(high).bits) << 16;
}
