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

// Whether a row sees a key by position.
RAGGEDRT_DEVICE bool sees(const RowMask& row, int position, int residue, bool global) {
  const bool local = position >= row.low && position <= row.high && (row.residue < 0 || row.residue == residue);
  return local || (global && position <= row.causal);
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
  int residue[2];
  bool global[2];
  int byte[2];
};

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
    pair.residue[i] = rules.dilated ? floor_modulo(pair.position[i], params.mask.dilation) : 0;
    pair.global[i] = (visit.global[block8 / 4] >> (column % 32 + i) & 1) != 0;
  }
  return pair;
}

// Hidden scores become -inf.
RAGGEDRT_DEVICE void hide(const AttentionParams& params, const MaskRules& rules, const WarpRows& rows,
                          const TileVisit& visit, const Stage& stage, Scores& scores) {
  RAGGEDRT_UNROLL
  for (int block8 = 0; block8 < kKeys / 8; ++block8) {
    if ((visit.groups >> (block8 / 2) & 1) == 0) continue;
    const KeyPair keys = key_pair(params, rules, visit, stage, block8);
    RAGGEDRT_UNROLL
    for (int block = 0; block < kRowBlocks; ++block) {
      RAGGEDRT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const RowMask& row = rows.row[block][half];
        uint32_t bits[2] = {0, 0};
        if constexpr (kByTiles) {
          bits[0] = bitmap_byte(params, keys.byte[0], row.byte);
          bits[1] = keys.byte[1] == keys.byte[0] ? bits[0] : bitmap_byte(params, keys.byte[1], row.byte);
        }
        RAGGEDRT_UNROLL
        for (int i = 0; i < 2; ++i) {
          bool shown = sees(row, keys.position[i], keys.residue[i], keys.global[i]);
          if constexpr (kByTiles) shown &= bitmap_shows(bits[i], keys.position[i], keys.byte[i]);
          if (!shown) scores.value[block][block8][2 * half + i] = -infinity();
        }
      }
    }
  }
}

}  // namespace
}  // namespace raggedrt::device
