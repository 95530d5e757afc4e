// Attention of half types with up to 64 features a head: the sizes of its tiles.

#define WIDTH 64
#define FORWARD_BLOCKS 2
#define FORWARD_KEYS 64
#define QUERIES_BLOCKS 2
#define QUERIES_KEYS 64
#define QUERIES_STEP 16
#define KEYS_BLOCKS 2
#define KEYS_QUERIES 64
#define KEYS_STEP 16
#define KEYS_PARTS 1
#define KEYS_RESIDENT 2

#include "attention_half.cuh"
