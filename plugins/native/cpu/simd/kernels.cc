// The kernels of one instruction set. Compiled once per row of the table in build.py.
#include "cpu/isa.h"
#include "cpu/simd/attend.h"
#include "cpu/simd/merge.h"
#include "cpu/simd/pack.h"

#define RAGGEDRT_STRING(name) RAGGEDRT_STRING_OF(name)
#define RAGGEDRT_STRING_OF(name) #name

namespace raggedrt {
namespace RAGGEDRT_ISA {

extern const IsaKernels kKernels;
const IsaKernels kKernels = {RAGGEDRT_STRING(RAGGEDRT_ISA), pack_keys, pack_values, attend, merge, kWidth};

}  // namespace RAGGEDRT_ISA
}  // namespace raggedrt
