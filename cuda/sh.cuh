// Real spherical harmonics; src/sh.rs is the definition.
#pragma once
#include "common.cuh"

#define MAX_COEFFICIENTS 16

// The basis functions at a unit direction, zero beyond `num` (1, 4, 9 or 16).
__device__ __forceinline__ void sh_basis(float x, float y, float z, u32 num, float *basis) {
    for (int k = 0; k < MAX_COEFFICIENTS; k++) basis[k] = 0.0f;
    basis[0] = 0.28209479177387814f;
    if (num >= 4) {
        const float c = 0.4886025119029199f;
        basis[1] = -c * y;
        basis[2] = c * z;
        basis[3] = -c * x;
    }
    if (num < 9) return;
    const float xx = x * x, yy = y * y, zz = z * z;
    const float c20 = 1.0925484305920792f, c21 = 0.31539156525252005f, c22 = 0.5462742152960396f;
    basis[4] = c20 * x * y;
    basis[5] = -c20 * y * z;
    basis[6] = c21 * (zz + zz - xx - yy);
    basis[7] = -c20 * x * z;
    basis[8] = c22 * (xx - yy);
    if (num < 16) return;
    const float c30 = 0.5900435899266435f, c31 = 2.890611442640554f, c32 = 0.4570457994644658f;
    const float c33 = 0.3731763325901154f, c34 = 1.445305721320277f;
    basis[9] = -c30 * y * (3.0f * xx - yy);
    basis[10] = c31 * x * y * z;
    basis[11] = -c32 * y * (4.0f * zz - xx - yy);
    basis[12] = c33 * z * (zz + zz - 3.0f * xx - 3.0f * yy);
    basis[13] = -c32 * x * (4.0f * zz - xx - yy);
    basis[14] = c34 * z * (xx - yy);
    basis[15] = -c30 * x * (xx - 3.0f * yy);
}
