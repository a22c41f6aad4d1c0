// What the checks of shared and of global memory share.
#pragma once

#include <stdint.h>

#include <string>

#include "cuda/emulator/shared_shadow.h"

namespace raggedrt::emulator {

struct Lane;

// Offset of an access in shared memory; fails where it leaves the memory or is not aligned.
uint32_t shared_offset(const Lane& lane, const void* address, uint32_t bytes, const char* what);
[[noreturn]] void fail_shared(const Lane& lane, const char* what, uint32_t bytes, const Conflict& conflict);
// Words for a conflict of an access by `lane`, as the rest of a sentence that begins with the access.
std::string explain(const Lane& lane, const Conflict& conflict);
// Keeps the access for profile_warp().
void note_access(Lane& lane, const void* address, uint32_t bytes, bool shared);
// Checks a read of global memory for an asynchronous copy.
void check_copy_source(Lane& lane, const void* address, uint32_t bytes);

}  // namespace raggedrt::emulator
