// An emulated CUDA driver: the functions of libcuda.so.1 that the launcher and its tests use, on host memory, with
// kernels that were compiled for the emulator. Names and numbers are those of the driver's binary interface.
//
// Settings (environment), read at the first call:
//   RAGGEDRT_EMULATED_KERNELS        library with the kernels (plugins/native/emulated.py)
//   RAGGEDRT_EMULATED_CAPABILITY     compute capability of the devices, default 80
//   RAGGEDRT_EMULATED_DRIVER         version that the driver reports, default 13000
//   RAGGEDRT_EMULATED_DEVICES        number of devices, default 2
//
// Work on a stream waits until something synchronises with it, or runs earlier: with a seed other than 0 each call runs
// a random part of what waits, in any order that streams and events allow; with seed 0 everything runs at once.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cuda/emulator/api.h"

// How kernels and streams are scheduled from now on.
RAGGEDRT_EMULATOR_API void raggedrt_emulated_driver_seed(uint64_t seed);
// After `skipped` calls that go well the function fails once with `result`; null: none fails any more.
RAGGEDRT_EMULATOR_API void raggedrt_emulated_driver_fail(const char* function, int skipped, int result);
// How often a function was called.
RAGGEDRT_EMULATOR_API int raggedrt_emulated_driver_calls(const char* function);
// What the emulator found wrong with the first kernel that failed; empty: nothing. Clears the error of the contexts.
RAGGEDRT_EMULATOR_API void raggedrt_emulated_driver_error(char* text, size_t size);
// Bytes of device memory that are allocated.
RAGGEDRT_EMULATOR_API size_t raggedrt_emulated_driver_allocated();
