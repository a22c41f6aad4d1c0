#include "cuda/launch/pack.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include <fstream>
#include <mutex>

#ifndef RAGGEDRT_KERNEL_DIGEST
#error "compile with -DRAGGEDRT_KERNEL_DIGEST=\"...\" (plugins/kernel_packs/digest.py)"
#endif

namespace raggedrt::cuda {
namespace {

constexpr std::streamoff kLargestPack = std::streamoff{1} << 30;
constexpr const char* kRemedy =
    "; run `raggedrt doctor --build-kernels`, or put the pack into a folder named by RAGGEDRT_KERNEL_PACKS";

// CRC-32 as zlib counts it: notices damage, cheaply.
uint32_t crc32(const char* bytes, size_t count) {
  uint32_t remainder = ~uint32_t{0};
  for (size_t i = 0; i < count; ++i) {
    remainder ^= static_cast<uint8_t>(bytes[i]);
    for (int bit = 0; bit < 8; ++bit) remainder = remainder >> 1 ^ ((remainder & 1) != 0 ? 0xedb88320u : 0u);
  }
  return ~remainder;
}

std::string capability_text(int capability) {
  return std::to_string(capability / 10) + "." + std::to_string(capability % 10);
}

std::string file_name(int capability) { return "raggedrt_sm" + std::to_string(capability) + ".pack"; }

template <size_t kSize>
bool is_terminated(const char (&text)[kSize]) {
  return memchr(text, '\0', kSize) != nullptr;
}

void append_split(const char* list, std::vector<std::string>& folders) {
  for (const char* begin = list; begin != nullptr && *begin != '\0';) {
    const char* end = strchr(begin, ':');
    const std::string folder = end != nullptr ? std::string(begin, end) : std::string(begin);
    if (!folder.empty()) folders.push_back(folder);
    begin = end != nullptr ? end + 1 : nullptr;
  }
}

// The folder of the library that this code is in.
std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) return {};
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

// The same folder as plugins/kernel_packs/lookup.py.
std::string cache_folder() {
  const char* cache = getenv("XDG_CACHE_HOME");
  const char* home = getenv("HOME");
  std::string base;
  if (cache != nullptr && *cache != '\0') {
    base = cache;
  } else if (home != nullptr && *home != '\0') {
    base = std::string(home) + "/.cache";
  } else {
    return {};
  }
  return base + "/raggedrt/kernel-packs/" + std::string(RAGGEDRT_KERNEL_DIGEST).substr(0, 32);
}

std::mutex folders_mutex;

std::vector<std::string>& first_folders() {
  static auto& folders = *new std::vector<std::string>;
  return folders;
}

}  // namespace

void set_first_pack_folders(std::vector<std::string> folders) {
  const std::lock_guard<std::mutex> lock(folders_mutex);
  first_folders() = std::move(folders);
}

std::vector<std::string> pack_folders() {
  std::vector<std::string> folders;
  {
    const std::lock_guard<std::mutex> lock(folders_mutex);
    folders = first_folders();
  }
  append_split(getenv("RAGGEDRT_KERNEL_PACKS"), folders);
  if (const std::string own = own_folder(); !own.empty()) {
    folders.push_back(own);
    folders.push_back(own + "/../lib");
  }
  if (const std::string cache = cache_folder(); !cache.empty()) folders.push_back(cache);
  return folders;
}

Status Pack::read(const std::string& path, std::unique_ptr<Pack>& pack) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return Status::failure("kernel pack " + path + " cannot be opened" + kRemedy);
  std::unique_ptr<Pack> made(new Pack);
  made->path_ = path;
  const std::streamoff size = file.tellg();
  if (size < 0 || size > kLargestPack) return Status::failure("kernel pack " + path + " is no file" + kRemedy);
  made->content_.resize(static_cast<size_t>(size));
  file.seekg(0);
  if (!file.read(made->content_.data(), static_cast<std::streamsize>(made->content_.size()))) {
    return Status::failure("kernel pack " + path + " cannot be read" + kRemedy);
  }
  RAGGEDRT_RETURN_IF_FAILED(made->check());
  pack = std::move(made);
  return {};
}

Status Pack::check() const {
  const auto refuse = [this](const std::string& reason) {
    return Status::failure("kernel pack " + path_ + " " + reason + kRemedy);
  };
  if (content_.size() < sizeof(PackHeader) || memcmp(header().magic, kPackMagic, sizeof(header().magic)) != 0) {
    return refuse("is not a kernel pack");
  }
  const PackHeader& head = header();
  if (head.format != kPackFormat || head.variant_bytes != sizeof(Variant)) {
    return refuse("has format " + std::to_string(head.format) + ", expected " + std::to_string(kPackFormat));
  }
  if (head.file_bytes != content_.size() ||
      head.variants > (content_.size() - sizeof(PackHeader)) / sizeof(Variant)) {
    return refuse("is cut off or damaged");
  }
  if (const std::string digest(head.digest, sizeof(head.digest)); digest != RAGGEDRT_KERNEL_DIGEST) {
    return refuse("was made from other kernels (digest " + digest.substr(0, 16) + ", expected " +
                  std::string(RAGGEDRT_KERNEL_DIGEST).substr(0, 16) + ")");
  }
  for (size_t i = 0; i < count(); ++i) {
    const Variant& row = variant(i);
    if (!is_terminated(row.entry) || !is_terminated(row.family) || row.offset > content_.size() ||
        row.size > content_.size() - row.offset) {
      return refuse("is damaged");
    }
  }
  return {};
}

Status Pack::code(size_t index, const void** code) const {
  const Variant& row = variant(index);
  const char* begin = content_.data() + row.offset;
  if (crc32(begin, row.size) != row.checksum) {
    return Status::failure("kernel pack " + path_ + " is damaged: the code of " + row.entry + " has changed" + kRemedy);
  }
  *code = begin;
  return {};
}

Status find_pack(int capability, std::unique_ptr<Pack>& pack) {
  const std::vector<std::string> folders = pack_folders();
  Status refusal;
  for (int candidate = capability; candidate >= capability / 10 * 10; --candidate) {
    for (const std::string& folder : folders) {
      const std::string path = folder + "/" + file_name(candidate);
      if (!std::ifstream(path)) continue;
      Status status = Pack::read(path, pack);
      if (status.ok()) return status;
      if (refusal.ok()) refusal = std::move(status);  // the next folder may have a good one
    }
  }
  if (!refusal.ok()) return refusal;
  std::string searched;
  for (const std::string& folder : folders) searched += (searched.empty() ? "" : ", ") + folder;
  return Status::failure("there is no kernel pack for compute capability " + capability_text(capability) + " (" +
                         file_name(capability) + " in " + searched + ")" + kRemedy);
}

}  // namespace raggedrt::cuda
