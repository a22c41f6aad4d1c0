#include "cpu/call.h"
#include "cpu/panel_cache.h"
#include "cpu/score_tables.h"
#include "cpu/sparse_schedule.h"

namespace raggedrt {
namespace {

constexpr int64_t kWorkerPanelBytes = int64_t{16} << 20;  // most that a worker keeps of packed keys and values
constexpr int64_t kAllPanelBytes = int64_t{128} << 20;    // most that all workers keep, but
constexpr int64_t kLeastSlots = 32;                       // as many as this for each

class SparseCall {
 public:
  SparseCall(const AttentionProblem& problem, Runtime& runtime)
      : problem_(problem),
        runtime_(runtime),
        isa_(isa_kernels()),
        terms_(problem),
        summaries_(problem),
        schedule_(terms_, summaries_, runtime.max_workers()),
        tables_(problem),
        shape_(shape_of(problem)) {}

  void run() {
    const std::vector<SparseItem>& items = schedule_.items();
    const int64_t workers = static_cast<int64_t>(std::min(items.size(), runtime_.max_workers()));
    slots_ = panel_slots();
    const int64_t floats = worker_floats();
    float* buffer = allocate_floats(runtime_, floats * workers);
    std::vector<int32_t> lists(static_cast<size_t>(workers * schedule_.most_key_tiles()));
    std::vector<PanelCache> caches;
    caches.reserve(static_cast<size_t>(workers));
    for (int64_t worker = 0; worker < workers; ++worker) {
      caches.emplace_back(problem_, isa_, slots_, buffer + worker * floats + query_floats() + output_floats());
    }
    drain(runtime_, items.size(), [&](size_t item, size_t worker) {
      float* own = buffer + static_cast<int64_t>(worker) * floats;
      int32_t* list = lists.data() + static_cast<int64_t>(worker) * schedule_.most_key_tiles();
      attend(items[item], caches[worker], {own, own + query_floats(), list});
    });
  }

 private:
  static int64_t query_floats() { return int64_t{kMaxQueryRows} * kQueryStride; }
  int64_t output_floats() const { return int64_t{kMaxQueryRows} * padded_head_size(problem_.value_head_size); }
  int64_t worker_floats() const {
    // Slots are whole cache lines, so that every worker's part is aligned.
    return query_floats() + output_floats() + slots_ * PanelCache::slot_floats(problem_);
  }

  // Tile lists may come back to any tile of a sequence, windows only to those of neighbouring queries.
  int64_t panel_slots() const {
    const int64_t bytes = PanelCache::slot_floats(problem_) * static_cast<int64_t>(sizeof(float));
    const int64_t share = kAllPanelBytes / static_cast<int64_t>(runtime_.max_workers());
    const int64_t most = std::max(kLeastSlots, std::min(kWorkerPanelBytes, share) / bytes);
    const int64_t wanted = problem_.tiles.ptr != nullptr
                               ? schedule_.most_key_tiles()
                               : std::min(schedule_.most_key_tiles(), 2 * schedule_.longest_list() + 1);
    int64_t slots = 1;
    while (slots < wanted && 2 * slots <= most) slots *= 2;
    return slots;
  }

  void attend(const SparseItem& item, PanelCache& panels, const TileScratch& scratch) const {
    for (int64_t tile = item.first; tile < item.last;) {
      const size_t index = schedule_.unit_of(tile);
      const int64_t end = std::min(item.last, schedule_.unit_end(index));
      attend_unit(schedule_.unit(index), tile, end, item.heavy, panels, scratch);
      tile = end;
    }
  }

  // Query tiles [first, last) of a unit. Rows of one head lie far apart, where hardware prefetchers do not look: asks
  // for the queries of the next tile.
  void attend_unit(const SparseUnit& unit, int64_t first, int64_t last, bool heavy, PanelCache& panels,
                   const TileScratch& scratch) const {
    const RowSpace space = schedule_.space(unit);
    const QueryTiles& tiles = schedule_.tiles(unit);
    const ScoreModifier modifier = tables_.of(unit.sequence);
    panels.select(unit.sequence, unit.first_head / (problem_.num_heads / problem_.kv_num_heads));
    QueryRows buffer[2];
    int current = 0;
    tiles.rows(problem_, space, static_cast<size_t>(first - unit.first_tile), buffer[current]);
    for (int64_t tile = first; tile < last; ++tile, current ^= 1) {
      if (tile + 1 < last) {
        QueryRows& next = buffer[current ^ 1];
        tiles.rows(problem_, space, static_cast<size_t>(tile + 1 - unit.first_tile), next);
        for (int row = 0; row < next.count; ++row) {
          prefetch_row(problem_, problem_.query, next.index[row], problem_.head_size);
        }
      }
      if (!heavy && schedule_.heavy(tile)) continue;
      isa_.attend(shape_, buffer[current], problem_.query, panels, schedule_.mask(unit),
                  tables_.any() ? &modifier : nullptr, scratch, problem_.output, problem_.lse);
    }
  }

  const AttentionProblem& problem_;
  Runtime& runtime_;
  const IsaKernels& isa_;
  const SparseTerms terms_;
  const KeySummaries summaries_;
  const SparseSchedule schedule_;
  const ScoreTables tables_;
  const AttentionShape shape_;
  int64_t slots_ = 1;
};

}  // namespace

void sparse_attention(const AttentionProblem& problem, Runtime& runtime) { SparseCall(problem, runtime).run(); }

}  // namespace raggedrt
