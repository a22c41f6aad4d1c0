// The two products and the online softmax between them, on the fragments of one warp.
//
// Scores of 16 rows x 8 columns lie as mma leaves them: with g = lane / 4 and t = lane % 4, element i is row
// g + 8 * (i / 2), column 2t + i % 2. The scores of 16 keys are, rounded, the left operand of the second product
// without any exchange between lanes.
#pragma once

#include "cuda/kernels/attention_copy.cuh"

namespace raggedrt::device {
namespace {

constexpr unsigned kAllGroups = (1u << kKeyGroups) - 1;

class Queries {
 public:
  RAGGEDRT_DEVICE explicit Queries(const FragmentOffsets& offsets)
      : rows_(shared_memory() + kQueryOffset + warp_index() * kWarpRows * kRowBytes), offsets_(offsets) {}

  RAGGEDRT_DEVICE void load() {
    if constexpr (!kQueriesInRegisters) return;
    RAGGEDRT_UNROLL
    for (int slice = 0; slice < kHeld; ++slice) read(slice, held_[slice]);
  }
  // The fragments of a slice, for every row block.
  RAGGEDRT_DEVICE void get(int slice, uint32_t (&fragment)[kRowBlocks][4]) const {
    if constexpr (!kQueriesInRegisters) {
      read(slice, fragment);
      return;
    }
    RAGGEDRT_UNROLL
    for (int i = 0; i < 4 * kRowBlocks; ++i) fragment[i / 4][i % 4] = held_[slice % kHeld][i / 4][i % 4];
  }

 private:
  static constexpr int kHeld = kQueriesInRegisters ? kSlices : 1;

  RAGGEDRT_DEVICE void read(int slice, uint32_t (&fragment)[kRowBlocks][4]) const {
    RAGGEDRT_UNROLL
    for (int block = 0; block < kRowBlocks; ++block) {
      load_matrix_x4(fragment[block], rows_ + block * 16 * kRowBytes + offsets_.slice(slice));
    }
  }

  const char* rows_;
  const FragmentOffsets offsets_;
  uint32_t held_[kHeld][kRowBlocks][4];
};

struct Scores {
  float value[kRowBlocks][kKeys / 8][4];

  // Of the groups of 16 keys first … last - 1.
  RAGGEDRT_DEVICE void fill(int first, int last, float with) {
    RAGGEDRT_UNROLL
    for (int block = 0; block < kRowBlocks; ++block) {
      RAGGEDRT_UNROLL
      for (int i = 8 * first; i < 8 * last; ++i) value[block][i / 4][i % 4] = with;
    }
  }
};

// Output and softmax of the keys so far. Rows of a thread: [row block][half], half 1 lies 8 rows below half 0.
struct Running {
  float output[kRowBlocks][kVectors][4];
  float maximum[kRowBlocks][2];  // of the scores, in units of log2
  float sum[kRowBlocks][2];      // of the exponentials, of this thread's columns

  RAGGEDRT_DEVICE void clear() {
    RAGGEDRT_UNROLL
    for (int block = 0; block < kRowBlocks; ++block) {
      RAGGEDRT_UNROLL
      for (int vector = 0; vector < kVectors; ++vector) {
        RAGGEDRT_UNROLL
        for (int i = 0; i < 4; ++i) output[block][vector][i] = 0.0f;
      }
      RAGGEDRT_UNROLL
      for (int half = 0; half < 2; ++half) {
        maximum[block][half] = -infinity();
        sum[block][half] = 0.0f;
      }
    }
  }
};

// Adds what one slice of the head contributes to the scores of a group of 16 keys.
RAGGEDRT_DEVICE void multiply_slice(const uint32_t (&a)[kRowBlocks][4], const char* keys, const FragmentOffsets& offsets,
                                    int slice, int group, Scores& scores) {
  uint32_t b[4];
  load_matrix_x4(b, keys + group * 16 * kRowBytes + offsets.slice(slice));
  RAGGEDRT_UNROLL
  for (int block = 0; block < kRowBlocks; ++block) {
    mma_m16n8k16<Element>(scores.value[block][2 * group], a[block], b[0], b[1]);
    mma_m16n8k16<Element>(scores.value[block][2 * group + 1], a[block], b[2], b[3]);
  }
}

// Scores of all keys of a tile.
RAGGEDRT_DEVICE void first_product(const Queries& queries, const char* keys, const FragmentOffsets& offsets,
                                   Scores& scores) {
  scores.fill(0, kKeyGroups, 0.0f);
  RAGGEDRT_UNROLL
  for (int slice = 0; slice < kSlices; ++slice) {
    uint32_t a[kRowBlocks][4];
    queries.get(slice, a);
    RAGGEDRT_UNROLL
    for (int group = 0; group < kKeyGroups; ++group) multiply_slice(a, keys, offsets, slice, group, scores);
  }
}

// Scores of the groups of 16 keys in `groups`; of the others -inf.
RAGGEDRT_DEVICE void first_product_of(unsigned groups, const Queries& queries, const char* keys,
                                      const FragmentOffsets& offsets, Scores& scores) {
  RAGGEDRT_UNROLL
  for (int group = 0; group < kKeyGroups; ++group) {
    const bool visited = (groups >> group & 1) != 0;
    scores.fill(group, group + 1, visited ? 0.0f : -infinity());
    if (!visited) continue;
    RAGGEDRT_UNROLL
    for (int slice = 0; slice < kSlices; ++slice) {
      uint32_t a[kRowBlocks][4];
      queries.get(slice, a);
      multiply_slice(a, keys, offsets, slice, group, scores);
    }
  }
}

// Scores become exponentials of factor * score - maximum; the sum and the output so far follow a risen maximum.
RAGGEDRT_DEVICE void softmax_step(float factor, Scores& scores, Running& running) {
  float rescale[kRowBlocks][2];
  bool risen = false;
  RAGGEDRT_UNROLL
  for (int block = 0; block < kRowBlocks; ++block) {
    RAGGEDRT_UNROLL
    for (int half = 0; half < 2; ++half) {
      float highest = -infinity();
      RAGGEDRT_UNROLL
      for (int i = 0; i < kKeys / 4; ++i) {
        highest = maximum(highest, scores.value[block][i / 2][2 * half + i % 2]);
      }
      highest = maximum(highest, shuffle_xor(highest, 1));
      highest = maximum(highest, shuffle_xor(highest, 2));
      const float before = running.maximum[block][half];
      const float after = maximum(before, highest * factor);
      // A row that has seen no key keeps -inf: what is subtracted must not be that.
      const float subtracted = after == -infinity() ? 0.0f : after;
      running.maximum[block][half] = after;
      rescale[block][half] = exp2_approx(before - subtracted);
      risen |= before != after;
      float sum = 0.0f;
      RAGGEDRT_UNROLL
      for (int i = 0; i < kKeys / 4; ++i) {
        float& score = scores.value[block][i / 2][2 * half + i % 2];
        score = exp2_approx(fused_multiply_add(score, factor, -subtracted));
        sum += score;
      }
      running.sum[block][half] = fused_multiply_add(running.sum[block][half], rescale[block][half], sum);
    }
  }
  // Maxima rise in the first tiles and then hardly ever.
  if (ballot(risen) == 0) return;
  RAGGEDRT_UNROLL
  for (int block = 0; block < kRowBlocks; ++block) {
    RAGGEDRT_UNROLL
    for (int vector = 0; vector < kVectors; ++vector) {
      RAGGEDRT_UNROLL
      for (int i = 0; i < 4; ++i) running.output[block][vector][i] *= rescale[block][i / 2];
    }
  }
}

template <bool kMasked>
RAGGEDRT_DEVICE void second_product(const Scores& scores, const char* values, const FragmentOffsets& offsets,
                                    unsigned groups, Running& running) {
  RAGGEDRT_UNROLL
  for (int group = 0; group < kKeyGroups; ++group) {
    if (kMasked && (groups >> group & 1) == 0) continue;
    uint32_t a[kRowBlocks][4];
    RAGGEDRT_UNROLL
    for (int block = 0; block < kRowBlocks; ++block) {
      RAGGEDRT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float(&part)[4] = scores.value[block][2 * group + i / 2];
        a[block][i] = pack2<Element>(part[2 * (i % 2)], part[2 * (i % 2) + 1]);
      }
    }
    RAGGEDRT_UNROLL
    for (int slice = 0; slice < kSlices; ++slice) {
      uint32_t b[4];
      load_matrix_x4_transposed(b, values + group * 16 * kRowBytes + offsets.slice(slice));
      RAGGEDRT_UNROLL
      for (int block = 0; block < kRowBlocks; ++block) {
        mma_m16n8k16<Element>(running.output[block][2 * slice], a[block], b[0], b[1]);
        mma_m16n8k16<Element>(running.output[block][2 * slice + 1], a[block], b[2], b[3]);
      }
    }
  }
}

}  // namespace
}  // namespace raggedrt::device
