#include "cuda/emulator/global_memory.h"

#include <algorithm>

#include "cuda/emulator/runtime.h"

namespace raggedrt::emulator {

GlobalMemory global_memory;

namespace {

// First region that begins after the address.
auto after(const std::vector<std::unique_ptr<Region>>& regions, uintptr_t address) {
  return std::upper_bound(regions.begin(), regions.end(), address,
                          [](uintptr_t at, const std::unique_ptr<Region>& region) { return at < region->begin; });
}

}  // namespace

bool GlobalMemory::add(uintptr_t begin, size_t bytes, const char* name, raggedrt_emulator_memory kind) {
  const auto next = after(regions_, begin);
  if (next != regions_.end() && (*next)->begin < begin + bytes) return false;
  if (next != regions_.begin() && (*std::prev(next))->end > begin) return false;
  auto region = std::make_unique<Region>();
  region->begin = begin;
  region->end = begin + bytes;
  region->name = name;
  region->kind = kind;
  if (kind != raggedrt_emulator_input) region->pages.resize(bytes / Region::kPageBytes + 2);
  if (kind == raggedrt_emulator_uninitialized) {
    region->written.resize(bytes / 64 + 2);
    fill_poison(reinterpret_cast<char*>(begin), bytes);
  }
  regions_.insert(next, std::move(region));
  return true;
}

bool GlobalMemory::remove(uintptr_t begin) {
  const auto next = after(regions_, begin);
  if (next == regions_.begin() || (*std::prev(next))->begin != begin) return false;
  last_ = nullptr;
  regions_.erase(std::prev(next));
  return true;
}

Region* GlobalMemory::find(uintptr_t begin, size_t bytes) {
  if (last_ != nullptr && begin >= last_->begin && begin + bytes <= last_->end) return last_;
  const auto next = after(regions_, begin);
  if (next == regions_.begin()) return nullptr;
  Region* const region = std::prev(next)->get();
  if (begin + bytes > region->end) return nullptr;
  return last_ = region;
}

std::string GlobalMemory::around(uintptr_t address) const {
  const auto next = after(regions_, address);
  std::string words;
  if (next != regions_.begin()) {
    const Region& region = **std::prev(next);
    words = address < region.end ? text("it begins %zu bytes before the end of", region.end - address)
                                 : text("it is %zu bytes behind the end of", address - region.end);
    words += text(" `%s` (%zu bytes)", region.name.c_str(), region.end - region.begin);
  }
  if (next != regions_.end()) {
    words += words.empty() ? "it is " : ", ";
    words += text("%zu bytes before `%s`", (*next)->begin - address, (*next)->name.c_str());
  }
  return words.empty() ? "no memory is registered" : words;
}

void set_written(Region& region, uintptr_t begin, size_t bytes, bool written) {
  if (region.written.empty()) {
    if (written) return;
    region.written.assign((region.end - region.begin) / 64 + 2, ~uint64_t{0});
  }
  size_t bit = begin - region.begin;
  const size_t end = bit + bytes;
  while (bit < end) {
    const size_t here = std::min<size_t>(64 - bit % 64, end - bit);
    const uint64_t mask = (here == 64 ? ~uint64_t{0} : (uint64_t{1} << here) - 1) << (bit % 64);
    uint64_t& word = region.written[bit / 64];
    word = written ? word | mask : word & ~mask;
    bit += here;
  }
}

size_t count_unwritten(const Region& region, uintptr_t begin, size_t bytes) {
  if (region.written.empty()) return 0;
  size_t count = 0;
  for (size_t bit = begin - region.begin, end = bit + bytes; bit < end;) {
    const size_t here = std::min<size_t>(64 - bit % 64, end - bit);
    const uint64_t mask = here == 64 ? ~uint64_t{0} : (uint64_t{1} << here) - 1;
    count += static_cast<size_t>(__builtin_popcountll(~(region.written[bit / 64] >> (bit % 64)) & mask));
    bit += here;
  }
  return count;
}

}  // namespace raggedrt::emulator
