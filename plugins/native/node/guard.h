// The ABI guard of DESIGN: runtimes ignore unknown attributes and op versions, so every kernel checks its node.
#pragma once

#include <stdint.h>

#include "node/node.h"

namespace raggedrt {

// Refuses a node of another ABI version, and one with a feature bit outside `served`.
void check_guard(const Attributes& node, uint64_t served);

}  // namespace raggedrt
