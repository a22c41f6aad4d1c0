// What a Python test hands to the host program, and gets back.
#pragma once

#include <stdint.h>

struct HostField {
  const char* name;
  const void* data;
  int32_t type;  // nvinfer1::PluginFieldType
  int32_t length;
};

struct HostTensor {
  int32_t type;  // nvinfer1::DataType
  int32_t rank;
  int64_t dims[8];
  int64_t max_dims[8];  // inputs: of the profile
  const void* data;     // inputs: on the host; may be null for no elements
  void* result;         // outputs: room on the host
  int64_t room;         // outputs: bytes
};
