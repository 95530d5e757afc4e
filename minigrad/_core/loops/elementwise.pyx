"""Kernels of elementwise functions: one pass over the array, not one for every term of a formula.

The loops have the signature that ``elementwise_run.pxd`` describes.
"""
from numpy cimport import_array, npy_intp

from minigrad._core.loops cimport math
from minigrad._core.loops.elementwise_run cimport backward, forward
from minigrad._core.loops.plain cimport real

import_array()

cdef double SELU_ALPHA = 1.6732632423543772, SELU_SCALE = 1.0507009873554805

# ---- exponentials and logarithms -------------------------------------------------------------------------------------


cdef void exp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = math.exp(x[i])


cdef void multiply_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = g[i] * x[i]


cdef void log_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = math.log(x[i])


cdef void divide_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = g[i] / x[i]


cdef void softplus_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = math.softplus(x[i])


cdef void softplus_vjp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = g[i] * math.sigmoid(x[i])


cdef void log_sigmoid_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = -math.softplus(-x[i])


cdef void log_sigmoid_vjp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = g[i] * math.sigmoid(-x[i])


# ---- between two limits ----------------------------------------------------------------------------------------------


cdef void tanh_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = math.tanh(x[i])


cdef void tanh_vjp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = g[i] * (<real>1 - x[i] * x[i])


cdef void sigmoid_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = math.sigmoid(x[i])


cdef void sigmoid_vjp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = g[i] * x[i] * (<real>1 - x[i])


cdef void erf_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = math.erf(x[i])


cdef void erf_vjp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    cdef real scale = 1.1283791670955126  # 2 / sqrt(pi)
    for i in range(n):
        out[i] = scale * g[i] * math.exp_not_positive(-x[i] * x[i])


# ---- straight pieces; what both branches read is loaded first, since a conditional load keeps vectors away -----------


cdef void relu_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = 0 if x[i] <= 0 else x[i]  # NaN stays


cdef void relu_vjp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    cdef real value
    for i in range(n):
        value = g[i]
        out[i] = value if x[i] > 0 else 0


cdef void leaky_relu_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = x[i] if x[i] > 0 else a * x[i]


cdef void leaky_relu_vjp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    cdef real value
    for i in range(n):
        value = g[i]
        out[i] = value if x[i] > 0 else a * value


cdef void hardswish_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    cdef real gate
    for i in range(n):
        gate = x[i] / <real>6 + <real>0.5
        gate = 0 if gate < 0 else gate
        out[i] = x[i] * (1 if gate > 1 else gate)


cdef void hardswish_vjp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    cdef real value, between
    for i in range(n):
        value = g[i]
        between = value * (x[i] / <real>3 + <real>0.5)
        between = between if x[i] > -3 else 0
        out[i] = value if x[i] >= 3 else between


# ---- smooth relus ----------------------------------------------------------------------------------------------------


cdef void elu_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    """Of elu and selu: a * x or b * (exp(x) - 1)."""
    cdef npy_intp i
    cdef real below
    for i in range(n):
        below = b * math.expm1_not_positive(<real>0 if x[i] > 0 else x[i])
        out[i] = a * x[i] if x[i] > 0 else below


cdef void elu_vjp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    cdef real value, below
    for i in range(n):
        value = g[i]
        below = b * value * math.exp_not_positive(<real>0 if x[i] > 0 else x[i])
        out[i] = a * value if x[i] > 0 else below


cdef inline real normal_cdf(real x, real* bell) noexcept nogil:
    """The standard normal distribution function, and its density but for the factor: exp(-x**2 / 2)."""
    cdef real tail
    bell[0] = math.exp_not_positive(<real>-0.5 * x * x)
    tail = bell[0] * math.tail_ratio(x)
    return tail if x < 0 else <real>1 - tail


cdef void gelu_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    cdef real bell
    for i in range(n):
        out[i] = x[i] * normal_cdf(x[i], &bell)


cdef void gelu_vjp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    cdef real bell, below
    cdef real scale = 0.3989422804014327  # 1 / sqrt(2 * pi)
    for i in range(n):
        below = normal_cdf(x[i], &bell)
        out[i] = g[i] * (below + x[i] * (scale * bell))


cdef void gelu_tanh_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    """With 0.5 * (1 + tanh(u)) = sigmoid(2 * u)."""
    cdef npy_intp i
    cdef real scale = 1.5957691216057308, cubic = 0.044715  # 2 * sqrt(2 / pi)
    for i in range(n):
        out[i] = x[i] * math.sigmoid(scale * x[i] * (<real>1 + cubic * x[i] * x[i]))


cdef void gelu_tanh_vjp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    cdef real scale = 1.5957691216057308, cubic = 0.044715
    cdef real flat = 30.0  # beyond, the gate is 0 or 1 in both dtypes, and its cube cannot overflow before
    cdef real clipped, gate, slope
    for i in range(n):
        clipped = -flat if x[i] < -flat else x[i]
        clipped = flat if clipped > flat else clipped
        gate = math.sigmoid_and_slope(scale * clipped * (<real>1 + cubic * clipped * clipped), &slope)
        out[i] = g[i] * (gate + clipped * slope * scale * (<real>1 + <real>3 * cubic * clipped * clipped))


cdef void silu_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    for i in range(n):
        out[i] = x[i] * math.sigmoid(x[i])


cdef void silu_vjp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    cdef real gate, slope
    for i in range(n):
        gate = math.sigmoid_and_slope(x[i], &slope)
        out[i] = g[i] * (gate + x[i] * slope)


cdef void mish_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    """With tanh(log(1 + e)) = m / (m + 2), where m = e * (e + 2) and e = exp(x)."""
    cdef npy_intp i
    cdef real flat = 40.0  # from here on the quotient is 1, and e**2 cannot overflow before
    cdef real e, m
    for i in range(n):
        e = math.exp_to_40(flat if x[i] > flat else x[i])
        m = e * (e + <real>2)
        out[i] = x[i] * (m / (m + <real>2))


cdef void mish_vjp_loop(const real* g, const real* x, real* out, npy_intp n, real a, real b) noexcept nogil:
    cdef npy_intp i
    cdef real flat = 40.0, zero = -1000.0  # beyond them the derivative is 1 and 0
    cdef real clipped, e, m, r
    for i in range(n):
        clipped = zero if x[i] < zero else x[i]
        clipped = flat if clipped > flat else clipped
        e = math.exp_to_40(clipped)
        m = e * (e + <real>2)
        r = <real>1 / (m + <real>2)
        out[i] = g[i] * (m * r + <real>4 * clipped * (e * r) * ((e + <real>1) * r))


# ---- the kernels -----------------------------------------------------------------------------------------------------


def exp(x):
    """Kernel of the op ``exp``."""
    return forward(x, exp_loop, exp_loop)


def exp_vjp(g, out):
    """Kernel of its rule."""
    return backward(g, out, multiply_loop, multiply_loop)


def log(x):
    """Kernel of the op ``log``."""
    return forward(x, log_loop, log_loop)


def log_vjp(g, x):
    """Kernel of its rule."""
    return backward(g, x, divide_loop, divide_loop)


def softplus(x):
    """Kernel of the op ``softplus``."""
    return forward(x, softplus_loop, softplus_loop)


def softplus_vjp(g, x):
    """Kernel of its rule."""
    return backward(g, x, softplus_vjp_loop, softplus_vjp_loop)


def log_sigmoid(x):
    """Kernel of the op ``log_sigmoid``."""
    return forward(x, log_sigmoid_loop, log_sigmoid_loop)


def log_sigmoid_vjp(g, x):
    """Kernel of its rule."""
    return backward(g, x, log_sigmoid_vjp_loop, log_sigmoid_vjp_loop)


def tanh(x):
    """Kernel of the op ``tanh``."""
    return forward(x, tanh_loop, tanh_loop)


def tanh_vjp(g, out):
    """Kernel of its rule."""
    return backward(g, out, tanh_vjp_loop, tanh_vjp_loop)


def sigmoid(x):
    """Kernel of the op ``sigmoid``."""
    return forward(x, sigmoid_loop, sigmoid_loop)


def sigmoid_vjp(g, out):
    """Kernel of its rule."""
    return backward(g, out, sigmoid_vjp_loop, sigmoid_vjp_loop)


def erf(x):
    """Kernel of the op ``erf``."""
    return forward(x, erf_loop, erf_loop)


def erf_vjp(g, x):
    """Kernel of its rule."""
    return backward(g, x, erf_vjp_loop, erf_vjp_loop)


def relu(x):
    """Kernel of the op ``relu``."""
    return forward(x, relu_loop, relu_loop)


def relu_vjp(g, out):
    """Kernel of its rule."""
    return backward(g, out, relu_vjp_loop, relu_vjp_loop)


def hardswish(x):
    """Kernel of the op ``hardswish``."""
    return forward(x, hardswish_loop, hardswish_loop)


def hardswish_vjp(g, x):
    """Kernel of its rule."""
    return backward(g, x, hardswish_vjp_loop, hardswish_vjp_loop)


def gelu(x):
    """Kernel of the op ``gelu``."""
    return forward(x, gelu_loop, gelu_loop)


def gelu_vjp(g, x):
    """Kernel of its rule."""
    return backward(g, x, gelu_vjp_loop, gelu_vjp_loop)


def gelu_tanh(x):
    """Kernel of the op ``gelu_tanh``."""
    return forward(x, gelu_tanh_loop, gelu_tanh_loop)


def gelu_tanh_vjp(g, x):
    """Kernel of its rule."""
    return backward(g, x, gelu_tanh_vjp_loop, gelu_tanh_vjp_loop)


def silu(x):
    """Kernel of the op ``silu``."""
    return forward(x, silu_loop, silu_loop)


def silu_vjp(g, x):
    """Kernel of its rule."""
    return backward(g, x, silu_vjp_loop, silu_vjp_loop)


def mish(x):
    """Kernel of the op ``mish``."""
    return forward(x, mish_loop, mish_loop)


def mish_vjp(g, x):
    """Kernel of its rule."""
    return backward(g, x, mish_vjp_loop, mish_vjp_loop)


def leaky_relu(x, *, negative_slope):
    """Kernel of the op ``leaky_relu``."""
    if type(negative_slope) is not float:
        return NotImplemented
    return forward(x, leaky_relu_loop, leaky_relu_loop, negative_slope)


def leaky_relu_vjp(g, x, *, negative_slope):
    """Kernel of its rule."""
    if type(negative_slope) is not float:
        return NotImplemented
    return backward(g, x, leaky_relu_vjp_loop, leaky_relu_vjp_loop, negative_slope)


def elu(x, *, alpha):
    """Kernel of the op ``elu``."""
    return forward(x, elu_loop, elu_loop, 1.0, alpha) if type(alpha) is float else NotImplemented


def elu_vjp(g, x, *, alpha):
    """Kernel of its rule."""
    return backward(g, x, elu_vjp_loop, elu_vjp_loop, 1.0, alpha) if type(alpha) is float else NotImplemented


def selu(x):
    """Kernel of the op ``selu``."""
    return forward(x, elu_loop, elu_loop, SELU_SCALE, SELU_SCALE * SELU_ALPHA)


def selu_vjp(g, x):
    """Kernel of its rule."""
    return backward(g, x, elu_vjp_loop, elu_vjp_loop, SELU_SCALE, SELU_SCALE * SELU_ALPHA)
