/* SPDX-License-Identifier: Apache-2.0
 *
 * From the parts of a prompt to rows. Text is tokenized as the reference's tokenizer_image_token
 * does: each piece between pictures by itself, one BOS at the very start. transformers' own classes
 * tokenize text and placeholders as one string instead, and a placeholder's id becomes a picture.
 */
#include <stdlib.h>

#include "prompt.h"

/* ---------------------------------------------------------------- hashing */

static uint64_t rotate(uint64_t x, int n) { return x << n | x >> (64 - n); }

/** Spreads every bit over the word (the finalizer of MurmurHash3, a bijection). */
static uint64_t scatter(uint64_t x) {
    x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53u;
    return x ^ x >> 33;
}

static row_key hash_word(row_key h, uint64_t word) {
    h.a = rotate((h.a ^ word) * 0x9e3779b97f4a7c15u, 29);
    h.b = (rotate(h.b, 31) + word) * 0xc2b2ae3d27d4eb4fu;
    h.b ^= h.b >> 32;
    return h;
}

row_key hash_bytes(row_key start, const void *data, size_t size) {
    const uint8_t *p = data;
    row_key h = start;
    size_t left = size;
    for (; left >= 8; left -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = hash_word(h, word);
    }
    uint64_t tail = 0;
    memcpy(&tail, p, left);
    h = hash_word(h, tail);
    h = hash_word(h, size);
    return (row_key){scatter(h.a), scatter(h.b)};
}

/** Everything a picture's rows follow from, the model excepted. */
static row_key hash_picture(const prompt_picture *picture) {
    const vision_plan *plan = &picture->plan;
    const int64_t facts[] = {plan->kind,        (int64_t)plan->aspect,
                             plan->n_views,     plan->best.width,
                             plan->best.height, plan->grid_w,
                             plan->grid_h,      plan->out_h,
                             plan->out_w,       plan->row0,
                             plan->row1,        plan->col0,
                             plan->col1,        plan->pool_side,
                             plan->fast_side,   plan->n_rows};
    row_key h = hash_bytes((row_key){1, 2}, facts, sizeof facts);
    for (size_t i = 0; i < picture->n_images; i++) {
        const llava_image *image = picture->images[i];
        const int64_t size[] = {image->width, image->height};
        h = hash_bytes(h, size, sizeof size);
        h = hash_bytes(h, image->rgb, (size_t)image->width * (size_t)image->height * 3);
    }
    return h;
}

static row_key key_of_picture_row(row_key picture, int64_t row) {
    return (row_key){picture.a + (uint64_t)row * 0x9e3779b97f4a7c15u,
                     picture.b | (uint64_t)1 << 63};
}

/* ---------------------------------------------------------------- building */

/** State while the parts are walked. */
typedef struct builder {
    const prompt_source *source;
    prompt *p;
    bytes text;      /* adjacent text parts */
    bool has_text;   /* even if it is empty */
    bool bos_is_due; /* the next text is the first piece of the prompt */
    ids encoded;
    size_t n_pictures;          /* of the whole prompt */
    const llava_part **waiting; /* "-hf": pictures whose placeholders stand in `text` */
    size_t n_waiting;
} builder;

/** Rows past the limit are counted but not kept: the error tells the whole number. */
static llava_status make_room(builder *b, int64_t n, bool *keep, llava_error *err) {
    prompt *p = b->p;
    *keep = n <= b->source->max_rows - p->n_rows;
    const size_t needed = (size_t)(p->n_rows + n);
    if (!*keep || needed <= p->key_capacity) return LLAVA_OK;
    const size_t capacity = needed * 2;
    row_key *keys = realloc(p->keys, capacity * sizeof *keys);
    if (!keys) return llava_fail_memory(err, capacity * sizeof *keys, "the prompt");
    p->keys = keys;
    p->key_capacity = capacity;
    return LLAVA_OK;
}

static llava_status add_rows(int64_t *total, int64_t n, llava_error *err) {
    if (__builtin_add_overflow(*total, n, total))
        return llava_fail(err, LLAVA_CONTEXT_FULL, "the prompt has more rows than can be counted");
    return LLAVA_OK;
}

static llava_status append_tokens(builder *b, const int32_t *list, size_t count, llava_error *err) {
    const int64_t n_vocab = b->source->model->n_vocab;
    for (size_t i = 0; i < count; i++)
        if (list[i] < 0 || list[i] >= n_vocab)
            return llava_fail(err, LLAVA_BAD_ARGUMENT,
                              "token %zu of a part is id %d, expected 0 ... %lld", i, list[i],
                              (long long)n_vocab - 1);
    bool keep;
    LLAVA_TRY(make_room(b, (int64_t)count, &keep, err));
    for (size_t i = 0; keep && i < count; i++)
        b->p->keys[b->p->n_rows + (int64_t)i] = row_key_of_token(list[i]);
    return add_rows(&b->p->n_rows, (int64_t)count, err);
}

static llava_status encode(builder *b, const char *text, size_t size, llava_error *err) {
    b->encoded.count = 0;
    return tokenizer_encode(b->source->tokenizer, text, size, &b->encoded, err);
}

/** True when the tokenizer puts BOS in front by itself, which only the prompt's start keeps. */
static llava_status starts_with_bos(builder *b, bool *adds, llava_error *err) {
    LLAVA_TRY(encode(b, "", 0, err));
    const int32_t bos = tokenizer_bos(b->source->tokenizer);
    *adds = bos >= 0 && b->encoded.count > 0 && b->encoded.data[0] == bos;
    return LLAVA_OK;
}

static llava_status append_text(builder *b, const llava_part *part, llava_error *err) {
    b->has_text = true;
    if (part->text_size > 0 && !bytes_append(&b->text, part->text, part->text_size))
        return llava_fail_memory(err, part->text_size, "the prompt's text");
    return LLAVA_OK;
}

static llava_status check_images(const llava_part *part, size_t index, llava_error *err) {
    if (part->kind == LLAVA_PART_IMAGE && part->n_images != 1)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "part %zu is one picture, expected n_images 1, got %zu", index,
                          part->n_images);
    if (part->n_images == 0)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "part %zu is a video without frames, expected n_images >= 1", index);
    for (size_t i = 0; i < part->n_images; i++)
        if (!part->images || !part->images[i])
            return llava_fail(err, LLAVA_BAD_ARGUMENT, "part %zu: images[%zu] is NULL", index, i);
    return LLAVA_OK;
}

static llava_status append_picture(builder *b, const llava_part *part, size_t n_total,
                                   llava_error *err) {
    prompt *p = b->p;
    prompt_picture *picture = &p->pictures[p->n_pictures];
    const int64_t n_frames = part->kind == LLAVA_PART_VIDEO ? (int64_t)part->n_images : 0;
    LLAVA_TRY(vision_plan_make(b->source->processor, part->images[0]->width,
                               part->images[0]->height, n_frames, n_total, &picture->plan, err));
    p->n_pictures++;
    picture->images = part->images;
    picture->n_images = part->n_images;
    picture->first_row = p->n_rows;
    const int64_t n = picture->plan.n_rows;
    bool keep;
    LLAVA_TRY(make_room(b, n, &keep, err));
    const row_key hash = keep ? hash_picture(picture) : (row_key){0, 0};
    for (int64_t i = 0; keep && i < n; i++) p->keys[p->n_rows + i] = key_of_picture_row(hash, i);
    LLAVA_TRY(add_rows(&p->n_visual, n, err));
    return add_rows(&p->n_rows, n, err);
}

static bool is_native(const builder *b) { return b->source->model->config->native != NULL; }

/** The id that stands for a part's picture. Classes without videos take them as pictures. */
static int64_t placeholder_of(const builder *b, const llava_part *part) {
    const mm_config *mm = &b->source->model->config->mm;
    const bool video = part->kind == LLAVA_PART_VIDEO && mm->video_token >= 0;
    return video ? mm->video_token : mm->image_token;
}

/** The ids of `encoded` from `first` on; those of placeholders become the waiting pictures. */
static llava_status append_spliced(builder *b, size_t first, llava_error *err) {
    const mm_config *mm = &b->source->model->config->mm;
    const ids *list = &b->encoded;
    size_t next = 0, start = first;
    for (size_t i = first; i < list->count; i++) {
        if (list->data[i] != mm->image_token && list->data[i] != mm->video_token) continue;
        if (next == b->n_waiting || list->data[i] != placeholder_of(b, b->waiting[next]))
            return llava_fail(err, LLAVA_BAD_ARGUMENT,
                              "the text has a placeholder, id %d, where no such picture or video "
                              "stands",
                              list->data[i]);
        LLAVA_TRY(append_tokens(b, list->data + start, i - start, err));
        LLAVA_TRY(append_picture(b, b->waiting[next++], b->n_pictures, err));
        start = i + 1;
    }
    if (next != b->n_waiting)
        return llava_fail(err, LLAVA_MALFORMED,
                          "the tokenizer finds %zu of %zu placeholders in the text", next,
                          b->n_waiting);
    b->n_waiting = 0;
    return append_tokens(b, list->data + start, list->count - start, err);
}

static llava_status flush_text(builder *b, llava_error *err) {
    if (!b->has_text) return LLAVA_OK;
    bool adds = false;
    LLAVA_TRY(starts_with_bos(b, &adds, err));
    const size_t skip = adds && !b->bos_is_due ? 1 : 0;
    LLAVA_TRY(encode(b, b->text.data ? b->text.data : "", b->text.size, err));
    b->bos_is_due = false;
    b->has_text = false;
    b->text.size = 0;
    if (is_native(b)) return append_spliced(b, i64_min(skip, b->encoded.count), err);
    if (b->encoded.count <= skip) return LLAVA_OK;
    return append_tokens(b, b->encoded.data + skip, b->encoded.count - skip, err);
}

/** Puts a picture's placeholder into the text. */
static llava_status append_placeholder(builder *b, const llava_part *part, llava_error *err) {
    const int32_t id = (int32_t)placeholder_of(b, part);
    const char *text = tokenizer_token(b->source->tokenizer, id);
    if (!text)
        return llava_fail(err, LLAVA_MALFORMED,
                          "the tokenizer has no token %d, which config.json gives to pictures", id);
    b->has_text = true;
    b->waiting[b->n_waiting++] = part;
    if (bytes_puts(&b->text, text)) return LLAVA_OK;
    return llava_fail_memory(err, strlen(text), "the prompt's text");
}

static bool is_picture(const llava_part *part) {
    return part->kind == LLAVA_PART_IMAGE || part->kind == LLAVA_PART_VIDEO;
}

static llava_status append_part(builder *b, const llava_part *part, llava_error *err) {
    if (part->kind == LLAVA_PART_TEXT) return append_text(b, part, err);
    if (is_native(b) && is_picture(part)) return append_placeholder(b, part, err);
    LLAVA_TRY(flush_text(b, err));
    b->bos_is_due = false;
    if (part->kind == LLAVA_PART_TOKENS) return append_tokens(b, part->ids, part->n_ids, err);
    return append_picture(b, part, b->n_pictures, err);
}

static llava_status check_part(const prompt_source *source, const llava_part *part, size_t index,
                               llava_error *err) {
    switch (part->kind) {
    case LLAVA_PART_TEXT:
        if (part->text || part->text_size == 0) return LLAVA_OK;
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "part %zu: text is NULL, expected %zu bytes",
                          index, part->text_size);
    case LLAVA_PART_TOKENS:
        if (part->ids || part->n_ids == 0) return LLAVA_OK;
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "part %zu: ids is NULL, expected %zu ids", index,
                          part->n_ids);
    case LLAVA_PART_IMAGE:
    case LLAVA_PART_VIDEO:
        if (source->processor) return check_images(part, index, err);
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "part %zu is a picture, but %s is a plain language model without a "
                          "vision tower",
                          index, source->model->name ? source->model->name : "this");
    }
    return llava_fail(err, LLAVA_BAD_ARGUMENT, "part %zu has kind %d, expected 0 ... 3", index,
                      (int)part->kind);
}

/** With text behind leading pictures, the reference's first piece is the empty text before them. */
static bool text_comes_first(const llava_part *parts, size_t n_parts) {
    size_t i = 0;
    while (i < n_parts && is_picture(&parts[i])) i++;
    return i < n_parts && parts[i].kind == LLAVA_PART_TEXT;
}

static llava_status check_size(const prompt_source *source, const prompt *p, llava_error *err) {
    if (p->n_rows == 0)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "the prompt is empty, expected at least one row");
    if (p->n_rows <= source->max_rows) return LLAVA_OK;
    return llava_fail(err, LLAVA_CONTEXT_FULL,
                      "the prompt has %lld rows (%lld of text, %lld of pictures), expected at most "
                      "%lld, which leaves room for an answer",
                      (long long)p->n_rows, (long long)(p->n_rows - p->n_visual),
                      (long long)p->n_visual, (long long)source->max_rows);
}

static llava_status build(builder *b, const llava_part *parts, size_t n_parts, llava_error *err) {
    for (size_t i = 0; i < n_parts; i++) {
        LLAVA_TRY(check_part(b->source, &parts[i], i, err));
        if (is_picture(&parts[i])) b->n_pictures++;
    }
    b->p->pictures = array_new(b->n_pictures + 1, sizeof *b->p->pictures);
    b->waiting = array_new(b->n_pictures + 1, sizeof(void *));
    if (!b->p->pictures || !b->waiting)
        return llava_fail_memory(err, b->n_pictures * sizeof *b->p->pictures, "pictures");
    b->bos_is_due = is_native(b) ? n_parts > 0 && parts[0].kind != LLAVA_PART_TOKENS
                                 : text_comes_first(parts, n_parts);
    b->has_text = b->bos_is_due;
    for (size_t i = 0; i < n_parts; i++) {
        const llava_status status = append_part(b, &parts[i], err);
        if (status != LLAVA_OK) return llava_fail_prefix(err, status, "part %zu: ", i);
    }
    LLAVA_TRY(flush_text(b, err));
    return check_size(b->source, b->p, err);
}

llava_status prompt_build(const prompt_source *source, const llava_part *parts, size_t n_parts,
                          prompt *out, llava_error *err) {
    prompt p = {0};
    builder b = {.source = source, .p = &p};
    const llava_status status = build(&b, parts, n_parts, err);
    bytes_free(&b.text);
    ids_free(&b.encoded);
    free(b.waiting);
    if (status != LLAVA_OK) {
        prompt_free(&p);
        return status;
    }
    *out = p;
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- rows */

static const float *row_of_picture(const prompt *p, int64_t row, int64_t hidden, int64_t *n_left) {
    for (size_t i = 0; i < p->n_pictures; i++) {
        const prompt_picture *picture = &p->pictures[i];
        const int64_t inside = row - picture->first_row;
        if (inside < 0 || inside >= picture->plan.n_rows) continue;
        *n_left = picture->plan.n_rows - inside;
        return picture->rows ? picture->rows + inside * hidden : NULL;
    }
    return NULL;
}

llava_status prompt_embed(const llava_model *model, const prompt *p, int64_t first, int64_t n,
                          float *rows, int32_t *token_work, llava_error *err) {
    const int64_t hidden = model->config->lm.hidden_size;
    for (int64_t done = 0; done < n;) {
        const row_key *keys = p->keys + first + done;
        int64_t run = 0;
        while (run < n - done && row_key_is_token(keys[run])) {
            token_work[run] = (int32_t)keys[run].a;
            run++;
        }
        if (run > 0) {
            LLAVA_TRY(model_embed_tokens(model, token_work, run, rows + done * hidden, err));
        } else {
            const float *src = row_of_picture(p, first + done, hidden, &run);
            if (!src)
                return llava_fail(err, LLAVA_INTERNAL, "row %lld of the prompt was not computed",
                                  (long long)(first + done));
            run = i64_min(run, n - done);
            memcpy(rows + done * hidden, src, (size_t)(run * hidden) * sizeof *rows);
        }
        done += run;
    }
    return LLAVA_OK;
}

void prompt_release_pictures(prompt *p) {
    for (size_t i = 0; i < p->n_pictures; i++) {
        free(p->pictures[i].rows);
        p->pictures[i].rows = NULL;
    }
}

void prompt_free(prompt *p) {
    prompt_release_pictures(p);
    for (size_t i = 0; i < p->n_pictures; i++) vision_plan_free(&p->pictures[i].plan);
    free(p->pictures);
    free(p->keys);
    *p = (prompt){0};
}
