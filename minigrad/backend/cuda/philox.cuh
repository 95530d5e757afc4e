// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011), as
// minigrad/_core/philox.pxd has it: the key is the seed, the low half of the counter is the index of the block, the
// high half the number of the draw. Word k of block j belongs to element 4 j + k.


typedef unsigned int uint32;
typedef unsigned long long uint64;

struct Words {
    uint32 w[4];
};

DEVICE Words philox(uint64 key, uint64 counter, uint64 block) {
    uint32 k0 = static_cast<uint32>(key), k1 = static_cast<uint32>(key >> 32);
    uint32 c0 = static_cast<uint32>(block), c1 = static_cast<uint32>(block >> 32);
    uint32 c2 = static_cast<uint32>(counter), c3 = static_cast<uint32>(counter >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64 p0 = static_cast<uint64>(0xD2511F53u) * c0;
        const uint64 p1 = static_cast<uint64>(0xCD9E8D57u) * c2;
        c0 = static_cast<uint32>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32>(p1);
        c2 = static_cast<uint32>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32>(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// The counter of a draw: in a captured step, one that the device counts on from replay to replay.
DEVICE uint64 moved(uint64 counter, const uint64* offset) { return offset ? counter + *offset : counter; }
