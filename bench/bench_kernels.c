/* SPDX-License-Identifier: Apache-2.0
 *
 * The device's operations on the shapes of LLaVA's models, each as a fraction of the machine's
 * own limit, sampled right before and after each timing. Medians over rounds.
 *
 *     bench_kernels [--threads N | --cpu-time] [--level NAME] [--rounds N] [--json] [PART OF A
 * NAME]
 *
 * --cpu-time: one thread, processor time instead of the clock, for a machine with other work.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/device.h"
#include "limits.h"

#define MAX_ROUNDS 101
#define COLD_BYTES ((size_t)768 << 20)

typedef struct options {
    int n_threads, rounds;
    const char *level, *filter;
    bool json, first;
} options;

static options opt = {.n_threads = 2, .rounds = 7};
static device *dev;
static float *input, *output, *extra; /* scratch rows */
#define SCRATCH_FLOATS ((int64_t)24 << 20)

/** How weights are stored. */
typedef struct format {
    const char *name;
    llava_dtype dtype;
    bool quantized;
    quant_format codes;
    bool bf16_inputs;
    double bytes; /* a weight, with its part of the scales */
} format;

#define NF4_BYTES (0.5 + 1.0 / 64 + 4.0 / (64 * QUANT_NESTED_BLOCK))
static const format formats[] = {
    {"bfloat16", LLAVA_DTYPE_BF16, false, QUANT_NF4, true, 2},
    {"float16", LLAVA_DTYPE_F16, false, QUANT_NF4, false, 2},
    {"float32", LLAVA_DTYPE_F32, false, QUANT_NF4, false, 4},
    {"nf4", LLAVA_DTYPE_U8, true, QUANT_NF4, true, NF4_BYTES},
    {"nf4 float32", LLAVA_DTYPE_U8, true, QUANT_NF4, false, NF4_BYTES}, /* as recorded, too */
    {"int8", LLAVA_DTYPE_I8, true, QUANT_INT8, true, 1},
};

typedef struct subject {
    char name[96];
    limit_kind limit;
    double work; /* operations or bytes a run */
    void (*run)(const struct subject *s);
    int64_t m, k, n;
    llava_dtype dtype;
    const format *format; /* of a product's weights */
    linear_form form;
    bool hot; /* the same weights each time */
    int64_t heads, kv_heads, head_dim, keys;
    bool causal;
    bool bf16_inputs; /* of attention */
    activation act;
} subject;

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

static void report(const subject *s, double ms, double rate, double fraction) {
    if (opt.json) {
        printf("%s{\"name\": \"%s\", \"ms\": %.4f, \"rate\": %.4e, \"limit\": \"%s\", "
               "\"fraction\": %.4f}",
               opt.first ? "[\n" : ",\n", s->name, ms, rate, limit_name(s->limit), fraction);
        opt.first = false;
        return;
    }
    printf("%-56s %9.3f ms %8.1f G/s %6.1f%% of %s\n", s->name, ms, rate * 1e-9, 100 * fraction,
           limit_name(s->limit));
    fflush(stdout);
}

static void measure(const subject *s) {
    if (opt.filter && !strstr(s->name, opt.filter)) return;
    double ms[MAX_ROUNDS], rate[MAX_ROUNDS], fraction[MAX_ROUNDS];
    s->run(s);
    const double warm = limits_ms();
    s->run(s);
    const int repeats = 1 + (int)(30 / fmax(limits_ms() - warm, 1e-3));
    for (int r = 0; r < opt.rounds; r++) {
        const double before = limit_sample(s->limit, opt.n_threads), start = limits_ms();
        for (int i = 0; i < repeats; i++) s->run(s);
        ms[r] = (limits_ms() - start) / repeats;
        const double after = limit_sample(s->limit, opt.n_threads);
        rate[r] = s->work / (ms[r] * 1e-3);
        fraction[r] = rate[r] / (0.5 * (before + after));
    }
    report(s, median(ms, opt.rounds), median(rate, opt.rounds), median(fraction, opt.rounds));
}

/* ---------------------------------------------------------------- products */

/** Weights from a place that moves on, or that stays. */
static const void *weights_at(const subject *s, size_t n_bytes) {
    if (s->hot) limits_cold_again();
    return limits_cold(n_bytes);
}

/** Scales of quantized weights; NF4 as load_4bit has them. */
static quant quant_of(const subject *s) {
    static float scales[152064];
    if (scales[0] == 0)
        for (size_t i = 0; i < LLAVA_COUNT(scales); i++) scales[i] = 0.01f;
    const int64_t blocks = ceil_div(s->n * s->k, QUANT_MIN_BLOCK);
    quant q = {.format = s->format->codes,
               .stored = s->format->bf16_inputs ? LLAVA_DTYPE_BF16 : LLAVA_DTYPE_F32,
               .block = QUANT_MIN_BLOCK,
               .nested_block = QUANT_NESTED_BLOCK,
               .nested_absmax = scales,
               .offset = 0.02f,
               .threshold = QUANT_THRESHOLD,
               .scb = scales};
    if (q.format == QUANT_INT8) return q;
    memcpy(q.table, quant_table(q.format), sizeof q.table);
    quant_dynamic_map(q.map);
    q.codes = limits_cold((size_t)blocks);
    return q;
}

static void run_linear(const subject *s) {
    const int64_t count = s->n * s->k;
    const bool quantized = s->format->quantized;
    const size_t n_bytes = quantized ? quant_codes_bytes(s->format->codes, s->n, s->k)
                                     : (size_t)count * dtype_size(s->format->dtype);
    weight w = {s->format->dtype, s->n, s->k, weights_at(s, n_bytes), NULL};
    quant q;
    if (quantized) {
        q = quant_of(s);
        w.quant = &q;
    }
    const linear_args args = {.x = input,
                              .n_rows = s->m,
                              .w = &w,
                              .dst = output,
                              .form = s->form,
                              .act = s->act,
                              .bf16_inputs = s->format->bf16_inputs};
    dev->ops->linear(dev, &args);
}

static void bench_linear(subject s, const char *model) {
    s.run = run_linear;
    const double weights = (double)(s.n * s.k);
    if (s.form == LINEAR_DOT) {
        s.limit = LIMIT_READ;
        s.work = weights * s.format->bytes;
    } else {
        s.limit = s.format->bf16_inputs ? LIMIT_BF16 : LIMIT_F32;
        s.work = 2 * weights * (double)s.m;
    }
    snprintf(s.name, sizeof s.name, "%s %s %s %lld x %lld -> %lld",
             s.form == LINEAR_DOT ? "dot" : "panel", s.format->name, model, (long long)s.m,
             (long long)s.k, (long long)s.n);
    measure(&s);
}

/** 16-bit weights while they are read from memory; as a fraction of reading them. */
static void run_quantize(const subject *s) {
    static uint8_t *codes, *absmax_codes;
    static float *absmax, map[QUANT_MAP_SIZE], offset;
    if (!codes) {
        codes = dev->ops->alloc(dev, (size_t)64 << 20);
        absmax_codes = dev->ops->alloc(dev, (size_t)1 << 20);
        absmax = dev->ops->alloc(dev, (size_t)4 << 20);
        quant_dynamic_map(map);
        if (!codes || !absmax || !absmax_codes) exit(1);
    }
    const weight w = {s->dtype, s->n, s->k, limits_cold((size_t)(s->n * s->k * 2)), NULL};
    const quantize_args args = {.w = &w,
                                .halves = true,
                                .format = s->format->codes,
                                .block = QUANT_MIN_BLOCK,
                                .codes = codes,
                                .absmax = absmax,
                                .map = map,
                                .absmax_codes = absmax_codes,
                                .nested_absmax = s->format->codes == QUANT_NF4 ? output : NULL,
                                .offset = &offset};
    dev->ops->quantize(dev, &args);
}

static void bench_quantize(const format *to, llava_dtype dtype) {
    subject s = {.run = run_quantize,
                 .limit = LIMIT_READ,
                 .k = 4096,
                 .n = 11008,
                 .dtype = dtype,
                 .format = to};
    s.work = (double)(s.n * s.k) * 2;
    snprintf(s.name, sizeof s.name, "quantize %s from %s %lld x %lld", to->name, dtype_name(dtype),
             (long long)s.n, (long long)s.k);
    measure(&s);
}

static const struct {
    const char *model;
    int64_t m, k, n;
} panels[] =
    {
        {"siglip", 729, 1152, 1152},    {"siglip", 729, 1152, 4304},
        {"siglip", 729, 4304, 1152},    {"clip-l", 577, 1024, 1024},
        {"clip-l", 577, 1024, 4096},    {"clip-l", 577, 4096, 1024},
        {"qwen2-0.5b", 729, 896, 896},  {"qwen2-0.5b", 729, 896, 128},
        {"qwen2-0.5b", 729, 896, 4864}, {"qwen2-0.5b", 729, 4864, 896},
        {"qwen2-7b", 729, 3584, 3584},  {"qwen2-7b", 729, 3584, 18944},
        {"llama-7b", 729, 4096, 11008}, {"siglip", 3645, 1152, 4304},
},
  dots[] = {
      {"qwen2-0.5b", 1, 896, 896},         {"qwen2-0.5b", 1, 896, 128},
      {"qwen2-0.5b", 1, 896, 4864},        {"qwen2-0.5b", 1, 4864, 896},
      {"qwen2-0.5b head", 1, 896, 151936}, {"qwen2-7b", 1, 3584, 18944},
      {"llama-7b", 1, 4096, 11008},        {"llama-7b", 1, 11008, 4096},
      {"llama-7b", 4, 4096, 11008},        {"llama-7b", 16, 4096, 11008},
};

/* ---------------------------------------------------------------- attention */

#define KV_TOKENS 64
#define KV_BLOCKS 256

/** Keys and values in blocks [kv_head][token][head_dim], as the cache has them. */
static void run_attention(const subject *s) {
    static void *blocks[2][KV_BLOCKS];
    const int64_t block = s->m == s->keys ? s->keys : KV_TOKENS;
    const size_t n_bytes = (size_t)(block * s->kv_heads * s->head_dim) * dtype_size(s->dtype);
    for (int64_t b = 0; b < ceil_div(s->keys, block); b++)
        for (int which = 0; which < 2; which++)
            blocks[which][b] = (void *)(uintptr_t)limits_cold(n_bytes);
    const kv_view view = {blocks[0], block, s->head_dim, block * s->head_dim, s->dtype};
    attention_args args = {.q = input,
                           .q_stride = s->heads * s->head_dim,
                           .dst = output,
                           .n_rows = s->m,
                           .n_heads = s->heads,
                           .n_kv_heads = s->kv_heads,
                           .head_dim = s->head_dim,
                           .first_position = s->keys - s->m,
                           .n_keys = s->keys,
                           .causal = s->causal,
                           .scale = 0.02f,
                           .form = s->m == 1 ? LINEAR_DOT : LINEAR_PANEL,
                           .bf16_inputs = s->bf16_inputs,
                           .k = view,
                           .v = view};
    args.v.blocks = blocks[1];
    dev->ops->attention(dev, &args);
}

static void bench_attention(subject s) {
    s.run = run_attention;
    const double rows = (double)s.m, keys = (double)s.keys, width = (double)s.head_dim;
    if (s.m == 1) {
        s.limit = LIMIT_READ;
        s.work = 2 * keys * (double)s.kv_heads * width * (double)dtype_size(s.dtype);
    } else {
        s.limit = s.bf16_inputs ? LIMIT_BF16 : LIMIT_F32;
        s.work = 4 * rows * (s.causal ? keys - (rows - 1) / 2 : keys) * (double)s.heads * width;
    }
    measure(&s);
}

/* ---------------------------------------------------------------- rows and elements */

static void run_activate(const subject *s) { dev->ops->activate(dev, output, input, s->n, s->act); }
static void run_gated(const subject *s) {
    dev->ops->gated(dev, output, input, extra, s->n, s->act);
}
static void run_layernorm(const subject *s) {
    const weight w = {LLAVA_DTYPE_BF16, 1, s->k, limits_cold((size_t)s->k * 2), NULL};
    dev->ops->layernorm(
        dev,
        &(norm_args){.x = input, .n_rows = s->m, .w = &w, .bias = &w, .eps = 1e-6f, .dst = output});
}
static void run_rmsnorm(const subject *s) {
    const weight w = {LLAVA_DTYPE_BF16, 1, s->k, limits_cold((size_t)s->k * 2), NULL};
    dev->ops->rmsnorm(
        dev, &(norm_args){.x = input, .n_rows = s->m, .w = &w, .eps = 1e-6f, .dst = output});
}

/** Bytes read and written over the read bandwidth; what fits a cache may pass 100 %. */
static void bench_rows(const char *name, void (*run)(const subject *), int64_t m, int64_t k,
                       activation act, int arrays) {
    subject s = {.run = run, .limit = LIMIT_READ, .m = m, .k = k, .n = m * k, .act = act};
    s.work = (double)(m * k * arrays) * 4;
    snprintf(s.name, sizeof s.name, "%s %lld x %lld", name, (long long)m, (long long)k);
    measure(&s);
}

static void run_all(void) {
    for (size_t t = 0; t < LLAVA_COUNT(formats); t++)
        for (size_t i = 0; i < LLAVA_COUNT(panels); i++)
            bench_linear((subject){.m = panels[i].m,
                                   .k = panels[i].k,
                                   .n = panels[i].n,
                                   .format = &formats[t],
                                   .form = LINEAR_PANEL},
                         panels[i].model);
    for (size_t t = 0; t < LLAVA_COUNT(formats); t++) {
        for (size_t i = 0; i < LLAVA_COUNT(dots); i++)
            bench_linear((subject){.m = dots[i].m,
                                   .k = dots[i].k,
                                   .n = dots[i].n,
                                   .format = &formats[t],
                                   .form = LINEAR_DOT},
                         dots[i].model);
        const int64_t n = (int64_t)(400e3 * opt.n_threads / (4096 * formats[t].bytes));
        bench_linear(
            (subject){
                .m = 1, .k = 4096, .n = n, .format = &formats[t], .form = LINEAR_DOT, .hot = true},
            "in L2");
    }
    for (size_t t = 0; t < LLAVA_COUNT(formats); t++)
        for (int half = 0; half < 2 && formats[t].quantized && formats[t].bf16_inputs; half++)
            bench_quantize(&formats[t], half ? LLAVA_DTYPE_F16 : LLAVA_DTYPE_BF16);
    const subject attentions[] = {
        {"attention siglip 729 keys, float32", .m = 729, .heads = 16, .kv_heads = 16,
         .head_dim = 72, .keys = 729, .dtype = LLAVA_DTYPE_F32},
        {"attention clip-l 577 keys, float32", .m = 577, .heads = 16, .kv_heads = 16,
         .head_dim = 64, .keys = 577, .dtype = LLAVA_DTYPE_F32},
        {"attention siglip 729 keys, bfloat16 products", .m = 729, .heads = 16, .kv_heads = 16,
         .head_dim = 72, .keys = 729, .dtype = LLAVA_DTYPE_F32, .bf16_inputs = true},
        {"attention clip-l 577 keys, bfloat16 products", .m = 577, .heads = 16, .kv_heads = 16,
         .head_dim = 64, .keys = 577, .dtype = LLAVA_DTYPE_F32, .bf16_inputs = true},
        {"attention qwen2-0.5b prompt 1024, bfloat16", .m = 1024, .heads = 14, .kv_heads = 2,
         .head_dim = 64, .keys = 1024, .dtype = LLAVA_DTYPE_BF16, .causal = true,
         .bf16_inputs = true},
        {"attention qwen2-7b prompt 512 at 8192, bfloat16 products", .m = 512, .heads = 28,
         .kv_heads = 4, .head_dim = 128, .keys = 8192, .dtype = LLAVA_DTYPE_BF16, .causal = true,
         .bf16_inputs = true},
        {"attention qwen2-0.5b prompt 1024, float16", .m = 1024, .heads = 14, .kv_heads = 2,
         .head_dim = 64, .keys = 1024, .dtype = LLAVA_DTYPE_F16, .causal = true},
        {"attention qwen2-7b prompt 512 at 8192, bfloat16", .m = 512, .heads = 28, .kv_heads = 4,
         .head_dim = 128, .keys = 8192, .dtype = LLAVA_DTYPE_BF16, .causal = true},
        {"attention qwen2-0.5b one row at 4096, bfloat16", .m = 1, .heads = 14, .kv_heads = 2,
         .head_dim = 64, .keys = 4096, .dtype = LLAVA_DTYPE_BF16, .causal = true},
        {"attention qwen2-7b one row at 4096, bfloat16", .m = 1, .heads = 28, .kv_heads = 4,
         .head_dim = 128, .keys = 4096, .dtype = LLAVA_DTYPE_BF16, .causal = true},
        {"attention llama-7b one row at 4096, bfloat16", .m = 1, .heads = 32, .kv_heads = 32,
         .head_dim = 128, .keys = 4096, .dtype = LLAVA_DTYPE_BF16, .causal = true},
        {"attention llama-7b one row at 4096, float16", .m = 1, .heads = 32, .kv_heads = 32,
         .head_dim = 128, .keys = 4096, .dtype = LLAVA_DTYPE_F16, .causal = true},
    };
    for (size_t i = 0; i < LLAVA_COUNT(attentions); i++) bench_attention(attentions[i]);
    bench_rows("gelu_tanh", run_activate, 729, 4304, ACT_GELU_TANH, 2);
    bench_rows("gelu", run_activate, 729, 4304, ACT_GELU, 2);
    bench_rows("quick_gelu", run_activate, 577, 4096, ACT_QUICK_GELU, 2);
    bench_rows("gated silu", run_gated, 729, 4864, ACT_SILU, 3);
    bench_rows("layernorm", run_layernorm, 729, 1152, ACT_NONE, 2);
    bench_rows("rmsnorm", run_rmsnorm, 729, 896, ACT_NONE, 2);
    bench_rows("rmsnorm", run_rmsnorm, 1, 896, ACT_NONE, 2);
}

static bool parse(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            opt.json = opt.first = true;
        } else if (strcmp(argv[i], "--cpu-time") == 0) {
            limits_use_cpu_time = true;
            opt.n_threads = 1;
        } else if (argv[i][0] != '-') {
            opt.filter = argv[i];
        } else if (i + 1 < argc && strcmp(argv[i], "--threads") == 0) {
            opt.n_threads = atoi(argv[++i]);
        } else if (i + 1 < argc && strcmp(argv[i], "--rounds") == 0) {
            opt.rounds = atoi(argv[++i]);
        } else if (i + 1 < argc && strcmp(argv[i], "--level") == 0) {
            opt.level = argv[++i];
        } else {
            return false;
        }
    }
    return opt.n_threads >= 1 && (opt.n_threads == 1 || !limits_use_cpu_time) &&
           opt.n_threads <= 64 && opt.rounds >= 1 && opt.rounds <= MAX_ROUNDS;
}

int main(int argc, char **argv) {
    llava_error err;
    if (!parse(argc, argv)) {
        fprintf(stderr,
                "usage: bench_kernels [--threads N | --cpu-time] [--level NAME] [--rounds N] "
                "[--json] [PART OF A NAME]\n");
        return 2;
    }
    if (device_open_cpu(opt.n_threads, opt.level, &dev, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    input = dev->ops->alloc(dev, SCRATCH_FLOATS * sizeof(float));
    output = dev->ops->alloc(dev, SCRATCH_FLOATS * sizeof(float));
    extra = dev->ops->alloc(dev, SCRATCH_FLOATS * sizeof(float));
    if (!input || !output || !extra || !limits_start(COLD_BYTES)) {
        fprintf(stderr, "not enough memory\n");
        return 1;
    }
    for (int64_t i = 0; i < SCRATCH_FLOATS; i++)
        input[i] = extra[i] = (float)(i * 7919 % 1000 - 500) * 0.002f;
    if (!opt.json)
        printf("level %s, %d threads%s\n", dev->level, opt.n_threads,
               limits_use_cpu_time ? ", processor time" : "");
    run_all();
    if (opt.json && !opt.first) printf("\n]\n");
    limits_end();
    dev->ops->release(dev, input);
    dev->ops->release(dev, output);
    dev->ops->release(dev, extra);
    device_close(&dev);
    return 0;
}
