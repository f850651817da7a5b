/* SPDX-License-Identifier: Apache-2.0
 *
 * Streaming replacement: each rule holds back at most the beginning of its text.
 */
#include "text/text_filter.h"

const filter_rule clean_up_rules[] = {
    {" .", "."},     {" ?", "?"},   {" !", "!"},   {" ,", ","},     {" ' ", "'"},
    {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
};
const size_t n_clean_up_rules = LLAVA_COUNT(clean_up_rules);

const filter_rule word_piece_rules[] = {
    {" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},
    {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},   {" do not", " don't"},
    {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
};
const size_t n_word_piece_rules = LLAVA_COUNT(word_piece_rules);

static bool push_from(text_filter *filter, const filter_rule *rules, size_t n_rules, size_t rule,
                      span text, bytes *out);

/* Holds as many characters as could still become the rule's text and passes the others on. */
static bool push_char(text_filter *filter, const filter_rule *rules, size_t n_rules, size_t rule,
                      char c, bytes *out) {
    char *held = filter->held[rule].data;
    size_t *n = &filter->held[rule].size;
    const char *from = rules[rule].from, *to = rules[rule].to;
    held[(*n)++] = c;
    size_t start = 0;
    while (start < *n && memcmp(held + start, from, *n - start) != 0) start++;
    if (*n - start == strlen(from)) { /* start is 0 here */
        *n = 0;
        return push_from(filter, rules, n_rules, rule + 1, span_of(to), out);
    }
    if (!start) return true;
    char passed[FILTER_MAX_TEXT];
    memcpy(passed, held, start);
    *n -= start;
    memmove(held, held + start, *n);
    return push_from(filter, rules, n_rules, rule + 1, (span){passed, start}, out);
}

static bool push_from(text_filter *filter, const filter_rule *rules, size_t n_rules, size_t rule,
                      span text, bytes *out) {
    if (rule == n_rules) return bytes_append(out, text.data, text.size);
    /* all texts begin with a space: without one, and with nothing held, all passes */
    bool idle = !memchr(text.data, ' ', text.size);
    for (size_t i = rule; idle && i < n_rules; i++) idle = !filter->held[i].size;
    if (idle) return bytes_append(out, text.data, text.size);
    for (size_t i = 0; i < text.size; i++)
        if (!push_char(filter, rules, n_rules, rule, text.data[i], out)) return false;
    return true;
}

bool text_filter_push(text_filter *filter, const filter_rule *rules, size_t n_rules,
                      const char *text, size_t size, bytes *out) {
    return !size || push_from(filter, rules, n_rules, 0, (span){text, size}, out);
}

bool text_filter_finish(text_filter *filter, const filter_rule *rules, size_t n_rules, bytes *out) {
    for (size_t rule = 0; rule < n_rules; rule++) {
        const size_t size = filter->held[rule].size;
        filter->held[rule].size = 0;
        if (size && !push_from(filter, rules, n_rules, rule + 1,
                               (span){filter->held[rule].data, size}, out))
            return false;
    }
    return true;
}
