/* SPDX-License-Identifier: Apache-2.0
 *
 * The same call through the public interface: greedy and beam search as a caller gets them.
 */
#include <math.h>
#include <stdlib.h>

#include "verify/verify.h"

/** The prompt as parts: runs of ids, and the pictures between them. */
static llava_status build_parts(verify_run *run, llava_part **parts, size_t *count,
                                llava_error *err) {
    const ids *prompt = &run->prompt;
    llava_part *list = arena_array(run->memory, 2 * run->n_pictures + 2, sizeof *list);
    if (!list) return llava_fail_memory(err, sizeof *list, "parts");
    size_t n = 0, start = 0, next = 0;
    for (size_t i = 0; i <= prompt->count; i++) {
        const bool at_picture = i < prompt->count && prompt->data[i] == IMAGE_TOKEN_INDEX;
        if (i < prompt->count && !at_picture) continue;
        if (i > start)
            list[n++] = (llava_part){
                .kind = LLAVA_PART_TOKENS, .ids = prompt->data + start, .n_ids = i - start};
        start = i + 1;
        if (!at_picture) continue;
        const verify_picture *picture = &run->pictures[next++];
        list[n++] = (llava_part){.kind = picture->is_video ? LLAVA_PART_VIDEO : LLAVA_PART_IMAGE,
                                 .images = (const llava_image *const *)picture->frames,
                                 .n_images = picture->n_frames};
    }
    *parts = list;
    *count = n;
    return LLAVA_OK;
}

/** True when the library, which pads each of several pictures, plans them as the reference did. */
static bool plans_agree(verify_run *run) {
    for (size_t i = 0; i < run->n_pictures; i++) {
        const verify_picture *picture = &run->pictures[i];
        if (picture->is_video) continue;
        vision_plan plan = {0};
        const llava_status status =
            vision_plan_make(run->loaded.image_processor, picture->plan.width, picture->plan.height,
                             0, run->n_pictures, &plan, NULL);
        const bool same = status == LLAVA_OK && plan.aspect == picture->plan.aspect &&
                          plan.n_views == picture->plan.n_views &&
                          plan.n_rows == picture->plan.n_rows;
        vision_plan_free(&plan);
        if (!same) return false;
    }
    return true;
}

static bool collect_text(void *user, const char *text, size_t size) {
    return bytes_append(user, text, size);
}

typedef struct engine {
    llava_context *context;
    llava_session *session;
    llava_part *parts;
    size_t n_parts;
} engine;

static llava_status engine_open(verify_run *run, int64_t n_new, engine *e, llava_error *err) {
    const json_t *beams = trace_field(&run->trace, "beam.num_beams");
    const int64_t n_beams = i64_max(1, json_integer_value(beams));
    const llava_context_options options = {
        .max_tokens = n_beams * (run->n_rows + n_new + 2 * KV_BLOCK_TOKENS),
        .n_threads = run->options->n_threads,
    };
    LLAVA_TRY(build_parts(run, &e->parts, &e->n_parts, err));
    LLAVA_TRY(llava_context_new(&run->loaded, &options, &e->context, err));
    LLAVA_TRY(llava_session_new(e->context, &e->session, err));
    return LLAVA_OK;
}

static llava_status compare_session_greedy(verify_run *run, engine *e, llava_error *err) {
    const json_t *text = trace_field(&run->trace, "greedy.text");
    const int64_t limit = json_integer_value(trace_field(&run->trace, "greedy.max_new_tokens"));
    bytes streamed = {0};
    llava_generate_options options = {
        .max_new_tokens = limit,
        /* the reference ends at the checkpoint's end ids alone; a run to the limit met none */
        .ignore_eos = (int64_t)run->n_greedy == limit,
        .on_text = collect_text,
        .user = &streamed,
    };
    const llava_result *result;
    llava_status status = LLAVA_OK;
    LLAVA_TRY_DONE(llava_session_feed(e->session, e->parts, e->n_parts, err));
    LLAVA_TRY_DONE(llava_session_generate(e->session, &options, &result, err));
    LLAVA_TRY_DONE(
        verify_ids(run, "session.ids", result->ids, result->n_ids, run->greedy, run->n_greedy));
    if (json_is_string(text))
        LLAVA_TRY_DONE(
            verify_text_equal(run, "session.text", result->text, result->text_size, text));
    const bool same = streamed.size == result->text_size &&
                      (!streamed.size || memcmp(streamed.data, result->text, streamed.size) == 0);
    status = report_stage(run->report, "session.streamed", "equal text", !same, 0, NULL);
done:
    bytes_free(&streamed);
    return status;
}

static llava_status compare_beam(verify_run *run, engine *e, llava_error *err) {
    const int32_t *recorded;
    size_t n_recorded;
    LLAVA_TRY(verify_id_array(run, "beam.ids", &recorded, &n_recorded, err));
    const json_t *limit = trace_field(&run->trace, "beam.max_new_tokens");
    const json_t *penalty = trace_field(&run->trace, "beam.length_penalty");
    const json_t *score = trace_field(&run->trace, "beam.sequence_score");
    const json_t *text = trace_field(&run->trace, "beam.text");
    const llava_generate_options options = {
        .max_new_tokens = json_integer_value(limit),
        .num_beams = (int32_t)json_integer_value(trace_field(&run->trace, "beam.num_beams")),
        .length_penalty = penalty ? (float)json_number_value(penalty) : 0,
    };
    const llava_result *result;
    LLAVA_TRY(llava_session_feed(e->session, e->parts, e->n_parts, err));
    LLAVA_TRY(llava_session_generate(e->session, &options, &result, err));
    LLAVA_TRY(verify_ids(run, "beam.ids", result->ids, result->n_ids, recorded, n_recorded));
    if (json_is_number(score))
        LLAVA_TRY(report_stage(run->report, "beam.sequence_score", "difference",
                               fabs(result->sequence_score - json_number_value(score)),
                               run->level->beam_score, NULL));
    if (!json_is_string(text)) return LLAVA_OK;
    return verify_text_equal(run, "beam.text", result->text, result->text_size, text);
}

static int64_t field_integer(const verify_run *run, const char *object, const char *key) {
    const json_t *value = json_get(run->trace.root, object);
    return json_is_object(value) ? json_integer_value(json_object_get(value, key)) : 0;
}

static llava_status run_engine(verify_run *run, bool has_beam, int64_t n_new, llava_error *err) {
    engine e = {0};
    llava_status status = LLAVA_OK;
    LLAVA_TRY_DONE(engine_open(run, n_new, &e, err));
    if (run->n_greedy) LLAVA_TRY_DONE(compare_session_greedy(run, &e, err));
    if (has_beam) LLAVA_TRY_DONE(compare_beam(run, &e, err));
done:
    llava_session_free(&e.session);
    llava_context_free(&e.context);
    return status;
}

llava_status verify_engine(verify_run *run, llava_error *err) {
    const bool has_beam = json_get(run->trace.root, "beam") != NULL;
    const int64_t n_new = i64_max(field_integer(run, "greedy", "max_new_tokens"),
                                  field_integer(run, "beam", "max_new_tokens"));
    const char *reason = NULL;
    if (run->dtype != LLAVA_DTYPE_F32)
        reason = "a search in half precision has no bound to be held against";
    else if (!plans_agree(run))
        reason = "the reference keeps tiles for several pictures, the library pads them";
    else if (run->cut_off)
        reason = "the reference cuts the prompt off, the library refuses it";
    else if (run->n_rows + n_new > run->loaded.context_len)
        reason = "the reference goes beyond the model's context, the library ends there";
    if (!reason) return run_engine(run, has_beam, n_new, err);
    LLAVA_TRY(report_not_compared(run->report, "session", reason));
    if (!has_beam) return LLAVA_OK;
    trace_mark(&run->trace, "beam");
    return report_not_compared(run->report, "beam", reason);
}
