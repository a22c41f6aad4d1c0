#include "ort/cuda_adapter.h"

namespace raggedrt::ort {

void require(const cuda::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

cuda::Device& current_device() {
  cuda::Device* device = nullptr;
  require(cuda::Device::current(&device));
  return *device;
}

}  // namespace raggedrt::ort
