#define WIDTH 32
#define FORWARD_BLOCKS 2
#define FORWARD_KEYS 64
#define QUERIES_BLOCKS 2
#define QUERIES_KEYS 64
#define QUERIES_STEP 32
#define KEYS_QUERIES 64
#define KEYS_STEP 32
#define KEYS_PARTS 1
#include "attention_half.cuh"
