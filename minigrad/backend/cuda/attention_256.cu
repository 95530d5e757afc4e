// Attention of half types with up to 256 features a head: the sizes of its tiles.

#define WIDTH 256
#define FORWARD_BLOCKS 1
#define FORWARD_KEYS 32
#define QUERIES_BLOCKS 1
#define QUERIES_KEYS 32
#define QUERIES_STEP 32
#define KEYS_BLOCKS 1
#define KEYS_QUERIES 32
#define KEYS_STEP 32
#define KEYS_PARTS 2
#define KEYS_RESIDENT 1

#include "attention_half.cuh"
