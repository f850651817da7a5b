/* SPDX-License-Identifier: Apache-2.0
 *
 * llava convert: a checkpoint as loading sees it, written back.
 */
#include "cli.h"

int cmd_convert(const cli_args *args) {
    cli_progress bar;
    llava_error err;
    const llava_load_options options = cli_load_options(args, &bar);
    const llava_status status = llava_convert(&options, args->words.items[1], &err);
    cli_progress_end(&bar);
    if (status != LLAVA_OK) return cli_fail(&err);
    printf("%s\n", args->words.items[1]);
    return 0;
}
