// Regions of host memory that stand for a GPU's global memory, and who accessed them.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "cuda/emulator/api.h"
#include "cuda/emulator/shared_shadow.h"

namespace raggedrt::emulator {

// What is known of one kilobyte in the present launch.
struct Page {
  struct Piece {
    uint32_t write_block;  // 0: none
    Stamp writer;
    uint32_t read_block[2];
    Stamp reader[2];
    uint8_t state;
  };
  uint32_t launch = 0;
  int granule = 2;  // pieces are of 1 << granule bytes
  std::vector<Piece> pieces;
};

struct Region {
  static constexpr size_t kPageBytes = 1024;
  uintptr_t begin = 0;
  uintptr_t end = 0;
  std::string name;
  raggedrt_emulator_memory kind = raggedrt_emulator_input;
  std::vector<uint64_t> written;  // a bit per byte; empty: all written
  std::vector<std::unique_ptr<Page>> pages;
};

class GlobalMemory {
 public:
  bool add(uintptr_t begin, size_t bytes, const char* name, raggedrt_emulator_memory kind);
  bool remove(uintptr_t begin);
  // The region that holds all of [begin, begin + bytes), or null.
  Region* find(uintptr_t begin, size_t bytes);
  // Words for where an address lies that no region holds.
  std::string around(uintptr_t address) const;

 private:
  std::vector<std::unique_ptr<Region>> regions_;  // by address
  Region* last_ = nullptr;                        // that was found
};

extern GlobalMemory global_memory;

void set_written(Region& region, uintptr_t begin, size_t bytes, bool written);
size_t count_unwritten(const Region& region, uintptr_t begin, size_t bytes);

}  // namespace raggedrt::emulator
