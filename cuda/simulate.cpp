// Runs the blocks of a launch one after another, and the threads of a block as fibers: each runs until it ends or
// waits for others. What the kernels leave open is chosen by the caller: the order of blocks and of threads.
#include "simulate.h"

#include <cstdio>
#include <cstdlib>
#include <csetjmp>
#include <ucontext.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

SimulatedIndex simulated_thread, simulated_block, simulated_block_size, simulated_grid_size;

// The shared variables of all kernels; absent where there are none.
extern "C" {
extern char __start_simulated_shared[] __attribute__((weak));
extern char __stop_simulated_shared[] __attribute__((weak));
}

namespace {

const int MOST_THREADS = 1024;
const int WARP = 32;
const size_t STACK = 128 << 10;
// Neither zero nor a small number nor a valid float.
const int NONSENSE = 0xff;

enum State { READY, AT_BARRIER, AT_WARP, ENDED };

struct Fiber {
    jmp_buf place;
    const void *stack;
    size_t stack_size;
    SimulatedIndex index;
    State state;
    int line;
    void *sanitizer_fake;
};

Fiber fibers[MOST_THREADS];
uint64_t warp_words[MOST_THREADS];
Fiber scheduler; // only where it runs
ucontext_t creator;
int running;
void (*body)(const void *);
const void *body_data;
// 0: ascending, 1: descending, others: shuffled by this number.
uint32_t order;
uint64_t random_state;

uint32_t random_below(uint32_t bound) {
    // Knuth's generator; the upper bits are the good ones.
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) * bound >> 31);
}

// Goes on in `to`, until something goes on in `from`. (By jumps: swapcontext calls the system each time.)
void enter(Fiber &from, Fiber &to) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&from.sanitizer_fake, to.stack, to.stack_size);
#endif
    if (_setjmp(from.place) == 0) _longjmp(to.place, 1);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(from.sanitizer_fake, &to.stack, &to.stack_size);
#endif
}

void wait(State state, int line) {
    Fiber &fiber = fibers[running];
    fiber.state = state;
    fiber.line = line;
    enter(fiber, scheduler);
}

// One thread after the other, for ever.
void fiber_main() {
    Fiber &fiber = fibers[running];
    if (_setjmp(fiber.place) == 0) setcontext(&creator);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack, &scheduler.stack_size);
#endif
    for (;;) {
        body(body_data);
        fiber.state = ENDED;
        enter(fiber, scheduler);
    }
}

// Makes a fiber that waits for its first thread.
void create(int number) {
    Fiber &fiber = fibers[number];
    fiber.stack = malloc(STACK);
    fiber.stack_size = STACK;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = const_cast<void *>(fiber.stack);
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, fiber_main, 0);
    running = number;
    swapcontext(&creator, &context);
}

void arrange(uint32_t *places, uint32_t num) {
    for (uint32_t i = 0; i < num; i++) places[i] = order == 1 ? num - 1 - i : i;
    if (order > 1)
        for (uint32_t i = num; i > 1; i--) {
            const uint32_t j = random_below(i), place = places[i - 1];
            places[i - 1] = places[j];
            places[j] = place;
        }
}

// Lets those that wait go on if all of them that have not ended wait in the same place.
bool release(int first, int end, State state, const char *what) {
    int line = -1;
    for (int i = first; i < end; i++) {
        if (fibers[i].state == ENDED) continue;
        if (fibers[i].state != state) return false;
        if (line >= 0 && fibers[i].line != line) simulated_failure(what, fibers[i].line);
        line = fibers[i].line;
    }
    for (int i = first; i < end; i++)
        if (fibers[i].state == state) fibers[i].state = READY;
    return line >= 0;
}

void run_block(int num) {
    static uint32_t places[MOST_THREADS];
    if (__start_simulated_shared)
        memset(__start_simulated_shared, NONSENSE, __stop_simulated_shared - __start_simulated_shared);
    memset(warp_words, NONSENSE, sizeof warp_words);
    for (int i = 0; i < num; i++) {
        Fiber &fiber = fibers[i];
        const unsigned x = simulated_block_size.x, y = simulated_block_size.y;
        if (!fiber.stack) create(i);
        fiber.index = {i % x, i / x % y, i / (x * y)};
        fiber.state = READY;
    }
    for (;;) {
        arrange(places, num);
        for (int k = 0; k < num; k++) {
            running = places[k];
            if (fibers[running].state != READY) continue;
            simulated_thread = fibers[running].index;
            enter(scheduler, fibers[running]);
        }
        bool ended = true, released = false;
        for (int i = 0; i < num; i++) {
            ended &= fibers[i].state == ENDED;
            released |= fibers[i].state == READY; // paused
        }
        if (ended) return;
        for (int first = 0; first < num; first += WARP)
            released |= release(first, num < first + WARP ? num : first + WARP, AT_WARP,
                                "threads of a warp wait for each other in different places");
        if (released) continue;
        if (!release(0, num, AT_BARRIER, "threads of a block wait at different barriers"))
            simulated_failure("some threads of a block wait for others that never come", 0);
    }
}

} // namespace

extern "C" {

void simulated_failure(const char *what, int line) {
    fprintf(stderr, "simulation: %s (line %d, block %u)\n", what, line, simulated_block.x);
    abort();
}

void simulated_barrier(int line) { wait(AT_BARRIER, line); }

const uint64_t *simulated_exchange(uint64_t word, int line) {
    static uint64_t words[WARP];
    uint64_t own[WARP];
    warp_words[running] = word;
    wait(AT_WARP, line);
    memcpy(own, &warp_words[running / WARP * WARP], sizeof own);
    // Nobody gives the next word before all have these.
    wait(AT_WARP, line);
    memcpy(words, own, sizeof words);
    return words;
}

void simulated_pause() {
    if (order > 1 && random_below(4) == 0) wait(READY, 0);
}

// Calls `kernel` once for every thread of every block. Not for two threads of the host at a time.
void simulated_launch(const uint32_t *grid, const uint32_t *block, uint32_t thread_order, void (*kernel)(const void *),
                      const void *data) {
    const uint32_t num_blocks = grid[0] * grid[1] * grid[2], num_threads = block[0] * block[1] * block[2];
    if (num_blocks == 0 || num_threads == 0 || num_threads > MOST_THREADS)
        simulated_failure("a launch that CUDA refuses", 0);
    simulated_grid_size = {grid[0], grid[1], grid[2]};
    simulated_block_size = {block[0], block[1], block[2]};
    body = kernel;
    body_data = data;
    order = thread_order;
    random_state = thread_order;
    uint32_t *places = (uint32_t *)malloc(num_blocks * sizeof(uint32_t));
    arrange(places, num_blocks);
    for (uint32_t k = 0; k < num_blocks; k++) {
        simulated_block = {places[k] % grid[0], places[k] / grid[0] % grid[1], places[k] / (grid[0] * grid[1])};
        run_block(num_threads);
    }
    free(places);
}

} // extern "C"
