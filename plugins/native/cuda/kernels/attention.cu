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

// Key tiles on their way: kStages - 1 of them while one is in use. A group of copies is closed at every step, empty or
// not, so that waiting counts steps.
template <typename Tiles>
class Pipeline {
 public:
  RAGGEDRT_DEVICE explicit Pipeline(Tiles& tiles) : tiles_(tiles) {
    for (; ahead_ < kStages - 1 && tiles_.next(); ++ahead_) {
      tiles_.copy(Stage(ahead_));
      copy_async_commit();
    }
    for (int empty = ahead_; empty < kStages - 1; ++empty) copy_async_commit();
  }

  // Whether there is another tile.
  RAGGEDRT_DEVICE bool more() const { return ahead_ > 0; }

  // The next tile, once it is there for all threads; all are done with the tile before.
  RAGGEDRT_DEVICE Stage advance() {
    copy_async_wait<kStages - 2>();
    sync_block();
    --ahead_;
    if (tiles_.next()) {
      tiles_.copy(Stage(free_));
      ++ahead_;
    }
    copy_async_commit();
    const int current = current_;
    free_ = current;
    current_ = current + 1 == kStages ? 0 : current + 1;
    return Stage(current);
  }

 private:
  Tiles& tiles_;
  int ahead_ = 0;
  int current_ = 0;
  int free_ = kStages - 1;
};

// One item, from its queries to its output.
class ItemAttention {
 public:
  RAGGEDRT_DEVICE ItemAttention(const AttentionParams& params, const Item& item)
      : params_(params),
        item_(item),
        key_offsets_(item.lane, FragmentOffsets::kRowsFirst),
        value_offsets_(item.lane, FragmentOffsets::kColumnsFirst),
        active_(uniform_warp_index() * kWarpRows < item.rows),
        queries_(value_offsets_) {}

  RAGGEDRT_DEVICE void run() {
    copy_queries(params_, item_);
    copy_async_commit();
    running_.clear();
    if constexpr (!kByPosition) {
      visit_all();
    } else {
      const MaskRules rules(params_);
      if constexpr (kByTiles) {
        ListedTiles tiles(params_, rules, item_);
        visit_masked(tiles, rules);
      } else {
        PositionTiles tiles(params_, rules, item_);
        visit_masked(tiles, rules);
      }
    }
    if (active_) write_item(params_, item_, running_);
  }

 private:
  RAGGEDRT_DEVICE void load_queries() {
    copy_async_wait<kStages - 1>();
    sync_block();
    if (active_) queries_.load();
  }

  RAGGEDRT_DEVICE void visit_all() {
    AllTiles tiles(params_, item_);
    const int whole = tiles.whole();
    const int rest = tiles.rest();
    Pipeline<AllTiles> pipeline(tiles);
    load_queries();
    const float factor = params_.scale * kLog2E;
    for (int tile = 0; tile < whole; ++tile) {
      const Stage stage = pipeline.advance();
      if (active_) attend<false>(stage, kAllGroups, factor, [](Scores&) {});
    }
    if (rest == 0) return;
    const Stage stage = pipeline.advance();
    if (!active_) return;
    attend<true>(stage, (1u << ((rest + 15) / 16)) - 1, factor, [rest](Scores& scores) {
      RAGGEDRT_UNROLL
      for (int block = 0; block < kRowBlocks; ++block) {
        RAGGEDRT_UNROLL
        for (int i = 0; i < kKeys / 2; ++i) {
          const int column = i / 4 * 8 + lane_index() % 4 * 2 + i % 2;
          if (column >= rest) scores.value[block][i / 4][i % 4] = -infinity();
        }
      }
    });
  }

  template <typename Tiles>
  RAGGEDRT_DEVICE void visit_masked(Tiles& tiles, const MaskRules& rules) {
    const WarpRows rows(params_, rules, item_);
    const ScoreTables tables(params_, item_);
    Pipeline<Tiles> pipeline(tiles);
    load_queries();
    while (pipeline.more()) {
      const Stage stage = pipeline.advance();
      if (active_) attend_masked(rules, rows, tables, stage);
    }
  }

  RAGGEDRT_DEVICE void attend_masked(const MaskRules& rules, const WarpRows& rows, const ScoreTables& tables,
                                     const Stage& stage) {
    const TileVisit visit = visit_tile(params_, rules, rows.reach(), stage);
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
    if constexpr (kMasked) {
      first_product_of(groups, queries_, stage.keys, key_offsets_, scores);
    } else {
      first_product(queries_, stage.keys, key_offsets_, scores);
    }
    change(scores);
    softmax_step(factor, scores, running_);
    second_product<kMasked>(scores, stage.values, value_offsets_, groups, running_);
  }

  const AttentionParams& params_;
  const Item& item_;
  const FragmentOffsets key_offsets_;
  const FragmentOffsets value_offsets_;
  const bool active_;  // some row of this warp is a query
  Queries queries_;
  Running running_;
};

RAGGEDRT_DEVICE void attention(const AttentionParams& params) {
  clear_unused_rows(params);
  const int items = load_global_readonly(params.work_list) * params.num_heads;
  const int grid = grid_size_x();
  const bool counted = params.work_counter != nullptr;
  int turn = 0;
  for (int number = block_index_x(); number < items; ++turn) {
    int next = number + grid;
    if (counted && thread_index() == 0) next = grid + atomic_add_global(params.work_counter, 1);
    const Item item = make_item(params, number);
    if (item.rows > 0) ItemAttention(params, item).run();
    if (counted && thread_index() == 0) store_shared(next_item_slot(turn), next);
    sync_block();  // all are done with shared memory
    number = uniform(counted ? load_shared(next_item_slot(turn)) : next);
  }
}

}  // namespace
}  // namespace raggedrt::device

RAGGEDRT_KERNEL(raggedrt::device::kThreads, RAGGEDRT_MIN_BLOCKS)
RAGGEDRT_ENTRY(const raggedrt::cuda::AttentionParams params) { raggedrt::device::attention(params); }
