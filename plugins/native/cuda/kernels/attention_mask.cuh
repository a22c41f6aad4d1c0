// Masks inside one key tile: which groups of 16 keys a warp has to compute, and which scores are hidden.
//
// The tile's facts (Stage) hold the position of every key, so that it does not matter here how its keys were chosen.
#pragma once

#include "cuda/kernels/attention_product.cuh"
#include "cuda/kernels/attention_rows.cuh"

namespace raggedrt::device {
namespace {

// What a warp does with a tile.
struct TileVisit {
  unsigned groups;   // bit i: some row sees some key of group i
  bool masked;       // some row does not see some key
  uint32_t global[2];  // bit k: key k is exempt from window and dilation
};

RAGGEDRT_DEVICE unsigned groups_of_keys(uint32_t keys) {
  return ((keys & 0xffffu) != 0 ? 1u : 0u) | ((keys >> 16) != 0 ? 2u : 0u);
}

// Each lane judges one key of every 32 for all rows of the warp.
RAGGEDRT_DEVICE TileVisit visit_tile(const AttentionParams& params, const MaskRules& rules, const Reach& reach,
                                     const Stage& stage) {
  TileVisit visit = {kAllGroups, false, {0, 0}};
  if (load_shared(stage.full()) != 0) return visit;
  visit.groups = 0;
  RAGGEDRT_UNROLL
  for (int part = 0; part < kKeys / 32; ++part) {
    const int key = 32 * part + lane_index();
    const int position = load_shared(stage.positions() + key);
    bool any = position >= 0 && reach.may_see(position, position);
    bool all = position >= 0 && !rules.dilated && reach.sees_all(position, position);
    if (rules.exempting) {
      const bool global = position >= 0 && is_global(params, position);
      visit.global[part] = ballot(global);
      any |= global && position <= reach.causal;
    }
    if constexpr (kByTiles) {
      const int byte = load_shared(stage.bytes() + key);
      any &= byte != kHidden;
      all &= byte == kShown;
    }
    visit.groups |= groups_of_keys(ballot(any)) << (2 * part);
    visit.masked |= ballot(all) != 0xffffffffu;
  }
  return visit;
}

RAGGEDRT_DEVICE bool bitmap_shows(uint32_t bits, int position, int byte) {
  return byte == kShown || (byte != kHidden && (bits >> (position & 7) & 1) != 0);
}

RAGGEDRT_DEVICE uint32_t bitmap_byte(const AttentionParams& params, int byte, int row_byte) {
  if (byte < 0) return 0;
  return load_global_readonly(reinterpret_cast<const uint8_t*>(params.tiles.bits) + byte + row_byte);
}

// The two keys of a thread among eight neighbours.
struct KeyPair {
  int position[2];
  int byte[2];
  int residue[2];  // of the position, by the dilation
  bool global[2];
};

// kRare: dilation or exempt keys are possible.
template <bool kRare>
RAGGEDRT_DEVICE KeyPair key_pair(const AttentionParams& params, const MaskRules& rules, const TileVisit& visit,
                                 const Stage& stage, int block8) {
  KeyPair pair = {};
  const int column = block8 * 8 + lane_index() % 4 * 2;
  const Vec8 positions = load_shared(reinterpret_cast<const Vec8*>(stage.positions() + column));
  Vec8 bytes = {};
  if constexpr (kByTiles) bytes = load_shared(reinterpret_cast<const Vec8*>(stage.bytes() + column));
  RAGGEDRT_UNROLL
  for (int i = 0; i < 2; ++i) {
    pair.position[i] = static_cast<int>(positions.word[i]);
    pair.byte[i] = static_cast<int>(bytes.word[i]);
    if constexpr (kRare) {
      pair.residue[i] = rules.dilated ? floor_modulo(pair.position[i], params.mask.dilation) : 0;
      pair.global[i] = (visit.global[block8 / 4] >> (column % 32 + i) & 1) != 0;
    }
  }
  return pair;
}

// Hides from one row what it does not see of eight keys.
template <bool kRare>
class RowHider {
 public:
  RAGGEDRT_DEVICE RowHider(const AttentionParams& params, const MaskRules& rules, int position, bool exempt)
      : params_(params), reach_(rules, position, exempt) {
    if constexpr (kRare) {
      causal_ = rules.causal ? position : kFarthest;
      residue_ = rules.dilated && !exempt ? floor_modulo(position, params.mask.dilation) : -1;
    }
    if constexpr (kByTiles) {
      const int size = params.tiles.block_size;
      byte_ = floor_modulo(position, size) * (size / 8);
    }
  }

  RAGGEDRT_DEVICE void hide(const KeyPair& keys, float& first, float& second) const {
    uint32_t bits[2] = {0, 0};
    if constexpr (kByTiles) {
      bits[0] = bitmap_byte(params_, keys.byte[0], byte_);
      bits[1] = keys.byte[1] == keys.byte[0] ? bits[0] : bitmap_byte(params_, keys.byte[1], byte_);
    }
    if (!shown(keys, bits[0], 0)) first = -infinity();
    if (!shown(keys, bits[1], 1)) second = -infinity();
  }

 private:
  RAGGEDRT_DEVICE bool shown(const KeyPair& keys, uint32_t bits, int i) const {
    const int position = keys.position[i];
    bool shown = position >= reach_.low && position <= reach_.high;
    if constexpr (kRare) {
      shown = shown && (residue_ < 0 || residue_ == keys.residue[i]);
      shown = shown || (keys.global[i] && position <= causal_);
    }
    if constexpr (kByTiles) shown = shown && bitmap_shows(bits, position, keys.byte[i]);
    return shown;
  }

  const AttentionParams& params_;
  const RowReach reach_;
  int byte_ = 0;  // where the row's bits begin in each bitmap
  int causal_ = 0;
  int residue_ = -1;  // of the positions that dilation leaves, -1: all
};

template <bool kRare>
RAGGEDRT_DEVICE void hide_in_tile(const AttentionParams& params, const MaskRules& rules, const WarpRows& rows,
                                  const TileVisit& visit, const Stage& stage, Scores& scores) {
  int position[kRowBlocks][2];
  RAGGEDRT_UNROLL
  for (int i = 0; i < 2 * kRowBlocks; ++i) position[i / 2][i % 2] = recomputed(rows.position(i / 2, i % 2));
  RAGGEDRT_UNROLL
  for (int block8 = 0; block8 < kKeys / 8; ++block8) {
    if ((visit.groups >> (block8 / 2) & 1) == 0) continue;
    const KeyPair keys = key_pair<kRare>(params, rules, visit, stage, block8);
    RAGGEDRT_UNROLL
    for (int block = 0; block < kRowBlocks; ++block) {
      RAGGEDRT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const RowHider<kRare> hider(params, rules, position[block][half], rows.exempt(block, half));
        float(&four)[4] = scores.value[block][block8];
        hider.hide(keys, four[2 * half], four[2 * half + 1]);
      }
    }
  }
}

// Hidden scores become -inf.
RAGGEDRT_DEVICE void hide(const AttentionParams& params, const MaskRules& rules, const WarpRows& rows,
                          const TileVisit& visit, const Stage& stage, Scores& scores) {
  if (rules.dilated || rules.exempting) {
    hide_in_tile<true>(params, rules, rows, visit, stage, scores);
  } else {
    hide_in_tile<false>(params, rules, rows, visit, stage, scores);
  }
}

}  // namespace
}  // namespace raggedrt::device
