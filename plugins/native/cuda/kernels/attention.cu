// RaggedAttention on tensor cores: softmax(q k^T * scale + mask) v of one item of the work list and one head at a time.
//
// A block owns a tile of query rows, each warp 16 or 32 of them: queries, scores, exponentials and the output so far stay
// in its registers. Keys and values stream through shared memory, several tiles ahead; all warps share them. What lies
// past the last key is skipped by groups of 16, warps whose rows lie past the last query only copy.
//
// Blocks stay while there are items: a fixed stride through the list, which is sorted by length, or, with a counter,
// whichever item is next. The counter costs one atomic per item, asked for while the item before is computed.
#include "cuda/kernels/attention_keys.cuh"
#include "cuda/kernels/attention_listed.cuh"
#include "cuda/kernels/attention_scores.cuh"
#include "cuda/kernels/attention_write.cuh"

namespace raggedrt::device {
namespace {

// One item, from its queries to its output.
class ItemAttention {
 public:
  RAGGEDRT_DEVICE ItemAttention(const AttentionParams& params, const Item& item)
      : params_(params), item_(item), active_(warp_index() * kWarpRows < item.rows) {}

  RAGGEDRT_DEVICE void run() {
    copy_queries(params_, item_);
    copy_async_commit();
    running_.clear();
    if constexpr (!kByPosition) {
      AllTiles tiles(params_, item_);
      visit_tiles(tiles, [&](const Stage& stage, int visit) { attend_all(stage, tiles.keys_left(visit)); });
    } else {
      const MaskRules rules(params_);
      const WarpRows rows(params_, rules, item_);
      const ScoreTables tables(params_, item_);
      const auto attend = [&](const Stage& stage, int) { attend_masked(rules, rows, tables, stage); };
      if constexpr (kByTiles) {
        ListedTiles tiles(params_, rules, item_);
        visit_tiles(tiles, attend);
      } else {
        PositionTiles tiles(params_, rules, item_);
        visit_tiles(tiles, attend);
      }
    }
    if (active_) write_item(params_, item_, running_);
  }

 private:
  // kStages - 1 tiles are on their way while one is computed. A group of copies is closed at every step, empty or not,
  // so that waiting counts steps.
  template <typename Tiles, typename Attend>
  RAGGEDRT_DEVICE void visit_tiles(Tiles& tiles, const Attend& attend) {
    int issued = 0;
    for (; issued < kStages - 1 && tiles.next(); ++issued) {
      tiles.copy(Stage(issued));
      copy_async_commit();
    }
    for (int empty = issued; empty < kStages - 1; ++empty) copy_async_commit();
    copy_async_wait<kStages - 1>();
    sync_block();
    if (active_) queries_.load(offsets_);
    int stage = 0;
    int free = kStages - 1;
    for (int visit = 0; visit < issued; ++visit) {
      copy_async_wait<kStages - 2>();
      sync_block();  // the tile is there for all, and all are done with the one before
      if (tiles.next()) {
        tiles.copy(Stage(free));
        ++issued;
      }
      copy_async_commit();
      if (active_) attend(Stage(stage), visit);
      free = stage;
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
  }

  RAGGEDRT_DEVICE void attend_all(const Stage& stage, int keys_left) {
    if (keys_left >= kKeys) {
      attend<false>(stage, kAllGroups, params_.scale * kLog2E, [](Scores&) {});
      return;
    }
    const unsigned groups = (1u << ((keys_left + 15) / 16)) - 1;
    attend<true>(stage, groups, params_.scale * kLog2E, [keys_left](Scores& scores) {
      RAGGEDRT_UNROLL
      for (int block = 0; block < kRowBlocks; ++block) {
        RAGGEDRT_UNROLL
        for (int i = 0; i < kKeys / 2; ++i) {
          const int column = i / 4 * 8 + lane_index() % 4 * 2 + i % 2;
          if (column >= keys_left) scores.value[block][i / 4][i % 4] = -infinity();
        }
      }
    });
  }

  RAGGEDRT_DEVICE void attend_masked(const MaskRules& rules, const WarpRows& rows, const ScoreTables& tables,
                                     const Stage& stage) {
    const TileVisit visit = visit_tile(params_, rules, rows.reach, stage);
    if (visit.groups == 0) return;
    const float factor = kModified ? 1.0f : params_.scale * kLog2E;
    const auto change = [&](Scores& scores) {
      if constexpr (kModified) modify(tables, item_, rows, stage, visit.groups, scores);
    };
    if (!visit.masked) {
      attend<false>(stage, kAllGroups, factor, change);
      return;
    }
    attend<true>(stage, visit.groups, factor, [&](Scores& scores) {
      change(scores);
      hide(params_, rules, rows, visit, stage, scores);
    });
  }

  template <bool kMasked, typename Change>
  RAGGEDRT_DEVICE void attend(const Stage& stage, unsigned groups, float factor, const Change& change) {
    Scores scores;
    first_product<kMasked>(queries_, stage.keys, offsets_, groups, scores);
    change(scores);
    softmax_step(factor, scores, running_);
    second_product<kMasked>(scores, stage.values, offsets_, groups, running_);
  }

  const AttentionParams& params_;
  const Item& item_;
  const FragmentOffsets offsets_;
  const bool active_;  // some row of this warp is a query
  Queries queries_;
  Running running_;
};

RAGGEDRT_DEVICE void attention(const AttentionParams& params) {
  clear_unused_rows(params);
  const int items = load_global_readonly(params.work_list) * params.num_heads;
  const int grid = grid_size_x();
  for (int number = block_index_x(); number < items;) {
    int next = number + grid;
    if (params.work_counter != nullptr && thread_index() == 0) next = grid + atomic_add_global(params.work_counter, 1);
    const Item item = make_item(params, number);
    ItemAttention(params, item).run();
    if (params.work_counter != nullptr && thread_index() == 0) store_shared(next_item_slot(), next);
    sync_block();  // all are done with shared memory
    number = params.work_counter != nullptr ? load_shared(next_item_slot()) : next;
  }
}

}  // namespace
}  // namespace raggedrt::device

RAGGEDRT_KERNEL(raggedrt::device::kThreads, RAGGEDRT_MIN_BLOCKS)
RAGGEDRT_ENTRY(const raggedrt::cuda::AttentionParams params) { raggedrt::device::attention(params); }
