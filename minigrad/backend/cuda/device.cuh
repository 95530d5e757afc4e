// What the kernels need of a GPU beyond CUDA's own words. tests/cuda_on_cpu/device.cuh has the same for the CPU.

#define DEVICE __device__ __forceinline__

struct float16 {
    unsigned short bits;
};

struct bfloat16 {
    unsigned short bits;
};

DEVICE float to_float(float x) {
    return x;
}

DEVICE float to_float(float16 x) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
    return f;
}

DEVICE float to_float(bfloat16 x) {
    return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

DEVICE double to_float(double x) {
    return x;
}

// A value rounded to the nearest, ties to even.
template <typename T>
struct From {
    static DEVICE T of(double x) {
        return static_cast<T>(x);
    }
};

template <>
struct From<float16> {
    static DEVICE float16 of(float x) {
        float16 h;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(x));
        return h;
    }
};

template <>
struct From<bfloat16> {
    static DEVICE bfloat16 of(float x) {
        bfloat16 h;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h.bits) : "f"(x));
        return h;
    }
};

template <>
struct From<float> {
    static DEVICE float of(float x) {
        return x;
    }
};

template <typename T, typename S>
DEVICE T from_float(S x) {
    return From<T>::of(x);
}

// What values of a type are summed in.
template <typename T>
struct Sum {
    typedef float type;
};

template <>
struct Sum<double> {
    typedef double type;
};

DEVICE float infinity() {
    return __int_as_float(0x7f800000);
}

// 2^x to about 2 units in the last place; results below 2^-126 are 0.
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// --- shared memory -------------------------------------------------------------------------------------------------

DEVICE unsigned shared_address(const void* p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// Begin to copy 16 bytes; only the first `bytes` are read, the rest becomes 0.
DEVICE void copy_async(void* shared, const void* global, int bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}

// End a group of copies.
DEVICE void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Wait until at most N groups of this thread are under way; __syncthreads() shows them to the others.
template <int N>
DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// --- tensor cores ---------------------------------------------------------------------------------------------------
// Fragments are those of the PTX manual, "Matrix fragments for mma.m16n8k16". With g = lane / 4 and t = lane % 4:
// a[0] holds row g, columns 2t and 2t + 1; a[1] row g + 8; a[2] and a[3] the same 8 columns further. b[0] holds rows 2t
// and 2t + 1 of column g, b[1] 8 rows further. d[0], d[1] are row g, columns 2t and 2t + 1; d[2], d[3] row g + 8.

// Four 8 x 8 matrices of 16-bit numbers. Lane 8 i + j gives the address of row j of matrix i, of which every lane gets
// row g, columns 2t and 2t + 1.
DEVICE void load_matrices(unsigned (&r)[4], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared))
                 : "memory");
}

// The same of their transposes.
DEVICE void load_matrices_transposed(unsigned (&r)[4], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared))
                 : "memory");
}

// d += a b, with a of 16 x 16 and b of 16 x 8, summed in float.
DEVICE void mma_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], float16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE void mma_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], bfloat16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Two numbers rounded to the nearest in the low and the high half of a word, as fragments have them.
DEVICE unsigned pack_halves(float low, float high, float16) {
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

DEVICE unsigned pack_halves(float low, float high, bfloat16) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
