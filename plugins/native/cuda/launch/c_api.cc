// A C surface over launch.h, for tests and measurements that drive the launcher through ctypes: the structs of launch.h
// as they are, a status as text. Not part of the op library.
#include <string.h>

#include "cuda/launch/attention_problem.h"
#include "cuda/launch/launch.h"
#include "cuda/launch/pack.h"

#define RAGGEDRT_TEST_API extern "C" __attribute__((visibility("default")))

namespace {

using namespace raggedrt::cuda;

// 0: it worked; 1: `message` tells why not.
int report(const Status& status, char* message, size_t size) {
  if (status.ok()) return 0;
  if (size > 0) {
    strncpy(message, status.message().c_str(), size - 1);
    message[size - 1] = '\0';
  }
  return 1;
}

template <typename Call>
Status workspace_of(const Call& call, size_t& bytes) {
  Device* device = nullptr;
  RAGGEDRT_RETURN_IF_FAILED(Device::current(&device));
  return workspace_bytes(*device, call, bytes);
}

template <typename Call>
Status launch_on_current(const Call& call, void* workspace, void* stream) {
  Device* device = nullptr;
  RAGGEDRT_RETURN_IF_FAILED(Device::current(&device));
  return launch(*device, call, workspace, stream);
}

}  // namespace

// Per op: the size of its call struct, to be compared with the caller's; check, workspace_bytes and launch.
#define RAGGEDRT_TEST_OP(name, Call)                                                                       \
  RAGGEDRT_TEST_API size_t raggedrt_cuda_##name##_size() { return sizeof(Call); }                          \
  RAGGEDRT_TEST_API int raggedrt_cuda_##name##_check(const Call* call, char* message, size_t size) {       \
    return report(check(*call), message, size);                                                            \
  }                                                                                                        \
  RAGGEDRT_TEST_API int raggedrt_cuda_##name##_workspace(const Call* call, size_t* bytes, char* message,   \
                                                         size_t size) {                                    \
    return report(workspace_of(*call, *bytes), message, size);                                             \
  }                                                                                                        \
  RAGGEDRT_TEST_API int raggedrt_cuda_##name##_launch(const Call* call, void* workspace, void* stream,     \
                                                      char* message, size_t size) {                        \
    return report(launch_on_current(*call, workspace, stream), message, size);                             \
  }

RAGGEDRT_TEST_OP(packing_plan, PackingPlanCall)
RAGGEDRT_TEST_OP(pack_tokens, PackTokensCall)
RAGGEDRT_TEST_OP(unpack_tokens, UnpackTokensCall)
RAGGEDRT_TEST_OP(attention_plan, AttentionPlanCall)
RAGGEDRT_TEST_OP(attention, AttentionCall)
RAGGEDRT_TEST_OP(merge, MergeCall)
RAGGEDRT_TEST_OP(block_mask, BlockMaskCall)

RAGGEDRT_TEST_API int64_t raggedrt_cuda_work_list_size(const raggedrt::AttentionProblem* problem) {
  return work_list_size(*problem);
}

// Bounds of a mask: rows of tiles, entries, bitmaps.
RAGGEDRT_TEST_API void raggedrt_cuda_block_mask_bounds(const raggedrt::BlockMaskInput* input, int64_t* bounds) {
  const BlockMaskBounds found = block_mask_bounds(*input);
  bounds[0] = found.rows;
  bounds[1] = found.entries;
  bounds[2] = found.bitmaps;
}

// The choice for a call on a device with these limits and this pack, without either: the variant's entry, then by_rows,
// splits, items, grid x, grid y, counts_work.
RAGGEDRT_TEST_API int raggedrt_cuda_choose_attention(const char* pack_path, const DeviceLimits* limits,
                                                     const AttentionCall* call, char* entry, int64_t* numbers,
                                                     char* message, size_t size) {
  std::unique_ptr<Pack> pack;
  if (Status status = Pack::read(pack_path, pack); !status.ok()) return report(status, message, size);
  if (Status status = check(*call); !status.ok()) return report(status, message, size);
  AttentionChoice choice;
  Status status = choose_attention(*call, {pack->variants(), pack->count()}, *limits, choice);
  if (!status.ok()) return report(status, message, size);
  memcpy(entry, choice.variant->entry, sizeof(choice.variant->entry));
  const int64_t found[] = {choice.by_rows ? 1 : 0, choice.splits,   choice.items,
                           choice.grid.x,          choice.grid.y, choice.counts_work ? 1 : 0};
  memcpy(numbers, found, sizeof(found));
  return 0;
}

// The device of the current context: its name, then ordinal and the limits in their order.
RAGGEDRT_TEST_API int raggedrt_cuda_device(char* name, size_t name_size, int* numbers, char* message, size_t size) {
  Device* device = nullptr;
  if (Status status = Device::current(&device); !status.ok()) return report(status, message, size);
  strncpy(name, device->name().c_str(), name_size - 1);
  numbers[0] = device->ordinal();
  memcpy(numbers + 1, &device->limits(), sizeof(DeviceLimits));
  return 0;
}

// One folder to search for packs before the usual ones.
RAGGEDRT_TEST_API void raggedrt_cuda_set_pack_folder(const char* folder) { set_pack_folders({folder}); }
