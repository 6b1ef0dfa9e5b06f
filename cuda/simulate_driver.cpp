// A CUDA driver without a GPU: device memory is memory, and a launch runs the kernel on the CPU (simulate.cpp). What
// programs of the feature `cuda` do on the host is so run where there is no GPU. .ci/simulated-cuda makes a libcuda.so.1
// of it: it writes KERNELS, the names of all kernels, and adds functions that fail for the rest of the driver.
#include <cstdio>
#include <cstdlib>
#include <pthread.h>
#include <utility>

extern "C" void simulated_launch(const uint32_t *grid, const uint32_t *block, uint32_t order,
                                 void (*kernel)(const void *), const void *data);

// Those few of Candle's own kernels that the tests reach, in one thread: candle-kernels, binary.cu, unary.cu, fill.cu
// and reduce.cu are the definition.
static bool first_thread() { return blockIdx.x == 0 && threadIdx.x == 0; }

// The place of element `i`; `info` holds the dimensions, then strides, of which those of operand `which` are meant.
static size_t place(size_t i, size_t num_dims, const size_t *info, int which) {
    if (!info) return i;
    size_t at = 0;
    for (size_t d = num_dims; d-- > 0; i /= info[d]) at += i % info[d] * info[(1 + which) * num_dims + d];
    return at;
}

static void badd_f32(size_t num, size_t num_dims, const size_t *info, const float *a, const float *b, float *out) {
    if (first_thread())
        for (size_t i = 0; i < num; i++) out[i] = a[place(i, num_dims, info, 0)] + b[place(i, num_dims, info, 1)];
}

static void bmul_f32(size_t num, size_t num_dims, const size_t *info, const float *a, const float *b, float *out) {
    if (first_thread())
        for (size_t i = 0; i < num; i++) out[i] = a[place(i, num_dims, info, 0)] * b[place(i, num_dims, info, 1)];
}

static void ucopy_f32(size_t num, size_t num_dims, const size_t *info, const float *in, float *out) {
    if (first_thread())
        for (size_t i = 0; i < num; i++) out[i] = in[place(i, num_dims, info, 0)];
}

static void const_set_f32(size_t num, size_t num_dims, const size_t *info, float value, float *out) {
    if (first_thread())
        for (size_t i = 0; i < num; i++) out[place(i, num_dims, info, 0)] = value;
}

static void copy2d_f32(const float *in, float *out, uint32_t rows, uint32_t columns, uint32_t stride_in,
                       uint32_t stride_out) {
    if (!first_thread()) return;
    for (uint32_t r = 0; r < rows; r++) memcpy(out + r * stride_out, in + r * stride_in, columns * sizeof(float));
}

static void fast_sum_f32(size_t num, size_t num_summed, size_t num_dims, const size_t *info, const float *in,
                         float *out) {
    if (!first_thread()) return;
    for (size_t start = 0; start < num; start += num_summed) {
        float sum = 0.0f;
        for (size_t i = start; i < start + num_summed; i++) sum += in[place(i, num_dims, info, 0)];
        out[start / num_summed] = sum;
    }
}

static void fast_sum_small_f32(size_t num_sums, size_t num_summed, size_t num_dims, const size_t *info,
                               const float *in, float *out) {
    fast_sum_f32(num_sums * num_summed, num_summed, num_dims, info, in, out);
}

// A kernel by its name, called with the arguments that `arguments` points to, as cuLaunchKernel is given them.
struct Kernel {
    const char *name;
    void (*call)(void **arguments);
};

template <class... A, size_t... I>
static void call_with(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*(A *)arguments[I]...);
}
template <class... A> static void call_kernel(void (*kernel)(A...), void **arguments) {
    call_with(kernel, arguments, std::index_sequence_for<A...>());
}

#define KERNEL(name) {#name, [](void **arguments) { call_kernel(name, arguments); }},
static const Kernel kernels[] = {KERNELS KERNEL(badd_f32) KERNEL(bmul_f32) KERNEL(ucopy_f32) KERNEL(const_set_f32)
                                     KERNEL(copy2d_f32) KERNEL(fast_sum_f32)
                                     KERNEL(fast_sum_small_f32)};

struct Launched {
    const Kernel *kernel;
    void **arguments;
};

static void call_launched(const void *data) {
    const Launched *launched = (const Launched *)data;
    launched->kernel->call(launched->arguments);
}

// What real device memory holds before it is written. A float is NaN, an index out of every range.
static const int NONSENSE = 0xff;
static const int INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500;

static int copy(void *to, const void *from, size_t num_bytes) {
    memmove(to, from, num_bytes);
    return 0;
}

extern "C" {

int cuInit(unsigned) { return 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal == 0 ? 0 : INVALID_VALUE; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGetAttribute(int *value, int, int) { return *value = 0, 0; }
int cuDeviceGetName(char *name, int len, int) { return snprintf(name, len, "simulated on the CPU"), 0; }
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = context, 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void *) { return 0; }
int cuCtxGetCurrent(void **context) { return *context = context, 0; }
int cuCtxSynchronize() { return 0; }
int cuEventCreate(void **event, unsigned) { return *event = event, 0; }
int cuEventRecord(void *, void *) { return 0; }
int cuEventSynchronize(void *) { return 0; }
int cuEventElapsedTime_v2(float *milliseconds, void *, void *) { return *milliseconds = 0.0f, 0; }
int cuEventElapsedTime(float *milliseconds, void *, void *) { return *milliseconds = 0.0f, 0; }
int cuEventDestroy_v2(void *) { return 0; }
int cuStreamSynchronize(void *) { return 0; }
int cuStreamWaitEvent(void *, void *, unsigned) { return 0; }
int cuStreamIsCapturing(void *, int *status) { return *status = 0, 0; }

// As a GPU, without memory for nothing.
int cuMemAlloc_v2(void **memory, size_t num_bytes) {
    if (num_bytes == 0) return INVALID_VALUE;
    *memory = malloc(num_bytes);
    if (!*memory) return OUT_OF_MEMORY;
    memset(*memory, NONSENSE, num_bytes);
    return 0;
}
int cuMemFree_v2(void *memory) { return free(memory), 0; }
int cuMemsetD8_v2(void *memory, unsigned char byte, size_t num_bytes) { return memset(memory, byte, num_bytes), 0; }
int cuMemsetD8Async(void *memory, unsigned char byte, size_t num_bytes, void *) {
    return memset(memory, byte, num_bytes), 0;
}
int cuMemcpyHtoD_v2(void *to, const void *from, size_t num_bytes) { return copy(to, from, num_bytes); }
int cuMemcpyDtoH_v2(void *to, const void *from, size_t num_bytes) { return copy(to, from, num_bytes); }
int cuMemcpyDtoD_v2(void *to, const void *from, size_t num_bytes) { return copy(to, from, num_bytes); }
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t num_bytes, void *) { return copy(to, from, num_bytes); }
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t num_bytes, void *) { return copy(to, from, num_bytes); }
int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t num_bytes, void *) { return copy(to, from, num_bytes); }

// Every module holds every kernel.
int cuModuleLoadData(void **module, const void *) { return *module = module, 0; }
int cuModuleUnload(void *) { return 0; }
int cuModuleGetFunction(void **function, void *, const char *name) {
    for (const Kernel &kernel : kernels)
        if (!strcmp(kernel.name, name)) {
            *function = (void *)&kernel;
            return 0;
        }
    fprintf(stderr, "simulated driver: no kernel %s\n", name);
    return NOT_FOUND;
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned, void *, void **arguments, void **) {
    const uint32_t grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
    const Launched launched = {(const Kernel *)function, arguments};
    const char *order = getenv("SIMULATED_ORDER");
    static pthread_mutex_t running = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&running);
    simulated_launch(grid, block, order ? atoi(order) : 0, call_launched, &launched);
    pthread_mutex_unlock(&running);
    return 0;
}

} // extern "C"
