// Kernel packs: files with the machine code of every kernel variant for one compute capability, and what chooses among
// them. Written by plugins/kernel_packs/pack_file.py, in this layout; integers are little-endian.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "cpu/element.h"
#include "cuda/launch/status.h"

namespace raggedrt::cuda {

constexpr char kPackMagic[9] = "RRTPACK\1";
constexpr uint32_t kPackFormat = 1;

struct PackHeader {
  char magic[8];
  uint32_t format;
  uint32_t capability;  // 10 * major + minor
  uint32_t variants;
  uint32_t variant_bytes;  // sizeof(Variant)
  uint64_t file_bytes;
  char digest[64];     // of the kernels' sources and variants, hexadecimal: what the launcher was built with
  char toolchain[64];  // what it was made with
  uint8_t hash[32];    // SHA-256 of everything after the header; verified when a pack is made, shipped and diagnosed
  uint8_t reserved[64];
};
static_assert(sizeof(PackHeader) == 256);

// One kernel. Fields that a family does not have are 0.
struct Variant {
  char entry[128];  // its symbol
  char family[32];
  int32_t element;         // ONNX number
  int32_t source_element;
  int32_t vector_bytes;
  int32_t head_size;
  int32_t mask_class;
  int32_t score_class;
  int32_t query_rows;
  int32_t key_tile;
  int32_t stages;
  int32_t threads;
  int32_t shared_bytes;
  int32_t min_blocks;
  int32_t registers;  // of a thread
  int32_t static_shared_bytes;
  int32_t reserved[2];
  uint64_t offset;  // of the machine code in the file
  uint64_t size;
  uint64_t checksum;  // CRC-32 of the machine code
  uint8_t unused[8];
};
static_assert(sizeof(Variant) == 256);

class Pack {
 public:
  // Reads the whole file and checks that it is a pack of these kernels.
  static Status read(const std::string& path, std::unique_ptr<Pack>& pack);

  const std::string& path() const { return path_; }
  int capability() const { return static_cast<int>(header().capability); }
  size_t count() const { return header().variants; }
  const Variant& variant(size_t index) const { return variants()[index]; }
  const Variant* variants() const { return reinterpret_cast<const Variant*>(content_.data() + sizeof(PackHeader)); }
  // The machine code of a variant; refused where it was damaged.
  Status code(size_t index, const void** code) const;

 private:
  const PackHeader& header() const { return *reinterpret_cast<const PackHeader*>(content_.data()); }
  Status check() const;

  std::string path_;
  std::vector<char> content_;  // new[] aligns it for every type here
};

// Where packs are searched, in order.
std::vector<std::string> pack_folders();
// Folders before the usual ones.
void set_first_pack_folders(std::vector<std::string> folders);

// The pack for a device of this compute capability: of the same one, else of the nearest older one of the same major
// version, whose machine code such a device runs.
Status find_pack(int capability, std::unique_ptr<Pack>& pack);

}  // namespace raggedrt::cuda
