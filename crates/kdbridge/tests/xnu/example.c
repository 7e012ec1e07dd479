/* A kernel extension: a counter, which is counted up when the extension starts. */

#include "kmod.h"

struct kmod_info kmod_info;

int example_count;

static int example_add(int number) {
    example_count += number;
    return example_count;
}

int example_start(struct kmod_info *ki, void *data) {
    for (int i = 1; i < 4; i++) {
        example_add(i);
    }
    return 0;
}

int example_stop(struct kmod_info *ki, void *data) {
    return example_add(-example_count);
}
