/* SPDX-License-Identifier: Apache-2.0
 *
 * llava.c: load a LLaVA checkpoint and ask it about pictures.
 *
 *     llava_error err;
 *     llava_loaded llava;
 *     llava_load_options options = { .model_path = "models/demo" };
 *     if (llava_load_pretrained_model(&options, &llava, &err)) goto failed;
 *
 *     llava_context *context;
 *     llava_session *session;
 *     if (llava_context_new(&llava, NULL, &context, &err)) goto failed;
 *     if (llava_session_new(context, &session, &err)) goto failed;
 *
 *     llava_image *image;
 *     if (llava_image_open("cat.jpg", &image, &err)) goto failed;
 *     llava_message ask = { .role = 0, .text = "<image>\nWhat is this?" };
 *     if (llava_session_ask(session, NULL, &ask, 1, (const llava_image *const *)&image, 1, &err))
 *         goto failed;
 *     const llava_result *result;
 *     if (llava_session_generate(session, NULL, &result, &err)) goto failed;
 *     printf("%.*s\n", (int)result->text_size, result->text);
 *
 * Objects. A loaded checkpoint is four results: tokenizer, model, image processor and context
 * length. They are immutable: any number of threads may use them. A context owns working memory
 * for one model (KV blocks, scratch, threads) and any number of sessions; a session is one
 * conversation. A context and its sessions belong to one thread at a time; different contexts run
 * in parallel. llava_session_cancel() is the only call allowed from another thread or a signal
 * handler.
 *
 * Errors. Every call that can fail returns a llava_status (LLAVA_OK is 0) and, when the last
 * argument is not NULL, fills it: what went wrong, where, what was expected and what was there.
 * On failure outputs are NULL or untouched and the object stays as it was before the call.
 *
 * Options. All-zero structs mean the documented defaults; `reserved` must be zero.
 *
 * Ownership. What a call opens or makes, the caller closes; close functions take a pointer to the
 * pointer and set it to NULL. Returned text and arrays are borrowed; each says until when.
 * Text is UTF-8 with an explicit size.
 *
 * The library never prints, exits or reads the environment.
 */
#ifndef LLAVA_H
#define LLAVA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LLAVA_VERSION_MAJOR 0
#define LLAVA_VERSION_MINOR 1
#define LLAVA_VERSION_PATCH 0

#if defined(__GNUC__)
#define LLAVA_API __attribute__((visibility("default")))
#else
#define LLAVA_API
#endif

/* ---------------------------------------------------------------- status and errors */

/** What a failed call means to the caller. Numbers are never reused. */
typedef enum llava_status {
    LLAVA_OK = 0,
    LLAVA_BAD_ARGUMENT = 1,  /* the call itself is wrong: option, template name, counts */
    LLAVA_OUT_OF_MEMORY = 2, /* an allocation failed or would pass a limit */
    LLAVA_IO = 3,            /* a file is missing or cannot be read */
    LLAVA_MALFORMED = 4,     /* a file's content breaks its format or contradicts another */
    LLAVA_UNSUPPORTED = 5,   /* well-formed, but nothing here can run it */
    LLAVA_DEVICE = 6,        /* the device failed or is not there */
    LLAVA_CONTEXT_FULL = 7,  /* prompt or answer does not fit the context */
    LLAVA_CANCELLED = 8,     /* llava_session_cancel() was called, or a callback said stop */
    LLAVA_INTERNAL = 9,      /* a defect in this library */
} llava_status;

/** Why a file was not taken. Numbers are never reused. */
typedef enum llava_refusal {
    LLAVA_REFUSAL_NONE = 0,         /* the failure is not about a file's content */
    LLAVA_REFUSAL_CORRUPT = 1,      /* does not follow its format */
    LLAVA_REFUSAL_FORBIDDEN = 2,    /* names code to run */
    LLAVA_REFUSAL_INCONSISTENT = 3, /* its parts contradict each other */
    LLAVA_REFUSAL_INVALID = 4,      /* a value of the wrong type or range */
    LLAVA_REFUSAL_LIMIT = 5,        /* deeper, longer or larger than any sane file */
    LLAVA_REFUSAL_MISSING = 6,      /* a file, tensor or field that is needed is not there */
    LLAVA_REFUSAL_OUTSIDE = 7,      /* a path that leaves the checkpoint's directory */
    LLAVA_REFUSAL_OVERFLOW = 8,     /* a number, or a product of numbers, too large */
    LLAVA_REFUSAL_TRUNCATED = 9,    /* ends before what it announces */
    LLAVA_REFUSAL_UNSUPPORTED = 10, /* valid perhaps, but nothing here loads it */
} llava_refusal;

#define LLAVA_ERROR_SIZE 1024

/** Filled by a failed call. `message` is one sentence, NUL-terminated. */
typedef struct llava_error {
    llava_status code;
    llava_refusal refusal; /* beside LLAVA_IO, LLAVA_MALFORMED and LLAVA_UNSUPPORTED */
    char message[LLAVA_ERROR_SIZE];
} llava_error;

/** Element types of tensors. LLAVA_DTYPE_DEFAULT as an option means float16, as in the reference.
 */
typedef enum llava_dtype {
    LLAVA_DTYPE_DEFAULT = 0,
    LLAVA_DTYPE_F32,
    LLAVA_DTYPE_F16,
    LLAVA_DTYPE_BF16,
    LLAVA_DTYPE_F64,
    LLAVA_DTYPE_I64,
    LLAVA_DTYPE_I32,
    LLAVA_DTYPE_I16,
    LLAVA_DTYPE_I8,
    LLAVA_DTYPE_U8,
    LLAVA_DTYPE_BOOL,
    LLAVA_DTYPE_COUNT
} llava_dtype;

LLAVA_API const char *llava_version(void);
LLAVA_API const char *llava_status_name(llava_status status);
/** "corrupt", "truncated", ...; "none" for LLAVA_REFUSAL_NONE. */
LLAVA_API const char *llava_refusal_name(llava_refusal refusal);

/* ---------------------------------------------------------------- loading */

typedef struct llava_tokenizer llava_tokenizer;
typedef struct llava_model llava_model;
typedef struct llava_image_processor llava_image_processor;
typedef struct llava_image llava_image;
typedef struct llava_context llava_context;
typedef struct llava_session llava_session;
typedef struct llava_report llava_report;

/** Called while loading, from the loading thread. Return false to cancel. */
typedef bool (*llava_progress_fn)(void *user, uint64_t done_bytes, uint64_t total_bytes,
                                  const char *what);

/** The parameters of load_pretrained_model, under the reference's names. */
typedef struct llava_load_options {
    const char *model_path;          /* directory or Hub id; required */
    const char *model_base;          /* the base model's, or NULL */
    const char *model_name;          /* NULL: derived from model_path */
    bool load_8bit;                  /* LLM.int8() */
    bool load_4bit;                  /* NF4, double quantization */
    const char *device_map;          /* NULL or "auto", "cpu", ..., or an object of modules */
    llava_dtype torch_dtype;         /* DEFAULT = float16; F32, F16 or BF16 */
    const char *attn_implementation; /* NULL, "eager", "sdpa", "flash_attention_2", "none" */
    const char *customized_config;   /* JSON text of a whole config that replaces config.json */
    const char *overwrite_config;    /* JSON object: attribute -> value */
    bool multimodal;                 /* the reference's keyword of that name */
    const char *working_directory;   /* relative tower paths start here; NULL: the process's */
    int n_threads;                   /* 0: one per processor */
    const char *cpu_level;           /* NULL: the best; "c", "avx2", "avx512", "avx512vnni", */
                                     /* "avx512bf16"; on arm64 "neon", "neonbf16" */
    llava_progress_fn progress;      /* NULL: silent */
    void *progress_user;
    const char *hub_cache;    /* Hub cache directory; NULL: model_path must be a directory */
    const char *hub_endpoint; /* NULL: the public Hub */
    const char *hub_token;    /* NULL: anonymous */
    const char *hub_revision; /* NULL: "main" */
    const char *hub_proxy;    /* NULL: none */
    bool hub_offline;         /* take what the cache has, ask nobody */
    const char *max_memory;   /* JSON object: device -> bytes or "10GiB"; NULL: what is free */
    const char *quantization_config; /* JSON object: fields of transformers' BitsAndBytesConfig */
    uint64_t reserved[6];
} llava_load_options;

/** The four results. image_processor is NULL for a plain language model. */
typedef struct llava_loaded {
    llava_tokenizer *tokenizer;
    llava_model *model;
    llava_image_processor *image_processor;
    int64_t context_len;
} llava_loaded;

LLAVA_API llava_status llava_load_pretrained_model(const llava_load_options *options,
                                                   llava_loaded *loaded, llava_error *err);
LLAVA_API void llava_loaded_close(llava_loaded *loaded);

/** Reads only headers and configs: what would be loaded, why, from where, and what it will take. */
LLAVA_API llava_status llava_inspect(const llava_load_options *options, llava_report **report,
                                     llava_error *err);
LLAVA_API const char *llava_report_json(const llava_report *report);
LLAVA_API void llava_report_free(llava_report **report);

/** Writes what the options describe - adapter merged, tower inside, cast to torch_dtype (DEFAULT:
 * as stored) - to a new directory, in the original layout that the Python reference loads too. */
LLAVA_API llava_status llava_convert(const llava_load_options *options, const char *directory,
                                     llava_error *err);

/** Sizes of a loaded model. Strings live as long as the model. */
typedef struct llava_model_info {
    const char *architecture;  /* e.g. "LlavaQwenForCausalLM" */
    const char *name;          /* model_name given or derived */
    const char *template_name; /* conversation template chosen for it */
    const char *template_reason;
    llava_dtype torch_dtype;
    int64_t vocab_size; /* logits per position = len(tokenizer) */
    int64_t hidden_size;
    int64_t n_layers;
    int64_t n_heads;
    int64_t n_kv_heads;
    int64_t context_len;
    uint64_t weight_bytes; /* mapped and owned */
    uint64_t owned_bytes;  /* of these, allocated rather than mapped */
    bool multimodal;
} llava_model_info;

LLAVA_API void llava_model_get_info(const llava_model *model, llava_model_info *info);

/* ---------------------------------------------------------------- tokenizer */

LLAVA_API int64_t llava_tokenizer_size(const llava_tokenizer *tokenizer);
LLAVA_API llava_status llava_tokenizer_encode(const llava_tokenizer *tokenizer, const char *text,
                                              size_t text_size, int32_t *ids, size_t capacity,
                                              size_t *n_ids, llava_error *err);
LLAVA_API llava_status llava_tokenizer_decode(const llava_tokenizer *tokenizer, const int32_t *ids,
                                              size_t n_ids, bool skip_special_tokens, char *text,
                                              size_t capacity, size_t *text_size, llava_error *err);

/* ---------------------------------------------------------------- conversation templates */

/** One turn. role 0 is the user, 1 the assistant. text NULL: an open turn to be answered. */
typedef struct llava_message {
    int role;
    const char *text; /* NUL-terminated UTF-8; "<image>" stands for one picture or video */
} llava_message;

LLAVA_API size_t llava_template_count(void);
LLAVA_API const char *llava_template_name(size_t index);
LLAVA_API llava_status llava_template_render(const char *name, const char *system,
                                             const llava_message *messages, size_t n_messages,
                                             char *text, size_t capacity, size_t *text_size,
                                             llava_error *err);

/* ---------------------------------------------------------------- pictures */

LLAVA_API llava_status llava_image_open(const char *path, llava_image **image, llava_error *err);
LLAVA_API llava_status llava_image_decode(const void *bytes, size_t size, llava_image **image,
                                          llava_error *err);
LLAVA_API llava_status llava_image_from_rgb(const uint8_t *rgb, int64_t width, int64_t height,
                                            llava_image **image, llava_error *err);
LLAVA_API void llava_image_get_size(const llava_image *image, int64_t *width, int64_t *height);
LLAVA_API void llava_image_free(llava_image **image);

/** Rows of the prompt that a picture of this size becomes, when n_images share the prompt. */
LLAVA_API llava_status llava_count_visual_tokens(const llava_image_processor *processor,
                                                 int64_t width, int64_t height, size_t n_images,
                                                 int64_t *n_tokens, llava_error *err);

/* ---------------------------------------------------------------- contexts and sessions */

typedef struct llava_context_options {
    int64_t max_tokens; /* KV positions shared by all sessions; 0: the model's context length */
    int n_threads;      /* 0: as loaded */
    /** Of cached keys and values: F32, F16, BF16 or I8; DEFAULT: the model's torch_dtype. */
    llava_dtype kv_dtype;
    uint64_t reserved[5];
} llava_context_options;

/** What to do with a picture whose placeholder stands in the prompt. */
typedef enum llava_modality { LLAVA_IMAGE = 0, LLAVA_VIDEO = 1 } llava_modality;

typedef enum llava_part_kind {
    LLAVA_PART_TEXT = 0,
    LLAVA_PART_TOKENS = 1,
    LLAVA_PART_IMAGE = 2,
    LLAVA_PART_VIDEO = 3,
} llava_part_kind;

/** A piece of a prompt. A prompt is a list of these. */
typedef struct llava_part {
    llava_part_kind kind;
    const char *text; /* TEXT */
    size_t text_size;
    const int32_t *ids; /* TOKENS */
    size_t n_ids;
    const llava_image *const *images; /* IMAGE: one; VIDEO: its frames in order */
    size_t n_images;
} llava_part;

/** Called with each piece of text as it becomes final. Return false to stop. */
typedef bool (*llava_text_fn)(void *user, const char *text, size_t text_size);

/** Zero means: as generation_config.json says, else the reference's default. */
typedef struct llava_generate_options {
    int64_t max_new_tokens;       /* 0: as far as the context reaches */
    bool do_sample;               /* false: as temperature says */
    float temperature;            /* 0: greedy; > 0: sample at this temperature */
    int32_t top_k;                /* 0: file, else 50; -1: off */
    float top_p;                  /* 0: file, else off */
    float repetition_penalty;     /* 0: file, else 1 */
    int32_t num_beams;            /* 0 or 1: none */
    float length_penalty;         /* 0: file, else 1 */
    int32_t no_repeat_ngram_size; /* 0: file, else off */
    int64_t min_new_tokens;       /* 0: none */
    uint64_t seed;
    const char *const *stop; /* stop strings, beside the template's */
    size_t n_stop;
    const int32_t *stop_ids; /* stop ids, beside the checkpoint's EOS ids */
    size_t n_stop_ids;
    bool ignore_eos;          /* run to max_new_tokens */
    bool keep_special_tokens; /* leave special tokens in the text */
    llava_text_fn on_text;
    void *user;
    uint64_t reserved[8];
} llava_generate_options;

typedef enum llava_finish_reason {
    LLAVA_FINISH_NONE = 0,   /* still running */
    LLAVA_FINISH_EOS = 1,    /* an end id */
    LLAVA_FINISH_STOP = 2,   /* a stop string */
    LLAVA_FINISH_LENGTH = 3, /* max_new_tokens or the context's end */
    LLAVA_FINISH_CANCELLED = 4,
} llava_finish_reason;

/** What a session has generated. Borrowed until the session's next call. */
typedef struct llava_result {
    const char *text; /* stop strings cut off */
    size_t text_size;
    const int32_t *ids; /* new ids, the finishing one included */
    size_t n_ids;
    llava_finish_reason finish_reason;
    int64_t n_prompt_tokens; /* rows of the prompt, visual ones included */
    int64_t n_visual_tokens;
    int64_t n_cached_tokens; /* rows of the prompt taken from the cache */
    double sequence_score;   /* beams: the winner's; otherwise 0 */
    double image_ms;         /* decoding excluded: tiles, tower, projector */
    double prompt_ms;
    double decode_ms;
} llava_result;

LLAVA_API llava_status llava_context_new(const llava_loaded *loaded,
                                         const llava_context_options *options,
                                         llava_context **context, llava_error *err);
LLAVA_API void llava_context_free(llava_context **context);

LLAVA_API llava_status llava_session_new(llava_context *context, llava_session **session,
                                         llava_error *err);
LLAVA_API void llava_session_free(llava_session **session);

/** The whole prompt, every time; what the cache already holds is not computed again. */
LLAVA_API llava_status llava_session_feed(llava_session *session, const llava_part *parts,
                                          size_t n_parts, llava_error *err);
/** Renders the messages with a template (NULL: the model's), then feeds. */
LLAVA_API llava_status llava_session_ask(llava_session *session, const char *template_name,
                                         const llava_message *messages, size_t n_messages,
                                         const llava_image *const *images, size_t n_images,
                                         llava_error *err);
/** Starts answering; llava_context_step() does the work, all started sessions as one batch. */
LLAVA_API llava_status llava_session_start(llava_session *session,
                                           const llava_generate_options *options, llava_error *err);
LLAVA_API llava_status llava_context_step(llava_context *context, size_t *n_running,
                                          llava_error *err);
/** Start, then step until this session has finished. */
LLAVA_API llava_status llava_session_generate(llava_session *session,
                                              const llava_generate_options *options,
                                              const llava_result **result, llava_error *err);
LLAVA_API const llava_result *llava_session_result(const llava_session *session);
/** Logits of the last position computed, vocab_size floats; borrowed until the next step. */
LLAVA_API const float *llava_session_logits(const llava_session *session);
LLAVA_API void llava_session_cancel(llava_session *session);

#ifdef __cplusplus
}
#endif
#endif
