#include "node/guard.h"

#include "ops.gen.h"

namespace raggedrt {

void check_guard(const Attributes& node, uint64_t served) {
  const int64_t abi = node.integer("abi");
  if (abi != gen::kAbiVersion) {
    node.refuse("op ABI version " + std::to_string(abi) +
                " is not the library's; rebuild the op library (raggedrt doctor --build-ops) or convert the model again");
  }
  const uint64_t unknown = static_cast<uint64_t>(node.integer("features")) & ~served;
  for (int bit = 0; bit < 64; ++bit) {
    if ((unknown >> bit & 1) == 0) continue;
    const bool named = static_cast<size_t>(bit) < sizeof(gen::kFeatureNames) / sizeof(gen::kFeatureNames[0]);
    node.refuse("feature " + (named ? std::string(gen::kFeatureNames[bit]) + " (bit " : std::string("(bit ")) +
                std::to_string(bit) +
                ") is not served; install a newer raggedrt, or convert the model again for this version");
  }
}

}  // namespace raggedrt
