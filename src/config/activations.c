/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of activation functions, as transformers' ACT2FN has them.
 */
#include "config.h"

static const struct {
    const char *name;
    activation act;
} names[] = {
    {"silu", ACT_SILU},
    {"swish", ACT_SILU},
    {"gelu", ACT_GELU},
    {"gelu_python", ACT_GELU},
    {"gelu_pytorch_tanh", ACT_GELU_TANH},
    {"gelu_new", ACT_GELU_TANH},
    {"gelu_accurate", ACT_GELU_TANH},
    {"gelu_fast", ACT_GELU_TANH}, /* its constant 0.7978845608 is sqrt(2/pi) to 10 digits */
    {"quick_gelu", ACT_QUICK_GELU},
    {"relu", ACT_RELU},
    {"relu2", ACT_RELU2},
    {"tanh", ACT_TANH},
    {"sigmoid", ACT_SIGMOID},
    {"linear", ACT_NONE},
};

bool activation_parse(const char *name, activation *act) {
    for (size_t i = 0; i < LLAVA_COUNT(names); i++) {
        if (strcmp(names[i].name, name) == 0) {
            *act = names[i].act;
            return true;
        }
    }
    return false;
}

const char *activation_name(activation act) {
    if (act == ACT_NONE) return "none";
    for (size_t i = 0; i < LLAVA_COUNT(names); i++)
        if (names[i].act == act) return names[i].name;
    return "unknown";
}
