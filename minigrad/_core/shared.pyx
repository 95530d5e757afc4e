"""Collectives of processes through memory that they share: a barrier, slots, and a mailbox for each pair.

A world's block begins with a header, whose layout is `WORLD_BYTES` and the words below; each group of its processes has
a region behind it, laid out by `Plan`. What is large goes through the slots in chunks: there are three buffers, so that
while chunk t is written, t - 1 is combined and t - 2 read, with one barrier a chunk.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uintptr_t
from libc.string cimport memcpy
from numpy cimport (
    PyArray_DATA, PyArray_ISWRITEABLE, PyArray_NBYTES, PyArray_SIZE, import_array, ndarray, npy_intp,
)

from minigrad._core.cpu import Kernel

import_array()

cdef extern from *:
    """
    #include <sched.h>
    #include <stdint.h>
    #include <time.h>
    #include <unistd.h>
    #if defined(__linux__)
    #include <limits.h>
    #include <linux/futex.h>
    #include <sys/syscall.h>
    #include <signal.h>
    #include <sys/prctl.h>
    static void mg_die_with_parent(void) { prctl(PR_SET_PDEATHSIG, SIGKILL); }
    static void mg_sleep_on(int32_t* word, int32_t seen, int64_t nanoseconds) {
        struct timespec t = {nanoseconds / 1000000000, nanoseconds % 1000000000};
        syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0);  /* whatever ends it, the caller looks again */
    }
    static void mg_wake(int32_t* word) { syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0); }
    #else
    static void mg_die_with_parent(void) {}  /* whoever waits finds it out */
    static void mg_sleep_on(int32_t* word, int32_t seen, int64_t nanoseconds) {
        struct timespec t = {0, 50000};
        (void)seen; (void)nanoseconds;
        if (__atomic_load_n(word, __ATOMIC_SEQ_CST) == seen) nanosleep(&t, NULL);
    }
    static void mg_wake(int32_t* word) { (void)word; }
    #endif
    #if defined(__x86_64__) || defined(__i386__)
    #define mg_pause() __builtin_ia32_pause()
    #else
    #define mg_pause() ((void)0)
    #endif
    static int64_t mg_now(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    static int32_t mg_load(int32_t* word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
    static void mg_store(int32_t* word, int32_t value) { __atomic_store_n(word, value, __ATOMIC_SEQ_CST); }
    static int32_t mg_add(int32_t* word, int32_t value) { return __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST); }
    static int mg_claim(int32_t* word, int32_t value) {
        int32_t free = 0;
        return __atomic_compare_exchange_n(word, &free, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static int64_t mg_add_long(int64_t* word, int64_t value) {
        return __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST);
    }
    static int32_t mg_parent(void) { return (int32_t)getppid(); }
    """
    void mg_sleep_on(int32_t* word, int32_t seen, int64_t nanoseconds) noexcept nogil
    void mg_wake(int32_t* word) noexcept nogil
    void mg_pause() noexcept nogil
    int sched_yield() noexcept nogil
    int64_t mg_now() noexcept nogil
    int32_t mg_load(int32_t* word) noexcept nogil
    void mg_store(int32_t* word, int32_t value) noexcept nogil
    int32_t mg_add(int32_t* word, int32_t value) noexcept nogil
    bint mg_claim(int32_t* word, int32_t value) noexcept nogil
    int64_t mg_add_long(int64_t* word, int64_t value) noexcept nogil
    int32_t mg_parent() noexcept nogil
    void mg_die_with_parent() noexcept nogil

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef enum:
    LINE = 64                # bytes of a cache line
    PAGE = 4096
    BUFFERS = 3
    CHUNK = 524_288          # bytes of a slot
    SMALL = 16_384           # bytes up to which every process combines all of it: one barrier instead of two
    PIECE = 262_144          # bytes of a message that are under way at once
    DEPTH = 4                # pieces that a mailbox holds
    NAP = 20_000_000         # nanoseconds after which a sleeper looks at what nobody wakes it for

# the header of a world, in int32 words
cdef enum:
    STOPPED = 0              # rank + 1 of who ended it, or -1 for who started it
    CLAIMED = 16             # rank + 1 of who tells the user why
    USED = 32                # int64: the bytes of the block that are taken
    GONE = 64                # of each rank, whether its process has ended

cdef enum:
    OK
    ENDED
    LATE
    LEFT
    RAISED
    UNLIKE

cdef tuple CODES = ("ok", "ended", "late", "left", "raised", "unlike")
cdef object load_combine = Kernel("collective", "address")

kinds = {
    "float32": FLOAT32, "float64": FLOAT64, "float16": FLOAT16, "bfloat16": BFLOAT16,
    "int8": INT8, "int16": INT16, "int32": INT32, "int64": INT64,
    "uint8": UINT8, "uint16": UINT16, "uint32": UINT32, "uint64": UINT64,
}
ops = {"sum": SUM, "mean": MEAN, "max": MAX}


class Failure(Exception):
    """A collective did not come to its end: the reason, as one of a few words, and the time waited in seconds."""


def die_with_parent(int parent):
    """Let the system end this process with the one that started it, where it can; whether that one still runs."""
    mg_die_with_parent()
    return mg_parent() == parent


def world_bytes(int size):
    """The bytes of the header of a world of so many ranks."""
    return ((GONE + size) * 4 + PAGE - 1) // PAGE * PAGE


def region_bytes(int size):
    """The bytes of the region of a group: those to reserve, and all, which are only used as messages are sent."""
    cdef Plan plan = plan_for(size)
    return plan.mail, plan.end


cdef class World:
    """The header of a block: who ended it, who is gone, and what of the block is taken."""
    cdef int32_t* words
    cdef object held
    cdef readonly int size, parent

    def __init__(self, ndarray header not None, int size, int parent=0):
        """`parent`: the process whose end is the end of the world, 0 for none."""
        if PyArray_NBYTES(header) < world_bytes(size) or not PyArray_ISWRITEABLE(header):
            raise ValueError("the header is too small")
        self.held, self.words, self.size, self.parent = header, <int32_t*>PyArray_DATA(header), size, parent

    def stop(self, int who):
        """End the world: all that wait give up. The first call counts."""
        return mg_claim(self.words + STOPPED, who)

    def stopped(self):
        """Who ended it: rank + 1, -1 for who started it, 0 for nobody."""
        return mg_load(self.words + STOPPED)

    def claim(self, int rank):
        """Whether this rank is the first to tell the user why it ends."""
        return mg_claim(self.words + CLAIMED, rank + 1) or mg_load(self.words + CLAIMED) == rank + 1

    def claimed(self):
        """Who tells why, -1 for nobody."""
        return mg_load(self.words + CLAIMED) - 1

    def leave(self, int rank):
        """Note that the process of a rank has ended."""
        mg_store(self.words + GONE + rank, 1)

    def take(self, long long size):
        """The place of so many more bytes in the block, whole pages."""
        return mg_add_long(<int64_t*>(self.words + USED), (size + PAGE - 1) // PAGE * PAGE)


cdef struct Plan:
    npy_intp signs, slots, mail_heads, mail, end


cdef Plan plan_for(int n):
    """Where things lie in a region: barrier, how many have left, signs, heads of the mailboxes, slots, mailboxes."""
    cdef Plan plan
    plan.signs = 4 * LINE
    plan.mail_heads = plan.signs + BUFFERS * n * LINE
    plan.slots = (plan.mail_heads + <npy_intp>n * n * 2 * LINE + PAGE - 1) // PAGE * PAGE
    plan.mail = plan.slots + <npy_intp>BUFFERS * n * CHUNK
    plan.end = plan.mail + <npy_intp>n * n * DEPTH * PIECE
    return plan


cdef class Channel:
    """The collectives of a group. All its processes call the same ones in the same order, one at a time."""
    cdef World world
    cdef Plan plan
    cdef char* base
    cdef object held, error
    cdef int32_t* ranks
    cdef ndarray rank_array
    cdef readonly int size, rank
    cdef int64_t patience, spin
    cdef npy_intp turn           # the buffer of the next chunk, counted without end
    cdef Combine combine
    cdef int64_t waited
    cdef int odd                 # who came with something else
    cdef int64_t odd_sign[3]
    cdef readonly bint broken

    def __init__(
        self, World world not None, ndarray region not None, ndarray ranks not None, int rank, double timeout,
        double spin,
    ):
        """`ranks`: int32, those of the group in the world; `timeout` and `spin` in seconds."""
        self.world, self.held, self.size, self.rank = world, region, <int>PyArray_SIZE(ranks), rank
        self.plan = plan_for(self.size)
        if PyArray_NBYTES(region) < self.plan.end or not PyArray_ISWRITEABLE(region) or not 0 <= rank < self.size:
            raise ValueError("the region is too small")
        self.base = <char*>PyArray_DATA(region)
        self.rank_array, self.ranks = ranks, <int32_t*>PyArray_DATA(ranks)
        self.patience, self.spin = <int64_t>(timeout * 1e9), <int64_t>(spin * 1e9)
        self.combine = <Combine><uintptr_t>load_combine()

    # --- waiting --------------------------------------------------------------------------------------------------

    cdef bint is_gone(self, int only) noexcept nogil:
        """Whether a process of the group has ended; of one rank where `only` is not -1."""
        cdef int k
        for k in range(self.size):
            if (only < 0 or k == only) and mg_load(self.world.words + GONE + self.ranks[k]):
                return True
        return False

    cdef int wait_for(self, int32_t* word, int32_t seen, int32_t* sleepers, int only) noexcept nogil:
        """Wait until a word is no longer what was seen there: spin a little, then sleep."""
        cdef int64_t start = mg_now()
        cdef int code = OK, _i
        if self.spin > 0:
            while mg_now() - start < self.spin:
                for _i in range(32):
                    if mg_load(word) != seen:
                        return OK
                    mg_pause()
        mg_add(sleepers, 1)
        while mg_load(word) == seen:
            if mg_load(self.world.words + STOPPED) or (self.world.parent and mg_parent() != self.world.parent):
                code = ENDED
            elif self.is_gone(only):
                code = LEFT
            elif mg_now() - start > self.patience:
                code = LATE
            if code != OK:
                if code == LEFT and mg_load(word) != seen:  # it came, and ended then
                    code = OK
                break
            mg_sleep_on(word, seen, NAP)
            if mg_load(word) == seen and self.is_interrupted():
                code = RAISED
                break
        mg_add(sleepers, -1)
        self.waited = mg_now() - start
        return code

    cdef bint is_interrupted(self) noexcept nogil:
        """Run Python's signal handlers; whether one raised."""
        cdef bint raised = False
        with gil:
            try:
                PyErr_CheckSignals()
            except BaseException as error:
                self.error = error  # until the GIL is held for good
                raised = True
        return raised

    cdef int meet(self) noexcept nogil:
        """The barrier."""
        cdef int32_t* arrived = <int32_t*>self.base
        cdef int32_t* epoch = <int32_t*>(self.base + LINE)
        cdef int32_t* sleepers = <int32_t*>(self.base + 2 * LINE)
        cdef int32_t seen = mg_load(epoch)
        if mg_add(arrived, 1) != self.size - 1:
            return self.wait_for(epoch, seen, sleepers, -1)
        mg_store(arrived, 0)
        mg_store(epoch, <int32_t>(<uint32_t>seen + 1))  # it wraps within hours
        if mg_load(sleepers):
            mg_wake(epoch)
        return OK

    # --- what all have in common ------------------------------------------------------------------------------------

    cdef inline char* slot(self, npy_intp turn, int rank) noexcept nogil:
        return self.base + self.plan.slots + ((turn % BUFFERS) * self.size + rank) * CHUNK

    cdef inline int64_t* sign(self, npy_intp turn, int rank) noexcept nogil:
        return <int64_t*>(self.base + self.plan.signs + ((turn % BUFFERS) * self.size + rank) * LINE)

    cdef void announce(self, int64_t what, int64_t first, int64_t second) noexcept nogil:
        """Say what this rank came for, before the first barrier."""
        cdef int64_t* mine = self.sign(self.turn, self.rank)
        mine[0], mine[1], mine[2] = what, first, second

    cdef int compare(self, npy_intp turn) noexcept nogil:
        """After the first barrier: whether all came for the same."""
        cdef int64_t* mine = self.sign(turn, self.rank)
        cdef int64_t* other
        cdef int k
        for k in range(self.size):
            other = self.sign(turn, k)
            if other[0] != mine[0] or other[1] != mine[1] or other[2] != mine[2]:
                self.odd = k
                self.odd_sign[0], self.odd_sign[1], self.odd_sign[2] = other[0], other[1], other[2]
                return UNLIKE
        return OK

    cdef int first(self) noexcept nogil:
        """The first barrier of a collective."""
        cdef int code = self.meet()
        return code if code != OK else self.compare(self.turn)

    cdef finish(self, int code):
        """Raise what went wrong. A group that did not come to the end of a collective is of no use any more."""
        if code == OK:
            return
        self.broken = True
        if code == RAISED:
            error, self.error = self.error, None
            raise error
        if code == UNLIKE:
            raise Failure(CODES[code], self.odd, (self.odd_sign[0], self.odd_sign[1], self.odd_sign[2]))
        raise Failure(CODES[code], self.waited / 1e9)

    def leave(self):
        """Note that this rank makes no more calls; whether it is the last one."""
        return mg_add(<int32_t*>(self.base + 3 * LINE), 1) == self.size - 1

    cdef begin(self):
        if self.broken:
            raise Failure("broken", 0.0)

    # --- collectives ------------------------------------------------------------------------------------------------

    def barrier(self, long long what):
        """Wait for all."""
        cdef int code
        self.begin()
        with nogil:
            self.announce(what, 0, 0)
            code = self.first()
            self.turn = self.turn + 1  # += asks for the GIL in debug builds
        self.finish(code)

    cdef int reduce_small(self, const char* x, char* out, npy_intp count, int item, int kind, int op) noexcept nogil:
        cdef const char* sources[1024]
        cdef int k, code
        memcpy(self.slot(self.turn, self.rank), x, count * item)
        code = self.first()
        if code == OK:
            for k in range(self.size):
                sources[k] = self.slot(self.turn, k)
            self.combine(kind, op, sources, self.size, out, count)
        self.turn = self.turn + 1
        return code

    cdef int reduce_large(self, const char* x, char* out, npy_intp count, int item, int kind, int op) noexcept nogil:
        cdef const char* sources[1024]
        cdef npy_intp step = CHUNK // item, chunks = (count + step - 1) // step, t, n, low, high, align = LINE // item
        cdef int k, code = OK
        for t in range(chunks + 2):
            if t < chunks:
                n = min(step, count - t * step)
                memcpy(self.slot(self.turn + t, self.rank), x + t * step * item, n * item)
            if 1 <= t <= chunks:
                n = min(step, count - (t - 1) * step)
                low = n * self.rank // self.size // align * align
                high = n if self.rank == self.size - 1 else n * (self.rank + 1) // self.size // align * align
                for k in range(self.size):
                    sources[k] = self.slot(self.turn + t - 1, k) + low * item
                self.combine(kind, op, sources, self.size, <char*>sources[0], high - low)
            if t >= 2:
                n = min(step, count - (t - 2) * step)
                memcpy(out + (t - 2) * step * item, self.slot(self.turn + t - 2, 0), n * item)
            if t <= chunks:
                code = self.first() if t == 0 else self.meet()
                if code != OK:
                    break
        self.turn = self.turn + chunks
        return code

    def allreduce(self, ndarray x not None, ndarray out not None, int item, int kind, int op, long long what):
        """Combine arrays of equal sizes; `x` may be `out`."""
        cdef npy_intp count = PyArray_NBYTES(x) // item
        cdef const char* source = <const char*>PyArray_DATA(x)
        cdef char* to = <char*>PyArray_DATA(out)
        cdef int code
        self.begin()
        assert PyArray_NBYTES(out) == PyArray_NBYTES(x)
        with nogil:
            self.announce(what, count, 0)
            if count * item <= SMALL:
                code = self.reduce_small(source, to, count, item, kind, op)
            else:
                code = self.reduce_large(source, to, count, item, kind, op)
        self.finish(code)

    def reduce_scatter(
        self, ndarray x not None, ndarray out not None, ndarray ends not None, int item, int kind, int op,
        long long what,
    ):
        """Combine, and keep a part: that of rank r lies from ``ends[r]`` to ``ends[r + 1]``, int64, in elements."""
        cdef const char* sources[1024]
        cdef const char* source = <const char*>PyArray_DATA(x)
        cdef char* to = <char*>PyArray_DATA(out)
        cdef int64_t* end = <int64_t*>PyArray_DATA(ends)
        cdef npy_intp step = CHUNK // self.size // LINE * LINE // item, chunks = 0, t, n, count = end[self.size]
        cdef int k, code = OK
        self.begin()
        assert PyArray_NBYTES(x) == count * item and step > 0
        assert PyArray_NBYTES(out) == (end[self.rank + 1] - end[self.rank]) * item
        with nogil:
            self.announce(what, count, 0)
            for k in range(self.size):
                chunks = max(chunks, (end[k + 1] - end[k] + step - 1) // step)
            chunks = max(chunks, 1)
            for t in range(chunks):
                for k in range(self.size):
                    n = min(step, end[k + 1] - end[k] - t * step)
                    if n > 0:
                        memcpy(
                            self.slot(self.turn + t, self.rank) + k * step * item,
                            source + (end[k] + t * step) * item, n * item,
                        )
                code = self.first() if t == 0 else self.meet()
                if code != OK:
                    break
                n = min(step, end[self.rank + 1] - end[self.rank] - t * step)
                for k in range(self.size):
                    sources[k] = self.slot(self.turn + t, k) + self.rank * step * item
                if n > 0:
                    self.combine(kind, op, sources, self.size, to + t * step * item, n)
            self.turn = self.turn + chunks
        self.finish(code)

    def all_gather(self, ndarray x not None, ndarray out not None, ndarray ends not None, long long what):
        """Put the parts of all ranks one after the other; `ends`: int64, in bytes."""
        cdef const char* source = <const char*>PyArray_DATA(x)
        cdef char* to = <char*>PyArray_DATA(out)
        cdef int64_t* end = <int64_t*>PyArray_DATA(ends)
        cdef npy_intp chunks = 1, t, n
        cdef int k, code = OK
        self.begin()
        assert PyArray_NBYTES(out) == end[self.size]
        assert PyArray_NBYTES(x) == end[self.rank + 1] - end[self.rank]
        with nogil:
            self.announce(what, end[self.size], 0)
            for k in range(self.size):
                chunks = max(chunks, (end[k + 1] - end[k] + CHUNK - 1) // CHUNK)
            for t in range(chunks):
                n = min(CHUNK, end[self.rank + 1] - end[self.rank] - t * CHUNK)
                if n > 0:
                    memcpy(self.slot(self.turn + t, self.rank), source + t * CHUNK, n)
                code = self.first() if t == 0 else self.meet()
                if code != OK:
                    break
                for k in range(self.size):
                    n = min(CHUNK, end[k + 1] - end[k] - t * CHUNK)
                    if n > 0:
                        memcpy(to + end[k] + t * CHUNK, self.slot(self.turn + t, k), n)
            self.turn = self.turn + chunks
        self.finish(code)

    def broadcast(self, ndarray x not None, int root, long long what):
        """Fill the array of every rank with that of one."""
        cdef char* at = <char*>PyArray_DATA(x)
        cdef npy_intp size = PyArray_NBYTES(x), chunks = max(1, (size + CHUNK - 1) // CHUNK), t, n
        cdef int code = OK
        self.begin()
        with nogil:
            self.announce(what, size, root)
            for t in range(chunks):
                n = min(CHUNK, size - t * CHUNK)
                if self.rank == root and n > 0:
                    memcpy(self.slot(self.turn + t, root), at + t * CHUNK, n)
                code = self.first() if t == 0 else self.meet()
                if code != OK:
                    break
                if self.rank != root and n > 0:
                    memcpy(at + t * CHUNK, self.slot(self.turn + t, root), n)
            self.turn = self.turn + chunks
        self.finish(code)

    # --- messages ---------------------------------------------------------------------------------------------------

    cdef inline int32_t* head(self, int source, int to) noexcept nogil:
        """Words of a mailbox: pieces written and who sleeps for them; a line on, pieces read and who sleeps."""
        return <int32_t*>(self.base + self.plan.mail_heads + (<npy_intp>source * self.size + to) * 2 * LINE)

    cdef inline char* piece(self, int source, int to, int32_t number) noexcept nogil:
        cdef npy_intp box = <npy_intp>source * self.size + to
        return self.base + self.plan.mail + (box * DEPTH + (<npy_intp>number & (DEPTH - 1))) * PIECE

    cdef npy_intp put(self, int to, const char* x, npy_intp size) noexcept nogil:
        """Write a piece if there is room; returns its bytes."""
        cdef int32_t* head = self.head(self.rank, to)
        cdef int32_t written = mg_load(head)
        cdef npy_intp n = min(size, PIECE)
        if <uint32_t>written - <uint32_t>mg_load(head + LINE // 4) >= DEPTH:
            return 0
        memcpy(self.piece(self.rank, to, written), x, n)
        mg_store(head, <int32_t>(<uint32_t>written + 1))
        if mg_load(head + 1):
            mg_wake(head)
        return n

    cdef npy_intp get(self, int source, char* x, npy_intp size) noexcept nogil:
        """Read a piece if there is one; returns its bytes."""
        cdef int32_t* head = self.head(source, self.rank)
        cdef int32_t* tail = head + LINE // 4
        cdef int32_t read = mg_load(tail)
        cdef npy_intp n = min(size, PIECE)
        if mg_load(head) == read:
            return 0
        memcpy(x, self.piece(source, self.rank, read), n)
        mg_store(tail, <int32_t>(<uint32_t>read + 1))
        if mg_load(tail + 1):
            mg_wake(tail)
        return n

    def push(self, ndarray x not None, int to):
        """Send the bytes of an array; returns when they are read, but for the last pieces."""
        cdef const char* at = <const char*>PyArray_DATA(x)
        cdef npy_intp size = PyArray_NBYTES(x), done = 0, n
        cdef int32_t* tail = self.head(self.rank, to) + LINE // 4
        cdef int32_t read
        cdef int code = OK
        self.begin()
        with nogil:
            while done < size:
                read = mg_load(tail)
                n = self.put(to, at + done, size - done)
                if n == 0:
                    code = self.wait_for(tail, read, tail + 1, to)
                    if code != OK:
                        break
                done += n
        self.finish(code)

    def pull(self, ndarray x not None, int source):
        """Fill an array with bytes that were sent."""
        cdef char* at = <char*>PyArray_DATA(x)
        cdef npy_intp size = PyArray_NBYTES(x), done = 0, n
        cdef int32_t* head = self.head(source, self.rank)
        cdef int32_t written
        cdef int code = OK
        self.begin()
        with nogil:
            while done < size:
                written = mg_load(head)
                n = self.get(source, at + done, size - done)
                if n == 0:
                    code = self.wait_for(head, written, head + 1, source)
                    if code != OK:
                        break
                done += n
        self.finish(code)

    def exchange(self, ndarray x not None, int to, ndarray out not None, int source):
        """`push` and `pull` at once, so that neither waits for the other."""
        cdef const char* from_here = <const char*>PyArray_DATA(x)
        cdef char* here = <char*>PyArray_DATA(out)
        cdef npy_intp sending = PyArray_NBYTES(x), coming = PyArray_NBYTES(out), sent = 0, came = 0, n, m
        cdef int32_t* head = self.head(source, self.rank)
        cdef int32_t* tail = self.head(self.rank, to) + LINE // 4
        cdef int32_t written, read
        cdef int code = OK
        self.begin()
        with nogil:
            while code == OK and (sent < sending or came < coming):
                written, read = mg_load(head), mg_load(tail)
                n = self.put(to, from_here + sent, sending - sent) if sent < sending else 0
                m = self.get(source, here + came, coming - came) if came < coming else 0
                sent += n
                came += m
                if n or m:
                    continue
                if came == coming:
                    code = self.wait_for(tail, read, tail + 1, to)
                elif sent == sending:
                    code = self.wait_for(head, written, head + 1, source)
                else:
                    # both boxes stand still: the other ends read before they wait, so pieces come
                    code = self.wait_for(head, written, head + 1, source) if source == to else self.rest(head, written)
        self.finish(code)

    cdef int rest(self, int32_t* head, int32_t written) noexcept nogil:
        """Wait a moment for one of two boxes."""
        if mg_load(self.world.words + STOPPED) or (self.world.parent and mg_parent() != self.world.parent):
            return ENDED
        if self.is_gone(-1):
            return LEFT
        mg_sleep_on(head, written, 50_000)
        return OK


def combine(list sources not None, ndarray out not None, int item, int kind, int op):
    """Combine arrays of equal sizes in their order into `out`, which may be the first."""
    cdef const char* at[1024]
    cdef int k, count = <int>len(sources)
    cdef Combine function = <Combine><uintptr_t>load_combine()
    cdef char* to = <char*>PyArray_DATA(out)
    cdef npy_intp n = PyArray_NBYTES(out) // item
    if not 0 < count <= 1024:
        raise ValueError(f"combine: {count} sources, needs 1 to 1024")
    for k in range(count):
        assert PyArray_NBYTES(<ndarray>sources[k]) == PyArray_NBYTES(out)
        at[k] = <const char*>PyArray_DATA(<ndarray>sources[k])
    with nogil:
        function(kind, op, at, count, to, n)


# --- MPI --------------------------------------------------------------------------------------------------------------

ctypedef int (*Test)(void*, int*, void*) noexcept nogil

cdef enum:
    LOOKS = 1000  # at a request, before this thread lets others run, and between two looks at the clock


def poll(uintptr_t test, uintptr_t request, double timeout):
    """Call ``MPI_Test`` at an address on the request at another until it is done: 0, MPI's error, or -1 if it is late.

    Here and not in Python, where each call would hand the GIL over and back while the other threads compute.
    """
    cdef char[512] status  # MPI's is at most half as large, whoever made it
    cdef int done = 0, error = 0, _look
    cdef int64_t end
    with nogil:
        end = mg_now() + <int64_t>(timeout * 1e9)
        while True:
            for _look in range(LOOKS):
                error = (<Test>test)(<void*>request, &done, status)
                if done or error:
                    break
            if done or error or mg_now() > end:
                break
            sched_yield()
    return error if done or error else -1
