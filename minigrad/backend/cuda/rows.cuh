// Sums and maxima over the lanes of a warp and over blockDim.x threads, whole warps: a block is one row of threads, or
// has a warp for each of blockDim.y rows. Every thread gets the result, in the same bits: the order of a sum is fixed.

#include "device.cuh"

DEVICE float larger(float a, float b) { return fmaxf(a, b); }  // of a number and NaN, the number

DEVICE double larger(double a, double b) { return fmax(a, b); }

// Of groups of LANES neighbours, a power of two, each for itself.
template <int LANES = 32, class T>
DEVICE T warp_sum(T x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, step);
    }
    return x;
}

template <int LANES = 32, class T>
DEVICE T warp_max(T x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) {
        x = larger(x, __shfl_xor_sync(0xffffffffu, x, step));
    }
    return x;
}

// `scratch` is shared memory of 32 values, one a warp; it may be used again at once.
template <class T>
DEVICE T block_sum(T x, T* scratch) {
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    if (warps == 1) {
        return x;
    }
    __syncthreads();
    if (lane == 0) {
        scratch[threadIdx.x / 32] = x;
    }
    __syncthreads();
    return warp_sum(lane < warps ? scratch[lane] : T(0));
}

template <class T>
DEVICE T block_max(T x, T* scratch) {
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    x = warp_max(x);
    if (warps == 1) {
        return x;
    }
    __syncthreads();
    if (lane == 0) {
        scratch[threadIdx.x / 32] = x;
    }
    __syncthreads();
    return warp_max(scratch[lane < warps ? lane : 0]);
}
