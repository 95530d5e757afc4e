// CUDA's execution model on one CPU thread: every thread of a block is a fiber, and blocks run one after the other.
// Fibers of a block take turns in a drawn order, so that what depends on the order shows; a barrier that not all reach
// is reported. Included before a CUDA source; compiler.py appends a launcher for each of its kernels.

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <math.h>
#include <sys/mman.h>
#include <ucontext.h>

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};

#define VECTORS(type, name)                                     \
    struct alignas(2 * sizeof(type)) name##2 { type x, y; };    \
    struct name##3 { type x, y, z; };                           \
    struct alignas(sizeof(type) < 8 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; }; \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }     \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
#define uint3 uint3_of_vectors
VECTORS(unsigned, uint)
#undef uint3
VECTORS(float, float)
VECTORS(double, double)
VECTORS(int, int)
VECTORS(unsigned short, ushort)
VECTORS(unsigned char, uchar)
VECTORS(long long, longlong)
VECTORS(unsigned long long, ulonglong)
#undef VECTORS

namespace cuda {

struct Barrier {  // of the threads in a mask of a warp
    unsigned mask = 0, arrived = 0;
    unsigned long long generation = 0;
    const char* kind = nullptr;
    alignas(16) unsigned char payload[2][32][64];
};

struct Warp {
    std::vector<Barrier*> barriers;
    unsigned alive = 0;
};

struct Fiber {
    void* stack_pointer;
    unsigned char* stack;
    uint3 thread;
    unsigned lane;
    Warp* warp;
    const unsigned long long* waits_for;  // runs on when this is no longer `seen`
    unsigned long long seen;
    const char* where;
    bool done;
#if !defined(__x86_64__)
    ucontext_t context;
#endif
};

static const size_t STACK = 128 << 10;
static Fiber* self = nullptr;
static std::vector<unsigned char*> stacks;  // of all kernels of a source
static uint3 block_index;
static dim3 block_size, grid_size;
static std::string fault;
static unsigned long long block_generation;
static unsigned block_arrived, block_alive;
static void (*body)(void*);
static void* body_argument;
alignas(128) static unsigned char dynamic_memory[(228 << 10) + 4096];
static unsigned long long block_serial;  // which block it is, of all that ever ran

// Where the linker puts what is __shared__; none where a source has nothing of the kind.
extern "C" unsigned char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern "C" unsigned char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));

#if defined(__x86_64__)
// Save what a function must keep, and go on where the other one left off.
extern "C" __attribute__((visibility("hidden"))) void cuda_switch(void** from, void* to);
asm(R"(
.globl cuda_switch
.hidden cuda_switch
.type cuda_switch, @function
cuda_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
static void* main_stack_pointer;
static inline void leave() { cuda_switch(&self->stack_pointer, main_stack_pointer); }
static inline void enter(Fiber* fiber) {
    self = fiber;
    cuda_switch(&main_stack_pointer, fiber->stack_pointer);
}
#else
static ucontext_t main_context;
static inline void leave() { swapcontext(&self->context, &main_context); }
static inline void enter(Fiber* fiber) {
    self = fiber;
    swapcontext(&main_context, &fiber->context);
}
#endif

static void wait(const unsigned long long* generation, unsigned long long seen, const char* where) {
    self->waits_for = generation;
    self->seen = seen;
    self->where = where;
    while (*generation == seen) {
        leave();
    }
    self->waits_for = nullptr;
}

static void block_barrier() {
    const unsigned long long seen = block_generation;
    if (++block_arrived == block_alive) {
        block_arrived = 0;
        ++block_generation;
        return;
    }
    wait(&block_generation, seen, "__syncthreads");
}

static void fail(const char* what, const char* kind) {
    if (fault.empty()) {
        char text[200];
        std::snprintf(text, sizeof text, "%s in %s, thread (%u, %u, %u) of block (%u, %u, %u)", what, kind, self->thread.x,
                      self->thread.y, self->thread.z, block_index.x, block_index.y, block_index.z);
        fault = text;
    }
    while (true) {  // never comes back
        static const unsigned long long never = 0;
        wait(&never, 0, kind);
    }
}

// The lanes of a mask meet; each leaves a value, and gets the table of all, which holds until they meet again.
static const unsigned char (*meet(unsigned mask, const void* value, size_t size, const char* kind))[64] {
    Warp& warp = *self->warp;
    if (!(mask >> self->lane & 1)) {
        fail("a lane that is not in its own mask", kind);
    }
    if (mask & ~warp.alive) {
        fail("a mask with lanes that have ended", kind);
    }
    Barrier* barrier = nullptr;
    for (Barrier* known : warp.barriers) {
        if (known->mask == mask) {
            barrier = known;
        }
    }
    if (!barrier) {
        barrier = new Barrier;
        barrier->mask = mask;
        warp.barriers.push_back(barrier);
    }
    if (!barrier->arrived) {
        barrier->kind = kind;
    } else if (std::strcmp(barrier->kind, kind)) {
        fail("lanes that meet in another function", kind);
    }
    const unsigned long long seen = barrier->generation;
    unsigned char(*table)[64] = barrier->payload[seen & 1];
    std::memcpy(table[self->lane], value, size);
    barrier->arrived |= 1u << self->lane;
    if (barrier->arrived == mask) {
        barrier->arrived = 0;
        ++barrier->generation;
    } else {
        wait(&barrier->generation, seen, kind);
    }
    return table;
}

static void run_fiber() {
    body(body_argument);
    self->done = true;
    self->warp->alive &= ~(1u << self->lane);
    --block_alive;
    if (block_alive && block_arrived == block_alive) {
        block_arrived = 0;
        ++block_generation;
    }
    leave();
    std::abort();
}

static void prepare(Fiber* fiber) {
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(fiber->stack + STACK);
    *--top = nullptr;  // the place of a return address: the stack is aligned as after a call
    *--top = reinterpret_cast<void*>(run_fiber);
    for (int i = 0; i < 6; ++i) {
        *--top = nullptr;
    }
    fiber->stack_pointer = top;
#else
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, run_fiber, 0);
#endif
}

// Run all threads of a block to their end, or to a fault.
static void run_block(std::vector<Fiber>& fibers, std::vector<Warp>& warps, unsigned long long& random) {
    const unsigned n = block_size.x * block_size.y * block_size.z;
    std::vector<unsigned> order(n);
    for (unsigned i = 0; i < n; ++i) {
        Fiber& fiber = fibers[i];
        fiber.thread = {i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y};
        fiber.lane = i % 32;
        fiber.warp = &warps[i / 32];
        fiber.waits_for = nullptr;
        fiber.done = false;
        prepare(&fiber);
        order[i] = i;
    }
    for (unsigned w = 0; w < warps.size(); ++w) {
        const unsigned lanes = std::min(32u, n - 32 * w);
        warps[w].alive = lanes == 32 ? ~0u : (1u << lanes) - 1;
        for (Barrier* barrier : warps[w].barriers) {
            barrier->arrived = 0;
        }
    }
    for (unsigned i = n; i > 1; --i) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(order[i - 1], order[(random >> 33) % i]);
    }
    block_arrived = 0;
    block_alive = n;
    while (block_alive) {
        bool moved = false;
        for (unsigned i : order) {
            Fiber& fiber = fibers[i];
            if (fiber.done || (fiber.waits_for && *fiber.waits_for == fiber.seen)) {
                continue;
            }
            moved = true;
            enter(&fiber);
            if (!fault.empty()) {
                return;
            }
        }
        if (!moved) {
            for (Fiber& fiber : fibers) {
                if (!fiber.done) {
                    self = &fiber;
                    char text[200];
                    std::snprintf(text, sizeof text, "%u threads of block (%u, %u, %u) wait for ever, one in %s", block_alive,
                                  block_index.x, block_index.y, block_index.z, fiber.where);
                    fault = text;
                    return;
                }
            }
        }
    }
}

struct Launch {
    unsigned grid[3], block[3];
    unsigned long long shared, order;
    unsigned long long arguments;
    void** values;
    const unsigned long long* sizes;
};

template <typename Function>
static const char* run(const Launch& launch, Function& function) {
    grid_size = {launch.grid[0], launch.grid[1], launch.grid[2]};
    block_size = {launch.block[0], launch.block[1], launch.block[2]};
    fault.clear();
    body = [](void* argument) { (*static_cast<Function*>(argument))(); };
    body_argument = &function;
    const unsigned n = block_size.x * block_size.y * block_size.z;
    while (stacks.size() < n) {
        void* made = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (made == MAP_FAILED) {
            return "no memory for stacks";
        }
        mprotect(made, 4096, PROT_NONE);
        stacks.push_back(static_cast<unsigned char*>(made));
    }
    std::vector<Fiber> fibers(n);
    std::vector<Warp> warps((n + 31) / 32);
    for (unsigned i = 0; i < n; ++i) {
        fibers[i].stack = stacks[i];
    }
    unsigned long long random = launch.order;
    const unsigned long long blocks = 1ull * grid_size.x * grid_size.y * grid_size.z;
    for (unsigned long long k = 0; k < blocks && fault.empty(); ++k) {
        const unsigned long long b = launch.order % 2 ? blocks - 1 - k : k;
        block_index = {unsigned(b % grid_size.x), unsigned(b / grid_size.x % grid_size.y), unsigned(b / grid_size.x / grid_size.y)};
        std::memset(dynamic_memory, 0xFF, launch.shared + 4096);
        std::memset(__start_cuda_shared, 0xFF, __stop_cuda_shared - __start_cuda_shared);
        ++block_serial;
        run_block(fibers, warps, random);
        for (size_t i = launch.shared; fault.empty() && i < launch.shared + 4096; ++i) {
            if (dynamic_memory[i] != 0xFF) {
                fault = "a write past the shared memory of the launch";
            }
        }
    }
    for (Warp& warp : warps) {
        for (Barrier* barrier : warp.barriers) {
            delete barrier;
        }
    }
    return fault.empty() ? nullptr : fault.c_str();
}

template <typename... A, size_t... I>
static const char* start(void (*kernel)(A...), const Launch& launch, std::index_sequence<I...>) {
    if (launch.arguments != sizeof...(A)) {
        return "another number of arguments than the kernel takes";
    }
    const unsigned long long sizes[] = {sizeof(A)..., 0};
    for (size_t i = 0; i < sizeof...(A); ++i) {
        if (sizes[i] != launch.sizes[i]) {
            static char text[100];
            std::snprintf(text, sizeof text, "argument %zu has %llu bytes, the kernel takes %llu", i, launch.sizes[i], sizes[i]);
            return text;
        }
    }
    auto function = [&] { kernel(*static_cast<A*>(launch.values[I])...); };
    return run(launch, function);
}

template <typename... A>
static const char* launch(void (*kernel)(A...), const Launch* what) {
    return start(kernel, *what, std::index_sequence_for<A...>{});
}

}  // namespace cuda

#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __constant__ static const
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("cuda_shared")))

#define threadIdx (cuda::self->thread)
#define blockIdx (cuda::block_index)
#define blockDim (cuda::block_size)
#define gridDim (cuda::grid_size)
#define warpSize 32
#define shared_memory (cuda::dynamic_memory)

static inline void __syncthreads() { cuda::block_barrier(); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

static inline int __syncthreads_count(int predicate) {
    static int count;
    cuda::block_barrier();
    count = 0;
    cuda::block_barrier();
    count += predicate != 0;
    cuda::block_barrier();
    return count;
}
static inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) > 0; }
static inline int __syncthreads_and(int predicate) { return !__syncthreads_count(!predicate); }

static inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { cuda::meet(mask, "", 1, "__syncwarp"); }

template <typename T>
static T cuda_shuffle(unsigned mask, T value, int lane, const char* kind) {
    static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
    const unsigned char(*table)[64] = cuda::meet(mask, &value, sizeof value, kind);
    if (!(mask >> lane & 1)) {
        cuda::fail("a value of a lane that is not in the mask", kind);
    }
    T found;
    std::memcpy(&found, table[lane], sizeof found);
    return found;
}
template <typename T>
static T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    return cuda_shuffle(mask, value, int(cuda::self->lane & ~(width - 1)) | (lane & (width - 1)), "__shfl_sync");
}
template <typename T>
static T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    const int own = cuda::self->lane, other = own ^ lanes;
    return cuda_shuffle(mask, value, other / width > own / width ? own : other, "__shfl_xor_sync");
}
template <typename T>
static T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const int own = cuda::self->lane, other = own + int(delta);
    return cuda_shuffle(mask, value, other / width != own / width ? own : other, "__shfl_down_sync");
}
template <typename T>
static T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const int own = cuda::self->lane, other = own - int(delta);
    return cuda_shuffle(mask, value, other < (own & ~(width - 1)) ? own : other, "__shfl_up_sync");
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const unsigned char set = predicate != 0;
    const unsigned char(*table)[64] = cuda::meet(mask, &set, 1, "__ballot_sync");
    unsigned found = 0;
    for (int i = 0; i < 32; ++i) {
        found |= mask >> i & 1 ? unsigned(table[i][0]) << i : 0;
    }
    return found;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
static inline unsigned __activemask() { return cuda::self->warp->alive; }

#define ATOMIC(name, expression)                                                \
    template <typename T, typename S>                                           \
    static T name(T* address, S given) {                                        \
        const T before = *address, value = T(given);                            \
        *address = expression;                                                  \
        return before;                                                          \
    }
ATOMIC(atomicAdd, before + value)
ATOMIC(atomicSub, before - value)
ATOMIC(atomicMax, std::max(before, value))
ATOMIC(atomicMin, std::min(before, value))
ATOMIC(atomicOr, before | value)
ATOMIC(atomicAnd, before& value)
ATOMIC(atomicXor, before ^ value)
ATOMIC(atomicExch, value)
ATOMIC(atomicInc, before >= value ? 0 : before + 1)
#undef ATOMIC
template <typename T, typename S, typename U>
static T atomicCAS(T* address, S expected, U value) {
    const T before = *address;
    if (before == T(expected)) {
        *address = T(value);
    }
    return before;
}

template <typename T>
static T __ldg(const T* p) { return *p; }
template <typename T>
static T __ldcs(const T* p) { return *p; }
template <typename T, typename S>
static void __stcs(T* p, S value) { *p = value; }
static inline unsigned __float_as_uint(float x) { unsigned u; std::memcpy(&u, &x, 4); return u; }
static inline int __float_as_int(float x) { int u; std::memcpy(&u, &x, 4); return u; }
static inline float __uint_as_float(unsigned u) { float x; std::memcpy(&x, &u, 4); return x; }
static inline float __int_as_float(int u) { float x; std::memcpy(&x, &u, 4); return x; }
static inline long long __double_as_longlong(double x) { long long u; std::memcpy(&u, &x, 8); return u; }
static inline double __longlong_as_double(long long u) { double x; std::memcpy(&x, &u, 8); return x; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(1ull * a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
static inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
static inline double rsqrt(double x) { return 1 / std::sqrt(x); }
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __fsqrt_rn(float x) { return std::sqrt(x); }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __ddiv_rn(double x, double y) { return x / y; }
static inline double __dsqrt_rn(double x) { return std::sqrt(x); }
static inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
static inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
static inline float __int2float_rn(int x) { return float(x); }
static inline float __uint2float_rn(unsigned x) { return float(x); }

template <typename A, typename B>
static constexpr auto min(A a, B b) { return b < a ? decltype(a + b)(b) : decltype(a + b)(a); }
template <typename A, typename B>
static constexpr auto max(A a, B b) { return a < b ? decltype(a + b)(b) : decltype(a + b)(a); }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
