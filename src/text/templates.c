/* SPDX-License-Identifier: Apache-2.0
 *
 * LLaVA-NeXT's conversation templates (llava/conversation.py) as data. The stop texts are ours:
 * the reference's keywords are partly wrong (docs/TEXT.md).
 */
#include "text/text.h"

#define SYSTEM_HUMAN                                                                               \
    "A chat between a curious human and an artificial intelligence assistant. The "                \
    "assistant gives helpful, detailed, and polite answers to the human's questions."
#define SYSTEM_USER                                                                                \
    "A chat between a curious user and an artificial intelligence assistant. The "                 \
    "assistant gives helpful, detailed, and polite answers to the user's questions."
#define SYSTEM_MMTAG                                                                               \
    "A chat between a curious user and an artificial intelligence assistant. The "                 \
    "assistant is able to understand the visual content that the user provides, and "              \
    "assist the user with a variety of tasks using natural language.The visual content "           \
    "will be provided with the following format: <Image>visual content</Image>."
#define SYSTEM_VISION                                                                              \
    "You are a helpful language and vision assistant. You are able to understand the "             \
    "visual content that the user provides, and assist the user with a variety of tasks "          \
    "using natural language."
#define SYSTEM_SIMPLE "Answer the questions about the visual content that the user provides."
#define SYSTEM_SIMPLE_MMTAG                                                                        \
    "Answer the questions about the visual content that the user provides.The visual "             \
    "content will be provided with the following format: <Image>visual content</Image>."
#define SYSTEM_LLAMA_2                                                                             \
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as "           \
    "possible, while being safe.  Your answers should not include any harmful, "                   \
    "unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure that "         \
    "your responses are socially unbiased and positive in nature.\n\n"                             \
    "If a question does not make any sense, or is not factually coherent, explain why "            \
    "instead of answering something not correct. If you don't know the answer to a "               \
    "question, please don't share false information."
#define SYSTEM_MPT                                                                                 \
    "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "            \
    "The assistant gives helpful and honest answers."
#define SYSTEM_ORCA                                                                                \
    "<|im_start|>system\nYou are MistralOrca, a large language model trained by "                  \
    "Alignment Lab AI. Write out your reasoning step-by-step to be sure you get the "              \
    "right answers!"
#define SYSTEM_DIRECT "<|im_start|>system\nAnswer the questions."
#define SYSTEM_ZEPHYR "<|system|>\nYou are a helpful AI assistant."
#define SYSTEM_QWEN   "<|im_start|>system\nYou are a helpful assistant."
#define SYSTEM_QWEN_2_5                                                                            \
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "               \
    "assistant."

static const llava_message energy_preset[] = {
    {0, "What are the key differences between renewable and non-renewable energy sources?"},
    {1, "Renewable energy sources are those that can be replenished naturally in a "
        "relatively short amount of time, such as solar, wind, hydro, geothermal, and "
        "biomass. Non-renewable energy sources, on the other hand, are finite and will "
        "eventually be depleted, such as coal, oil, and natural gas. Here are some key "
        "differences between renewable and non-renewable energy sources:\n"
        "1. Availability: Renewable energy sources are virtually inexhaustible, while "
        "non-renewable energy sources are finite and will eventually run out.\n"
        "2. Environmental impact: Renewable energy sources have a much lower environmental "
        "impact than non-renewable sources, which can lead to air and water pollution, "
        "greenhouse gas emissions, and other negative effects.\n"
        "3. Cost: Renewable energy sources can be more expensive to initially set up, but "
        "they typically have lower operational costs than non-renewable sources.\n"
        "4. Reliability: Renewable energy sources are often more reliable and can be used in "
        "more remote locations than non-renewable sources.\n"
        "5. Flexibility: Renewable energy sources are often more flexible and can be adapted "
        "to different situations and needs, while non-renewable sources are more rigid and "
        "inflexible.\n6. Sustainability: Renewable energy sources are more sustainable over "
        "the long term, while non-renewable sources are not, and their depletion can lead to "
        "economic and social instability.\n"},
};

static const conversation_template templates[] = {
    {.name = "default",
     .style = STYLE_SINGLE,
     .system = SYSTEM_HUMAN,
     .roles = {"Human", "Assistant"},
     .sep = "###",
     .version = "Unknown",
     .preset = energy_preset,
     .n_preset = LLAVA_COUNT(energy_preset),
     .stop = {"###"}},
    {.name = "v0",
     .style = STYLE_SINGLE,
     .system = SYSTEM_HUMAN,
     .roles = {"Human", "Assistant"},
     .sep = "###",
     .version = "Unknown",
     .preset = energy_preset,
     .n_preset = LLAVA_COUNT(energy_preset),
     .stop = {"###"}},
    {.name = "v1",
     .style = STYLE_TWO,
     .system = SYSTEM_USER,
     .roles = {"USER", "ASSISTANT"},
     .sep = " ",
     .sep2 = "</s>",
     .version = "v1",
     .stop = {"</s>"}},
    {.name = "vicuna_v1",
     .style = STYLE_TWO,
     .system = SYSTEM_USER,
     .roles = {"USER", "ASSISTANT"},
     .sep = " ",
     .sep2 = "</s>",
     .version = "v1",
     .stop = {"</s>"}},
    {.name = "llama_2",
     .style = STYLE_LLAMA_2,
     .system = SYSTEM_LLAMA_2,
     .roles = {"USER", "ASSISTANT"},
     .sep = "<s>",
     .sep2 = "</s>",
     .version = "llama_v2",
     .stop = {"</s>"}},
    {.name = "mistral_instruct",
     .style = STYLE_LLAMA_2,
     .system = "",
     .roles = {"USER", "ASSISTANT"},
     .sep = "",
     .sep2 = "</s>",
     .version = "llama_v2",
     .stop = {"</s>"}},
    {.name = "mistral_orca",
     .style = STYLE_MPT,
     .system = SYSTEM_ORCA,
     .roles = {"<|im_start|>user\n", "<|im_start|>assistant\n"},
     .sep = "<|im_end|>",
     .version = "mpt",
     .stop = {"<|im_end|>"}},
    {.name = "mistral_zephyr",
     .style = STYLE_MPT,
     .system = SYSTEM_ZEPHYR,
     .roles = {"<|user|>\n", "<|assistant|>\n"},
     .sep = "</s>",
     .version = "mpt",
     .stop = {"</s>"}},
    {.name = "mistral_direct",
     .style = STYLE_MPT,
     .system = SYSTEM_DIRECT,
     .roles = {"<|im_start|>user\n", "<|im_start|>assistant\n"},
     .sep = "<|im_end|>",
     .version = "mpt",
     .stop = {"<|im_end|>"}},
    {.name = "plain",
     .style = STYLE_PLAIN,
     .system = "",
     .roles = {"", ""},
     .sep = "\n",
     .version = "Unknown",
     .stop = {"\n"}},
    {.name = "v0_plain",
     .style = STYLE_PLAIN,
     .system = "",
     .roles = {"", ""},
     .sep = "\n",
     .version = "Unknown",
     .stop = {"\n"}},
    {.name = "chatml_direct",
     .style = STYLE_MPT,
     .system = SYSTEM_DIRECT,
     .roles = {"<|im_start|>user\n", "<|im_start|>assistant\n"},
     .sep = "<|im_end|>",
     .version = "mpt",
     .stop = {"<|im_end|>"}},
    {.name = "llava_v0",
     .style = STYLE_SINGLE,
     .system = SYSTEM_HUMAN,
     .roles = {"Human", "Assistant"},
     .sep = "###",
     .version = "Unknown",
     .stop = {"###"}},
    {.name = "llava_v0_mmtag",
     .style = STYLE_SINGLE,
     .system = SYSTEM_MMTAG,
     .roles = {"Human", "Assistant"},
     .sep = "###",
     .version = "v0_mmtag",
     .stop = {"###"}},
    {.name = "llava_v1",
     .style = STYLE_TWO,
     .system = SYSTEM_HUMAN,
     .roles = {"USER", "ASSISTANT"},
     .sep = " ",
     .sep2 = "</s>",
     .version = "v1",
     .stop = {"</s>"}},
    {.name = "llava_v1_mmtag",
     .style = STYLE_TWO,
     .system = SYSTEM_MMTAG,
     .roles = {"USER", "ASSISTANT"},
     .sep = " ",
     .sep2 = "</s>",
     .version = "v1_mmtag",
     .stop = {"</s>"}},
    {.name = "llava_llama_2",
     .style = STYLE_LLAMA_2,
     .system = SYSTEM_VISION,
     .roles = {"USER", "ASSISTANT"},
     .sep = "<s>",
     .sep2 = "</s>",
     .version = "llama_v2",
     .stop = {"</s>"}},
    {.name = "llava_llama_3",
     .style = STYLE_LLAMA_3,
     .system = SYSTEM_VISION,
     .roles = {"user", "assistant"},
     .sep = "<|eot_id|>",
     .version = "llama_v3",
     .stop = {"<|eot_id|>", "<|end_of_text|>"}},
    {.name = "llava_llama_2_simple",
     .style = STYLE_LLAMA_2,
     .system = SYSTEM_SIMPLE,
     .roles = {"USER", "ASSISTANT"},
     .sep = "<s>",
     .sep2 = "</s>",
     .version = "llama_v2",
     .stop = {"</s>"}},
    {.name = "llava_llama_2_mmtag",
     .style = STYLE_LLAMA_2,
     .system = SYSTEM_SIMPLE_MMTAG,
     .roles = {"USER", "ASSISTANT"},
     .sep = "<s>",
     .sep2 = "</s>",
     .version = "llama_v2_mmtag",
     .stop = {"</s>"}},
    {.name = "llava_mistral_instruct",
     .style = STYLE_LLAMA_2,
     .system = "",
     .roles = {"USER", "ASSISTANT"},
     .sep = "",
     .sep2 = "</s>",
     .version = "llama_v2",
     .stop = {"</s>"}},
    {.name = "mpt",
     .style = STYLE_MPT,
     .system = SYSTEM_MPT,
     .roles = {"<|im_start|>user\n", "<|im_start|>assistant\n"},
     .sep = "<|im_end|>",
     .version = "mpt",
     .stop = {"<|im_end|>"}},
    {.name = "qwen_1_5",
     .style = STYLE_CHATML,
     .system = SYSTEM_QWEN,
     .roles = {"<|im_start|>user", "<|im_start|>assistant"},
     .sep = "<|im_end|>",
     .version = "qwen",
     .stop = {"<|im_end|>", "<|endoftext|>"}},
    {.name = "qwen_2",
     .style = STYLE_CHATML,
     .system = SYSTEM_QWEN,
     .roles = {"<|im_start|>user", "<|im_start|>assistant"},
     .sep = "<|im_end|>",
     .version = "qwen",
     .stop = {"<|im_end|>", "<|endoftext|>"}},
    {.name = "qwen_2_5",
     .style = STYLE_CHATML,
     .system = SYSTEM_QWEN_2_5,
     .roles = {"<|im_start|>user", "<|im_start|>assistant"},
     .sep = "<|im_end|>",
     .version = "qwen",
     .stop = {"<|im_end|>", "<|endoftext|>"}},
    {.name = "gemma_instruct",
     .style = STYLE_GEMMA,
     .system = "",
     .roles = {"<start_of_turn>user\n", "<start_of_turn>model\n"},
     .sep = "<end_of_turn>\n",
     .version = "gemma",
     .stop = {"<end_of_turn>", "<eos>"}},
};

size_t template_count(void) { return LLAVA_COUNT(templates); }

const conversation_template *template_at(size_t index) {
    return index < LLAVA_COUNT(templates) ? &templates[index] : NULL;
}

const conversation_template *template_find(const char *name) {
    for (size_t i = 0; name && i < LLAVA_COUNT(templates); i++)
        if (!strcmp(name, templates[i].name)) return &templates[i];
    return NULL;
}
