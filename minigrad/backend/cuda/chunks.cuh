// What one thread takes of arrays that lie in one piece: a chunk of 16 bytes of the wider one. It is loaded and stored
// in one access where the arrays begin at multiples of 16 bytes, else element by element.

#include "device.cuh"

// What numbers are computed in: float, or double for double.
template <class T>
using Real = typename Sum<T>::type;

template <class T>
constexpr int CHUNK = 16 / static_cast<int>(sizeof(T));

DEVICE bool aligned(const void* array) { return (reinterpret_cast<unsigned long long>(array) & 15) == 0; }

// The elements of a chunk, of which N may be more than 16 bytes.
template <class T, int N>
struct alignas(16) Chunk {
    T at[N];
};

// Load `count` elements, and zeros after them; if `whole`, all N.
template <class T, int N>
DEVICE void load(Chunk<T, N>& chunk, const T* from, bool whole, int count) {
    if (whole) {
        chunk = *reinterpret_cast<const Chunk<T, N>*>(from);
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k) {
            chunk.at[k] = k < count ? from[k] : T{};
        }
    }
}

template <class T, int N>
DEVICE void store(T* to, const Chunk<T, N>& chunk, bool whole, int count) {
    if (whole) {
        *reinterpret_cast<Chunk<T, N>*>(to) = chunk;
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k) {
            if (k < count) {
                to[k] = chunk.at[k];
            }
        }
    }
}
