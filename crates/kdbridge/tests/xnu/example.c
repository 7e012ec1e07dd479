/* A kernel extension: a counter and a function that is called by nobody. */

int example_count;

int example_start(int times) {
    for (int i = 0; i < times; i++) {
        example_count += i;
    }
    return example_count;
}
