// Rays and colours of pixels by flat index; src/camera/ and src/data/pixels.rs are the definition. In f64 and rounded
// once: the bits of the CPU for perspective lenses, and within a unit in the last place where sine and cosine are
// needed (fisheye and equirectangular ones).
#include "common.cuh"

// A camera's row: focal lengths, principal point, rotation by rows, position, projection, and the formula of the lens.
enum {
    FOCAL = 0,
    CENTER = 2,
    ROTATION = 4,
    POSITION = 13,
    PROJECTION = 16,
    NUMERATOR = 17,
    DENOMINATOR = 21,
    TANGENTIAL = 24,
    PRISM = 26,
    FIELD = 28,
    OUTER = 29,
    ROW = 30
};
enum { PINHOLE, PERSPECTIVE, FISHEYE, EQUIRECTANGULAR };

// Those of src/camera/lens/formula.rs.
#define NEWTON_STEP 1e-8
#define FAST_STEPS 10
#define DAMPED_STEPS 100
#define LEAST_FRACTION 1e-12

struct Step {
    double x, y, squared;
};

// 1 + c[0] u + c[1] u^2 + .. and its derivative. Coefficients that a lens lacks are zero, which changes no bit.
__device__ __forceinline__ void one_plus(const double *c, int num, double u, double &value, double &slope) {
    value = slope = 0.0;
    for (int i = num - 1; i >= 0; i--) {
        slope = slope * u + value;
        value = value * u + c[i];
    }
    slope = slope * u + value;
    value = value * u + 1.0;
}

// Newton's step at (x, y), and the squared residual there.
__device__ __forceinline__ Step newton(const double *row, double x, double y, double target_x, double target_y) {
    const double u = x * x + y * y;
    double n, dn, d, dd;
    one_plus(row + NUMERATOR, 4, u, n, dn);
    one_plus(row + DENOMINATOR, 3, u, d, dd);
    const double radial = n / d, slope = (dn - radial * dd) / d;
    const double py = row[TANGENTIAL], px = row[TANGENTIAL + 1], sx = row[PRISM], sy = row[PRISM + 1];
    const double along = px * x + py * y;
    const double scale = radial + 2.0 * along;
    const double across = 2.0 * (slope * x * y + px * y + py * x);
    const double fx = scale * x + (px + sx) * u, fy = scale * y + (py + sy) * u;
    const double a = scale + 2.0 * x * (slope * x + 2.0 * px + sx), b = across + 2.0 * sx * y;
    const double c = across + 2.0 * sy * x, e = scale + 2.0 * y * (slope * y + 2.0 * py + sy);
    const double ex = target_x - fx, ey = target_y - fy;
    const double inverse = 1.0 / (a * e - b * c);
    return {inverse * (e * ex - b * ey), inverse * (a * ey - c * ex), ex * ex + ey * ey};
}

__device__ __forceinline__ double norm(double x, double y) { return sqrt(x * x + y * y); }

__device__ __forceinline__ bool converged(const Step &step, double x, double y) {
    return step.x * step.x + step.y * step.y < NEWTON_STEP * NEWTON_STEP * (1.0 + x * x + y * y);
}

// From the axis, every step shortened until it stays in the field and brings the image nearer.
__device__ __noinline__ bool undistort_damped(
    const double *row, double target_x, double target_y, double &x, double &y
) {
    const double field = row[FIELD], distance = norm(target_x, target_y);
    if (!(distance < row[OUTER])) return false;
    x = y = 0.0;
    for (int i = 0; i < DAMPED_STEPS; i++) {
        const Step step = newton(row, x, y, target_x, target_y);
        if (converged(step, x, y)) {
            x += step.x;
            y += step.y;
            return norm(x, y) < field;
        }
        double t = 1.0;
        for (;; t *= 0.5) {
            if (!(t > LEAST_FRACTION)) return false;
            const double next_x = x + t * step.x, next_y = y + t * step.y;
            if (norm(next_x, next_y) < field &&
                newton(row, next_x, next_y, target_x, target_y).squared <= (1.0 - 0.5 * t) * step.squared)
                break;
        }
        x += t * step.x;
        y += t * step.y;
    }
    return false;
}

// The place in the field that is imaged at the target.
__device__ __forceinline__ bool undistort(const double *row, double target_x, double target_y, double &x, double &y) {
    x = target_x;
    y = target_y;
    for (int i = 0; i < FAST_STEPS; i++) {
        const Step step = newton(row, x, y, target_x, target_y);
        x += step.x;
        y += step.y;
        if (converged(step, x, y)) {
            if (norm(x, y) < row[FIELD]) return true;
            break;
        }
    }
    return undistort_damped(row, target_x, target_y, x, y);
}

// The direction that is imaged at normalised coordinates, in the camera's frame; false where there is none.
__device__ __forceinline__ bool camera_direction(const double *row, double x, double y, double *direction) {
    const int projection = (int)row[PROJECTION];
    if (projection == EQUIRECTANGULAR) {
        direction[0] = sin(x) * cos(y);
        direction[1] = sin(y);
        direction[2] = cos(x) * cos(y);
        return true;
    }
    double vx = x, vy = y;
    if (projection != PINHOLE && !undistort(row, x, y, vx, vy)) return false;
    if (projection == FISHEYE) {
        const double angle = norm(vx, vy);
        const double scale = angle > 0.0 ? sin(angle) / angle : 1.0;
        direction[0] = vx * scale;
        direction[1] = vy * scale;
        direction[2] = cos(angle);
    } else {
        const double scale = 1.0 / sqrt(vx * vx + vy * vy + 1.0);
        direction[0] = vx * scale;
        direction[1] = vy * scale;
        direction[2] = scale;
    }
    return true;
}

// One thread a pixel. A pixel that has no ray, which no index in use names, gets zeros.
extern "C" __global__ void pixel_rays_f32(
    // inputs
    const u32 *__restrict__ indices,            // [B] below the number of pixels
    const u32 *__restrict__ offsets,            // [V + 1]: the first pixel of each view, and the number of pixels
    const u32 *__restrict__ widths,             // [V]: of the images
    const double *__restrict__ cameras,         // [V, 30]
    const unsigned char *__restrict__ pixels,   // [pixels, channels]
    u64 num_indices,                            // B
    u32 num_views,                              // V
    u32 num_channels,                           // 3 or 4
    // outputs
    float *__restrict__ origins,                // [B, 3]
    float *__restrict__ directions,             // [B, 3]
    float *__restrict__ rgba,                   // [B, 4]
    u32 *__restrict__ views                     // [B]
) {
    const u64 b = global_thread();
    if (b >= num_indices) return;
    const u32 index = indices[b];
    // The last view that begins at the pixel or before it.
    u32 view = 0, beyond = num_views;
    while (beyond - view > 1) {
        const u32 middle = view + (beyond - view) / 2;
        if (offsets[middle] <= index)
            view = middle;
        else
            beyond = middle;
    }
    const double *row = cameras + (u64)view * ROW;
    const u32 pixel = index - offsets[view], width = widths[view];
    const double x = ((double)(pixel % width) + 0.5 - row[CENTER]) / row[FOCAL];
    const double y = ((double)(pixel / width) + 0.5 - row[CENTER + 1]) / row[FOCAL + 1];
    double d[3];
    const bool has_ray = camera_direction(row, x, y, d);
    for (int axis = 0; axis < 3; axis++) {
        const double *r = row + ROTATION + 3 * axis;
        origins[3 * b + axis] = has_ray ? (float)row[POSITION + axis] : 0.0f;
        directions[3 * b + axis] = has_ray ? (float)(r[0] * d[0] + r[1] * d[1] + r[2] * d[2]) : 0.0f;
    }
    const unsigned char *levels = pixels + (u64)index * num_channels;
    for (u32 channel = 0; channel < 4; channel++)
        rgba[4 * b + channel] = channel < num_channels ? (float)levels[channel] / 255.0f : 1.0f;
    views[b] = view;
}
