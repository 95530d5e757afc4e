// cuBLAS and cuBLASLt on the CPU, as far as minigrad/backend/cuda calls them: the names, types and numbers are those of
// cublas_api.h, cublasLt.h and library_types.h. What cuBLAS refuses is refused here; each call is noted for tests.
// Compiled behind runtime.h and device.cuh of this folder.

enum cublasStatus_t { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum cudaDataType { CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16F = 2, CUDA_R_16BF = 14 };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68, CUBLAS_COMPUTE_64F = 70, CUBLAS_COMPUTE_32F_FAST_TF32 = 77 };

struct Handle {
    void* stream;
    void* workspace;
    size_t size;
    int math;
};

struct Call {  // what tests see of a product
    long long m, n, k, batches, turned_a, turned_b, compute, adds, out, stream, workspace, biased;
    const void *a, *b, *c;
};

static std::vector<Call> calls;
static std::vector<std::function<void()>> kept;  // those that a stream has captured
static int (*captured)(long long) = nullptr;     // whether the current one does so; it is given the number to run it by

static void run(std::function<void()> work) {
    if (captured == nullptr || !captured(kept.size())) {
        work();
    } else {
        kept.push_back(work);
    }
}

struct Factor {
    const void* data;
    int type;
    long long ld, step;
    bool turned;
};

static double value(const void* data, int type, long long i) {
    switch (type) {
        case CUDA_R_64F: return static_cast<const double*>(data)[i];
        case CUDA_R_32F: return static_cast<const float*>(data)[i];
        case CUDA_R_16F: return to_float(static_cast<const float16*>(data)[i]);
        default: return to_float(static_cast<const bfloat16*>(data)[i]);
    }
}

static void put(void* data, int type, long long i, double x) {
    switch (type) {
        case CUDA_R_64F: static_cast<double*>(data)[i] = x; break;
        case CUDA_R_32F: static_cast<float*>(data)[i] = static_cast<float>(x); break;
        case CUDA_R_16F: static_cast<float16*>(data)[i] = from_float<float16>(static_cast<float>(x)); break;
        default: static_cast<bfloat16*>(data)[i] = from_float<bfloat16>(static_cast<float>(x));
    }
}

static float to_tf32(float x) {  // 10 bits of mantissa, ties away from zero
    const unsigned bits = __float_as_uint(x);
    return (bits & 0x7F800000) == 0x7F800000 ? x : __uint_as_float((bits + 0x1000) & 0xFFFFE000);
}

template <typename Real>
static Real scalar(const void* p) { return *static_cast<const Real*>(p); }

// One matrix in the order of columns: c = alpha op(a) op(b) + beta c; where beta is 0, c is not read.
template <typename Real>
static void multiply(
    long long m, long long n, long long k, Real alpha, const Factor& a, const Factor& b, Real beta, void* c, int type,
    long long ldc, bool tf32, long long at_a, long long at_b, long long at_c, const void* bias
) {
    for (long long j = 0; j < n; ++j) {
        for (long long i = 0; i < m; ++i) {
            Real sum = 0;
            for (long long l = 0; l < k; ++l) {
                Real x = value(a.data, a.type, at_a + (a.turned ? l + i * a.ld : i + l * a.ld));
                Real y = value(b.data, b.type, at_b + (b.turned ? j + l * b.ld : l + j * b.ld));
                sum += tf32 ? Real(to_tf32(x)) * Real(to_tf32(y)) : x * y;
            }
            const long long at = at_c + i + j * ldc;
            sum = beta == 0 ? alpha * sum : alpha * sum + beta * Real(value(c, type, at));
            put(c, type, at, bias ? sum + Real(value(bias, type, i)) : sum);
        }
    }
}

static bool computes(int a, int b, int c, int compute) {
    if (compute == CUBLAS_COMPUTE_64F) {
        return a == CUDA_R_64F && b == CUDA_R_64F && c == CUDA_R_64F;
    }
    if (compute == CUBLAS_COMPUTE_32F_FAST_TF32) {
        return a == CUDA_R_32F && b == CUDA_R_32F && c == CUDA_R_32F;
    }
    const bool known = a == CUDA_R_32F || a == CUDA_R_16F || a == CUDA_R_16BF;
    return compute == CUBLAS_COMPUTE_32F && a == b && known && (c == a || c == CUDA_R_32F);
}

// A batch of them, with the factors that are read now.
template <typename Real>
static std::function<void()> work(
    long long m, long long n, long long k, const void* alpha, const Factor& a, const Factor& b, const void* beta, void* c,
    int type, long long ldc, long long step, long long batches, bool tf32, const void* bias = nullptr
) {
    const Real first = scalar<Real>(alpha), second = scalar<Real>(beta);
    return [=] {
        for (long long i = 0; i < batches; ++i) {
            multiply<Real>(m, n, k, first, a, b, second, c, type, ldc, tf32, i * a.step, i * b.step, i * step, bias);
        }
    };
}

static int gemm(
    Handle* handle, long long m, long long n, long long k, const void* alpha, const Factor& a, const Factor& b,
    const void* beta, void* c, int type, long long ldc, long long step, long long batches, int compute, int algorithm
) {
    if (handle == nullptr) {
        return NOT_INITIALIZED;
    }
    const bool flags = (a.turned & ~1) == 0 && (b.turned & ~1) == 0;
    if (!flags || m < 0 || n < 0 || k < 0 || batches < 0 || a.ld < std::max(1ll, a.turned ? k : m)
        || b.ld < std::max(1ll, b.turned ? n : k) || ldc < std::max(1ll, m) || algorithm < -1) {
        return INVALID_VALUE;
    }
    if (!computes(a.type, b.type, type, compute)) {
        return NOT_SUPPORTED;
    }
    const bool wide = compute == CUBLAS_COMPUTE_64F, tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    const bool adds = wide ? scalar<double>(beta) != 0 : scalar<float>(beta) != 0;
    calls.push_back({m, n, k, batches, a.turned, b.turned, compute, adds, type, (long long)handle->stream,
                     (long long)handle->workspace, 0, a.data, b.data, c});
    if (wide) {
        run(work<double>(m, n, k, alpha, a, b, beta, c, type, ldc, step, batches, tf32));
    } else {
        run(work<float>(m, n, k, alpha, a, b, beta, c, type, ldc, step, batches, tf32));
    }
    return SUCCESS;
}

extern "C" {

int cublasCreate_v2(Handle** made) {
    *made = new Handle();
    return SUCCESS;
}

int cublasSetMathMode(Handle* handle, int mode) {
    handle->math = mode;
    return mode == 0 || mode == 16 ? SUCCESS : INVALID_VALUE;  // CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION
}

int cublasSetStream_v2(Handle* handle, void* stream) {
    handle->stream = stream;
    handle->workspace = nullptr;
    return SUCCESS;
}

int cublasSetWorkspace_v2(Handle* handle, void* workspace, size_t size) {
    if (reinterpret_cast<size_t>(workspace) % 16 != 0) {  // 256 there, as all memory of CuPy's
        return INVALID_VALUE;
    }
    handle->workspace = workspace;
    handle->size = size;
    return SUCCESS;
}

const char* cublasGetStatusName(int status) {
    switch (status) {
        case SUCCESS: return "CUBLAS_STATUS_SUCCESS";
        case NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
        case INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
        default: return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
}

int cublasGemmEx_64(
    Handle* handle, int transa, int transb, int64_t m, int64_t n, int64_t k, const void* alpha, const void* A,
    int Atype, int64_t lda, const void* B, int Btype, int64_t ldb, const void* beta, void* C, int Ctype, int64_t ldc,
    int compute, int algorithm
) {
    return gemm(handle, m, n, k, alpha, {A, Atype, lda, 0, transa == CUBLAS_OP_T}, {B, Btype, ldb, 0, transb == CUBLAS_OP_T},
                beta, C, Ctype, ldc, 0, 1, compute, algorithm);
}

int cublasGemmStridedBatchedEx_64(
    Handle* handle, int transa, int transb, int64_t m, int64_t n, int64_t k, const void* alpha, const void* A,
    int Atype, int64_t lda, long long stride_a, const void* B, int Btype, int64_t ldb, long long stride_b,
    const void* beta, void* C, int Ctype, int64_t ldc, long long stride_c, int64_t batches, int compute, int algorithm
) {
    return gemm(handle, m, n, k, alpha, {A, Atype, lda, stride_a, transa == CUBLAS_OP_T},
                {B, Btype, ldb, stride_b, transb == CUBLAS_OP_T}, beta, C, Ctype, ldc, stride_c, batches, compute, algorithm);
}

// --- cuBLASLt -------------------------------------------------------------------------------------------------------

struct Description {
    int compute = 0, scale = 0, transa = 0, transb = 0;
    unsigned epilogue = 1;  // CUBLASLT_EPILOGUE_DEFAULT
    const void* bias = nullptr;
};

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t ld;
};

struct Preference {
    size_t workspace = 0;
    unsigned schemes = 7, alignments[4] = {256, 256, 256, 256};  // of a, b, c, d
};

struct Found {  // cublasLtMatmulHeuristicResult_t
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

const uint64_t ALGORITHM = 0x6D696E69;
const size_t NEEDED = 1 << 20;

int cublasLtMatmulDescCreate(Description** made, int compute, int scale) {
    *made = new Description();
    (*made)->compute = compute;
    (*made)->scale = scale;
    return SUCCESS;
}

int cublasLtMatmulDescDestroy(Description* description) {
    delete description;
    return SUCCESS;
}

static int assign(void* to, size_t room, const void* from, size_t size) {
    if (size != room) {
        return INVALID_VALUE;
    }
    std::memcpy(to, from, size);
    return SUCCESS;
}

int cublasLtMatmulDescSetAttribute(Description* d, int attribute, const void* from, size_t size) {
    switch (attribute) {
        case 3: return assign(&d->transa, sizeof d->transa, from, size);
        case 4: return assign(&d->transb, sizeof d->transb, from, size);
        case 7: return assign(&d->epilogue, sizeof d->epilogue, from, size);
        case 8: return assign(&d->bias, sizeof d->bias, from, size);
        default: return INVALID_VALUE;
    }
}

int cublasLtMatrixLayoutCreate(Layout** made, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    *made = new Layout{type, rows, columns, ld};
    return SUCCESS;
}

int cublasLtMatrixLayoutDestroy(Layout* layout) {
    delete layout;
    return SUCCESS;
}

int cublasLtMatmulPreferenceCreate(Preference** made) {
    *made = new Preference();
    return SUCCESS;
}

int cublasLtMatmulPreferenceDestroy(Preference* preference) {
    delete preference;
    return SUCCESS;
}

int cublasLtMatmulPreferenceSetAttribute(Preference* p, int attribute, const void* from, size_t size) {
    if (attribute == 1) {
        return assign(&p->workspace, sizeof p->workspace, from, size);
    }
    if (attribute == 3) {
        return assign(&p->schemes, sizeof p->schemes, from, size);
    }
    if (attribute >= 5 && attribute <= 8) {
        return assign(&p->alignments[attribute - 5], sizeof p->alignments[0], from, size);
    }
    return INVALID_VALUE;
}

static bool agree(const Description* d, const Layout* a, const Layout* b, const Layout* c) {
    const uint64_t m = d->transa ? a->columns : a->rows, k = d->transa ? a->rows : a->columns;
    const uint64_t n = d->transb ? b->rows : b->columns, l = d->transb ? b->columns : b->rows;
    return m == c->rows && n == c->columns && k == l && a->ld >= int64_t(a->rows) && b->ld >= int64_t(b->rows)
        && c->ld >= int64_t(c->rows);
}

// It has nothing for float64, nor for arrays that are not aligned to 16 bytes, so that tests see what is done then.
int cublasLtMatmulAlgoGetHeuristic(
    Handle* handle, Description* d, Layout* a, Layout* b, Layout* c, Layout* made, Preference* p, int wanted, Found* found,
    int* count
) {
    *count = 0;
    if (handle == nullptr) {
        return NOT_INITIALIZED;
    }
    if (!agree(d, a, b, c) || !agree(d, a, b, made) || wanted < 1) {
        return INVALID_VALUE;
    }
    const bool aligned = *std::min_element(p->alignments, p->alignments + 4) >= 16
        && reinterpret_cast<size_t>(d->bias) % 16 == 0;
    if (!computes(a->type, b->type, c->type, d->compute) || d->scale != CUDA_R_32F || d->epilogue != 4 || !aligned
        || p->schemes != 2 || p->workspace < NEEDED) {
        return NOT_SUPPORTED;
    }
    *found = Found{{ALGORITHM}, NEEDED, SUCCESS, 1.0f, {}};
    *count = 1;
    return SUCCESS;
}

int cublasLtMatmul(
    Handle* handle, Description* d, const void* alpha, const void* A, Layout* a, const void* B, Layout* b,
    const void* beta, const void* C, Layout* c, void* D, Layout* made, const uint64_t* algorithm, void* workspace,
    size_t size, void* stream
) {
    const size_t places = reinterpret_cast<size_t>(A) | reinterpret_cast<size_t>(B) | reinterpret_cast<size_t>(D)
        | reinterpret_cast<size_t>(d->bias);
    if (!agree(d, a, b, c) || C != D || algorithm[0] != ALGORITHM || size < NEEDED || workspace == nullptr
        || places % 16 != 0) {
        return INVALID_VALUE;
    }
    const long long m = c->rows, n = c->columns, k = d->transa ? a->rows : a->columns;
    const bool tf32 = d->compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    calls.push_back({m, n, k, 1, d->transa, d->transb, d->compute, scalar<float>(beta) != 0, c->type, (long long)stream,
                     (long long)workspace, 1, A, B, D});
    run(work<float>(m, n, k, alpha, {A, a->type, a->ld, 0, d->transa == 1}, {B, b->type, b->ld, 0, d->transb == 1}, beta,
                    D, c->type, c->ld, 0, 1, tf32, d->bias));
    return SUCCESS;
}

void calls_hook(int (*hook)(long long)) { captured = hook; }
void calls_run(long long i) { kept[i](); }
void calls_clear() { calls.clear(); }
long long calls_count() { return calls.size(); }
const Call* calls_get(long long i) { return &calls[i]; }
}
